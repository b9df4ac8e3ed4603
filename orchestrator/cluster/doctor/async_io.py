"""Whether DeepSpeed can compile its way to NVMe disks on this machine, told by what lies there: nothing is compiled."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

HEADERS = ("/usr/include", "/usr/local/include")
LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", *map(str, sorted(Path("/usr/lib").glob("*-linux-*"))))


def lacking(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What is missing, by name; empty when nothing is, or the op was compiled when DeepSpeed was installed."""
    given = os.environ if environment is None else environment
    if _is_built():
        return ()
    prefix = Path(sys.prefix)
    headers = [*_flags(given, "CFLAGS", "-I"), *_paths(given, "CPATH", "CPLUS_INCLUDE_PATH"), prefix / "include"]
    libraries = [*_flags(given, "LDFLAGS", "-L"), *_paths(given, "LIBRARY_PATH"), prefix / "lib"]
    programs = os.pathsep.join([given.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    there = {
        "libaio.h": _has("libaio.h", [*headers, *map(Path, HEADERS)]),
        "libaio.so": _has("libaio.so", [*libraries, *map(Path, LIBRARIES)]),
        "a C++ compiler": bool(shutil.which(given.get("CXX", "c++"), path=programs)),
        "ninja": bool(shutil.which("ninja", path=programs)),
    }
    return tuple(name for name, found in there.items() if not found)


def _is_built() -> bool:
    """Whether DeepSpeed came with the op, as with DS_BUILD_AIO=1 pip install."""
    spec = importlib.util.find_spec("deepspeed")
    folder = Path(spec.origin).parent / "ops" / "aio" if spec and spec.origin else None
    return bool(folder and any(folder.glob("async_io_op*.so")))


def _has(name: str, folders: Iterable[Path]) -> bool:
    return any((folder / name).exists() for folder in folders)


def _paths(environment: Mapping[str, str], *names: str) -> list[Path]:
    return [Path(part) for name in names for part in environment.get(name, "").split(os.pathsep) if part]


def _flags(environment: Mapping[str, str], name: str, flag: str) -> list[Path]:
    words = shlex.split(environment.get(name, ""))
    return [Path(word.removeprefix(flag)) for word in words if word.startswith(flag)]

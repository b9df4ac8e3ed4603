"""A submitted project on a node: its code unpacked, and the packages that it asks for installed, once for each node.

Both lie in a cache under what they are made of, appear whole or not at all, and are made by one process at a time.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib
import os
import platform
import shutil
import site
import socket
import string
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from orchestrator import paths
from orchestrator.errors import MachineError, StorageError
from orchestrator.foundation.storage import open_store

OWN = "orchestrator"
"""Asked for by every project, and there on every node."""
PIP_TIMEOUT_S = 1800.0
BROUGHT = "_environment_of_the_node.pth"
"""Shows the node's own packages to an environment that adds to them."""


def cache() -> Path:
    """Where projects and their packages lie on this node."""
    if own := os.environ.get("ORCHESTRATOR_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestrator"


@functools.cache
def ready(package: str) -> Path:
    """The folder of a project that lies in run storage at `package`; with it, this process can import its packages."""
    folder = unpacked(package)
    add_packages(folder)
    # Ray lets workers import from where its driver does: Python may know that folder as one that is not there.
    importlib.invalidate_caches()
    return folder


# --- code ------------------------------------------------------------------------------------------------------------
def unpacked(package: str) -> Path:
    """The project's code on this node."""
    storage, _, name = package.rpartition("/")
    target = cache() / "projects" / Path(name).stem

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="orchestrator-package-") as scratch:
            try:
                file = open_store(storage).fetch(name, Path(scratch))
            except FileNotFoundError as error:
                raise StorageError(f"The project is not at {package} any more.", "Submit the job again.") from error
            unpack(file, folder)

    return made_once(target, make)


def unpack(file: Path, folder: Path) -> None:
    """Unpack a project, and see to it that it is what its name says."""
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                target = folder / archive.extract(info, folder)
                target.chmod(0o755 if info.external_attr >> 16 & 0o100 else 0o644)
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise StorageError(f"The project {file} cannot be unpacked: {error}.", "Submit the job again.") from error
    if digest(folder, names) != file.stem:
        raise StorageError(f"The project {file} is not what was submitted: its digest is another.")


def digest(folder: Path, names: Iterable[str]) -> str:
    """What the files of a project come to: their names, whether they are programs, and what is in them."""
    whole = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(line(name, is_program(folder / name), found))
    return whole.hexdigest()[:32]


def line(name: str, program: bool, content: str) -> bytes:
    """What one file adds to the digest of a project; `content` is the digest of its own."""
    return f"{name}\0{'x' if program else '-'}\0{content}\n".encode()


def is_digest(name: str) -> bool:
    """Whether a name has the form of a project's digest."""
    return len(name) == 32 and set(name) <= set(string.hexdigits)


def is_program(path: Path) -> bool:
    """Whether its owner may run it."""
    return bool(path.stat().st_mode & 0o100)


# --- packages --------------------------------------------------------------------------------------------------------
def requirements(project: Path) -> list[str]:
    """What a project asks for, line by line: in requirements.txt, or else in pyproject.toml."""
    listed = project / "requirements.txt"
    if listed.is_file():
        lines = [text.partition(" #")[0].strip() for text in listed.read_text(encoding="utf-8").splitlines()]
    else:
        lines = _of_pyproject(project / "pyproject.toml")
    return [each for each in lines if each and not each.startswith("#") and _name(each) != OWN]


def _of_pyproject(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}).get("dependencies", [])
    except tomllib.TOMLDecodeError as error:
        raise MachineError(f"The project's pyproject.toml cannot be read: {error}.") from error
    return [str(each) for each in told]


def _name(requirement: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(requirement).name.lower()
    except InvalidRequirement:
        return ""


def satisfied(requirement: str) -> bool:
    """Whether this process can import what is asked for; of what only pip understands, nobody knows."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:
        return False
    if wanted.marker and not wanted.marker.evaluate():
        return True
    if wanted.url or wanted.extras:
        return False
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def add_packages(project: Path, say: Callable[[str], object] = lambda _: None) -> None:
    """See to it that this process can import all that a project asks for."""
    wanted = requirements(project)
    if not all(satisfied(each) for each in wanted):
        use(packages_for(wanted, project, say))


def packages_for(wanted: list[str], project: Path, say: Callable[[str], object] = lambda _: None) -> Path:
    """The folder with what a project asks for and the node lacks, installed beside the node's own packages."""
    # What only pip understands may mean files of the project.
    place = [] if all(_name(each) for each in wanted) else [str(project)]
    parts = (platform.python_version(), sys.prefix, *_versions_of_the_node(), *wanted, *place)
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def make(folder: Path) -> None:
        say(f"installing what the project asks for: {', '.join(wanted)}")
        _install(folder, wanted, project)

    return site_of(made_once(cache() / "environments" / name, make))


def use(packages: Path) -> None:
    """Let this process, and those that it starts, import what lies there, before anything else."""
    before = list(sys.path)
    site.addsitedir(str(packages))
    sys.path[:] = [path for path in sys.path if path not in before] + before
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{packages}{os.pathsep}{inherited}" if inherited else str(packages)


def site_of(environment: Path) -> Path:
    """Where an environment keeps its packages."""
    major, minor = sys.version_info[:2]
    return environment / "lib" / f"python{major}.{minor}" / "site-packages"


def _versions_of_the_node() -> list[str]:
    """What is installed beside: another torch may need another build of a package."""
    found = metadata.distributions(path=_path_of_the_node())
    return sorted({f"{each.name}=={each.version}" for each in found if each.name})


def _path_of_the_node() -> list[str]:
    """Where the node's packages lie: the same for all its processes, whatever Ray and projects have added to theirs."""
    installed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [path for path in installed if not Path(path).is_relative_to(cache())]


def _install(folder: Path, wanted: list[str], project: Path) -> None:
    venv.EnvBuilder(symlinks=True).create(folder)
    (site_of(folder) / BROUGHT).write_text("".join(f"{path}\n" for path in _path_of_the_node()), encoding="utf-8")
    listed = folder / "requirements.txt"
    listed.write_text("".join(f"{each}\n" for each in wanted), encoding="utf-8")
    pins = paths.pins()
    words = [str(folder / "bin/python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--quiet"]
    words += [*(["-c", str(pins)] if pins else []), "-r", str(listed)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            words, cwd=project, env=environment, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _not_installed(f"pip did not end within {PIP_TIMEOUT_S:g} s") from error
    if done.returncode:
        told = [each for each in done.stderr.splitlines() if each.startswith("ERROR: ")]
        last = (told or done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1]
        raise _not_installed(last.removeprefix("ERROR: ").rstrip("."))


def _not_installed(reason: str) -> MachineError:
    return MachineError(
        f"The project's packages cannot be installed on {socket.gethostname()}: {reason}.",
        "Versions must go with those of the nodes (constraints.txt). Look at requirements.txt or pyproject.toml.",
    )


# --- a cache ---------------------------------------------------------------------------------------------------------
def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, there as a whole or not at all, and made by one process."""
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                _make(target, make)
    except OSError as error:
        raise MachineError(
            f"{target} cannot be made: {error.strerror or error}.", "Name another folder by ORCHESTRATOR_CACHE."
        ) from error
    return target


def _make(target: Path, make: Callable[[Path], None]) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        make(part)
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

"""Orchestrator as it is installed here, as a wheel: from a checkout or from installed files, without a build tool."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import orchestrator
from orchestrator import paths

EPOCH = (2020, 1, 1, 0, 0, 0)
"""All files carry this time, so that equal code makes equal wheels."""
WHEEL = "Wheel-Version: 1.0\nGenerator: orchestrator\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build() -> tuple[str, bytes]:
    """Name and content."""
    distribution = importlib.metadata.distribution("orchestrator")
    info = f"orchestrator-{distribution.version}.dist-info"
    files = {
        **dict(_package()),
        f"{info}/METADATA": (distribution.read_text("METADATA") or "").encode(),
        f"{info}/entry_points.txt": (distribution.read_text("entry_points.txt") or "").encode(),
        f"{info}/WHEEL": WHEEL.encode(),
    }
    record = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
    return f"orchestrator-{distribution.version}-py3-none-any.whl", content.getvalue()


def _package() -> Iterator[tuple[str, bytes]]:
    """Our code, the shipped jobs, configs and pins, under the names that they have when installed."""
    package = Path(orchestrator.__file__).parent
    yield from _folder(package, "orchestrator")
    if paths.shipped_jobs() != package / "jobs":
        yield from _folder(paths.shipped_jobs(), "orchestrator/jobs")
    if not (package / "_conf").is_dir():
        yield from _folder(paths.shipped_conf(), "orchestrator/_conf")
    pins = paths.pins()
    if pins and pins.parent != package:
        yield "orchestrator/_constraints.txt", pins.read_bytes()


def _folder(folder: Path, name: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{name}/{path.relative_to(folder)}", path.read_bytes()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")

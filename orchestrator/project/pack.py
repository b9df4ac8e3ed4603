"""A project as it is sent: which of its files, under which digest, in one file of run storage."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from orchestrator import paths
from orchestrator.errors import ConfigError, StorageError
from orchestrator.foundation.storage import medium, open_store, write_atomically
from orchestrator.project import unpack

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".orchignore")
"""What they name is not sent. Of two that speak of a file the last counts, and that of the deeper folder."""
NEVER = frozenset({".git", ".hg", ".svn", "__pycache__"})
RUN_STORAGE = ((paths.PLAN, paths.RECORD), (paths.PLAN, paths.JOB), ("sweep.json", "ledger.jsonl"))
"""Files by which the folder of a run or a sweep is known, wherever run storage lies or lay."""
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Time of all files in a package: the same files make the same package, whenever they were written."""
SHOWN = 5
MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A project that is ready to be sent."""

    project: Path
    names: tuple[str, ...]
    bytes: int
    digest: str
    links: tuple[str, ...] = ()
    """Links to folders, which are not sent."""
    file: Path | None = None
    """Where it is packed already: it has come from another machine."""

    def write(self, file: Path) -> None:
        """The file that is sent. Refuses a project that somebody has changed meanwhile."""
        with _room_for(file):
            if self.file:
                shutil.copyfile(self.file, file)
            else:
                self._pack(file)

    def _pack(self, file: Path) -> None:
        whole = hashlib.sha256()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name in self.names:
                try:
                    program, data = _content(self.project / name)
                except OSError as error:
                    raise self._changed() from error
                info = zipfile.ZipInfo(name, LONG_AGO)
                info.external_attr = (0o100755 if program else 0o100644) << 16
                archive.writestr(info, data, zipfile.ZIP_DEFLATED, compresslevel=1)
                whole.update(unpack.line(name, program, hashlib.sha256(data).hexdigest()))
        if whole.hexdigest()[:32] != self.digest:
            raise self._changed()

    def _changed(self) -> ConfigError:
        return ConfigError(f"The project {self.project} changed while it was read.", "Submit it again.")

    def store(self, storage: str) -> str:
        """Put it into run storage, unless it is there; where it lies."""
        place = paths.package(storage, self.digest)
        if open_store(storage).exists(f"{paths.PACKAGES}/{self.digest}.zip"):
            return place
        with tempfile.TemporaryDirectory(prefix="orchestrator-package-") as scratch:
            file = Path(scratch) / f"{self.digest}.zip"
            self.write(file)
            keep(file, storage)
        return place


def _content(path: Path) -> tuple[bool, bytes]:
    """Whether a file is a program, and what is in it."""
    return unpack.is_program(path), path.read_bytes()


@contextmanager
def _room_for(file: Path) -> Iterator[None]:
    """Tell of a disk that is full, or cannot be written for other reasons."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The project cannot be packed in {file.parent.parent}: {error.strerror or error}.",
            "Make room there, or name another folder by TMPDIR; then do the same again.",
        ) from error


def keep(file: Path, storage: str) -> None:
    """Put a package into run storage; there is none, or the whole of it."""
    if paths.is_url(storage):
        open_store(storage).upload(file.parent, paths.PACKAGES)
        return
    target = Path(storage) / paths.PACKAGES / file.name
    with medium("write", str(target)):
        write_atomically(target, file.read_bytes())


def received(file: Path, project: Path) -> Package:
    """A project that has come packed. It stays what it was, whatever jobs have left in its folder since."""
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    return Package(project=project, names=tuple(sorted(sizes)), bytes=sum(sizes.values()), digest=file.stem, file=file)


def pack(project: Path, limit: int, storage: str = "") -> Package:
    """Look through a project. `storage`, where runs lie, is not part of it, nor are our own folders, even inside."""
    links: list[str] = []
    sizes = {}
    own = [paths.own_home(), unpack.cache(), *([Path(storage)] if storage and not paths.is_url(storage) else [])]
    for name, path in _walk(project, {place.resolve() for place in own} - {project.resolve()}, links):
        sizes[name] = path.stat().st_size
    total = sum(sizes.values())
    if total > limit:
        raise _too_large(project, sizes, total, limit)
    try:
        digest = unpack.digest(project, sizes)
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be read: {error.strerror}.", _HOW) from error
    return Package(project=project, names=tuple(sorted(sizes)), bytes=total, digest=digest, links=tuple(sorted(links)))


def links_note(links: tuple[str, ...]) -> str:
    """What the user is shown of links that are not sent."""
    shown = ", ".join(links[:SHOWN]) + (f" and {len(links) - SHOWN} more" if len(links) > SHOWN else "")
    return (
        f"Not sent, because links to folders are left out: {shown}. "
        "Name the folders themselves by absolute paths that all nodes can read, or list the links in .orchignore."
    )


_HOW = "What is not to be sent goes into .orchignore, in the form of a .gitignore."


def _walk(project: Path, own: set[Path], links: list[str]) -> Iterator[tuple[str, Path]]:
    rules = Rules(project)
    for root, folders, files in os.walk(project):
        here = Path(root)
        rules.read(here)
        kept = [name for name in folders if not _stays(here / name, own) and rules.sends(here / name, folder=True)]
        links.extend(str((here / name).relative_to(project)) for name in kept if (here / name).is_symlink())
        folders[:] = sorted(kept)
        for name in sorted(files):
            path = here / name
            # What is neither here nor there: sockets, links that lead nowhere.
            if name not in NEVER and path.is_file() and rules.sends(path, folder=False):
                yield path.relative_to(project).as_posix(), path


def _stays(folder: Path, own: set[Path]) -> bool:
    """Whether a folder is no part of a project: a repository's own, an environment, the runs, what we keep."""
    no_part = folder.name in NEVER or (folder / "pyvenv.cfg").is_file() or folder.resolve() in own
    return no_part or _is_of_run_storage(folder)


def _is_of_run_storage(folder: Path) -> bool:
    """Whether it is a run, a sweep, or what lies beside them: what is written there must make no other project."""
    if any(all((folder / name).is_file() for name in names) for names in RUN_STORAGE):
        return True
    if folder.name == paths.TRACKING:
        return (folder / "mlflow.db").is_file()
    return folder.name == paths.PACKAGES and any(unpack.is_digest(file.stem) for file in folder.glob("*.zip"))


class Rules:
    """What the ignore files of a project say, each for its folder and those below."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._read: list[tuple[Path, GitIgnoreSpec]] = []

    def read(self, folder: Path) -> None:
        """Take in the ignore files of a folder, and forget those that do not speak of it."""
        from pathspec import GitIgnoreSpec

        self._read = [(where, spec) for where, spec in self._read if folder.is_relative_to(where)]
        for name in IGNORE_FILES:
            file = folder / name
            if not file.is_file():
                continue
            try:
                self._read.append((folder, GitIgnoreSpec.from_lines(file.read_text(encoding="utf-8").splitlines())))
            except (OSError, ValueError) as error:
                raise ConfigError(f"{file} cannot be read: {error}.", "Its form is that of a .gitignore.") from error

    def sends(self, path: Path, *, folder: bool) -> bool:
        """Whether nothing keeps a file or folder from being sent; the last word counts."""
        word: bool | None = None
        for where, spec in self._read:
            name = path.relative_to(where).as_posix() + ("/" if folder else "")
            if (said := spec.check_file(name).include) is not None:
                word = said
        return not word


def _too_large(project: Path, sizes: dict[str, int], total: int, limit: int) -> ConfigError:
    by_place: Counter[str] = Counter()
    for name, size in sizes.items():
        by_place["/".join(PurePosixPath(name).parts[:2])] += size
    biggest = "\n".join(f"  {size / MIB:8.1f} MiB  {place}" for place, size in by_place.most_common(SHOWN))
    return ConfigError(
        f"The project {project} has {total / MIB:,.1f} MiB to send, and --upload-limit is "
        f"{limit / MIB:,.1f} MiB. Most of it:\n{biggest}",
        f"{_HOW} Data belongs where all nodes read it.",
    )

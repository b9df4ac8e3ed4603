"""Reading and writing a folder of run storage: on a file system, or in any store that fsspec reaches.

A file is there or not there: on file systems it is written under a temporary name, fsynced and renamed. Object stores
cannot append, so there a growing file is a folder of numbered pieces; `append` and `tail` hide the difference.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.errors import StorageError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_atomically(path: Path, data: bytes, *, sync_name: bool = True) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Without `sync_name` the name survives a power cut only once somebody has synced the folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync_name:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Make a folder's content survive a power cut, before a rename says that it is complete."""
    for folder, _, files in os.walk(path):
        for name in files:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))


def open_store(root: str) -> Store:
    """The store for a folder or an fsspec URL."""
    return RemoteStore(root) if paths.is_url(root) else LocalStore(root)


class Store:
    """A folder of run storage. Names are relative, with forward slashes. Errors of the medium are StorageErrors."""

    root: str

    def child(self, name: str) -> Store:
        """The store for a folder inside this one."""
        return open_store(f"{self.root}/{name}")

    def write(self, name: str, text: str) -> None:
        """Write or replace a file, all or nothing."""
        raise NotImplementedError

    def read(self, name: str) -> str:
        """The whole of a file; FileNotFoundError, which is no error of the medium, when it is not there."""
        raise NotImplementedError

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        raise NotImplementedError

    def list(self, name: str = "") -> list[str]:
        """Names of the files and folders directly in a folder, sorted; empty when it is not there."""
        raise NotImplementedError

    def append(self, name: str, text: str) -> None:
        """Add whole lines at the end of a growing file."""
        raise NotImplementedError

    def tail(self, name: str, cursor: int = 0, limit: int | None = None) -> tuple[str, int]:
        """What a growing file got since `cursor` (0: all), in whole lines, and the cursor to go on from. `limit`: about
        so many bytes of it, but at least a line.
        """
        raise NotImplementedError

    def gather(self, name: str, folder: Path) -> Path:
        """A local file with all of a growing file; on a file system that is the file itself."""
        raise NotImplementedError

    def upload(self, folder: Path, name: str) -> None:
        """Copy a local folder here. File systems show it only when it is complete, in place of one of that name; in
        other stores several workers may each add their files to it, and JSON files, which describe others, come last.
        """
        raise NotImplementedError

    def download(self, name: str, folder: Path) -> Path:
        """A local folder with the content of one here; on a file system that is the folder itself. When there is none
        here, there is none at the path returned.
        """
        raise NotImplementedError

    def fetch(self, name: str, folder: Path) -> Path:
        """A local copy of one file; on a file system the file itself. FileNotFoundError when it is not there."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Delete a file or folder; nothing happens when it is not there."""
        raise NotImplementedError

    def check_writable(self) -> None:
        """Refuse early, with the reason, what could not be written later."""
        probe = f".probe-{os.getpid()}"
        try:
            self.write(probe, "probe\n")
            self.remove(probe)
        except StorageError as error:
            raise StorageError(error.message.replace(f"/{probe}", "", 1), error.hint) from error


class LocalStore(Store):
    """On a local or shared file system."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.path = Path(root)

    def write(self, name: str, text: str) -> None:
        with medium("write", f"{self.root}/{name}"):
            write_atomically(self.path / name, text.encode())

    def read(self, name: str) -> str:
        with medium("read", f"{self.root}/{name}", may_be_absent=True):
            return (self.path / name).read_text(encoding="utf-8")

    def exists(self, name: str) -> bool:
        with medium("read", f"{self.root}/{name}"):
            return (self.path / name).exists()

    def list(self, name: str = "") -> list[str]:
        folder = self.path / name
        with medium("read", str(folder)):
            return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def append(self, name: str, text: str) -> None:
        path = self.path / name
        with medium("write", str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+", buffering=0) as file:
                _write_all(file, ("\n" if _ends_inside_a_line(file) else "").encode() + text.encode())

    def tail(self, name: str, cursor: int = 0, limit: int | None = None) -> tuple[str, int]:
        path = self.path / name
        with medium("read", str(path)):
            if not path.is_file():
                return "", cursor
            with path.open("rb") as file:
                file.seek(cursor)
                data = file.read(-1 if limit is None else limit)
                if b"\n" not in data:
                    data += file.readline()
        whole = data[: data.rfind(b"\n") + 1]
        return whole.decode(errors="replace"), cursor + len(whole)

    def gather(self, name: str, folder: Path) -> Path:
        return self.path / name

    def upload(self, folder: Path, name: str) -> None:
        import shutil

        target = self.path / name
        if folder == target:
            return
        temporary = target.with_name(f".{target.name}.part")
        with medium("write", str(target)):
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(folder, temporary)
            sync_tree(temporary)
            self.remove(name)
            temporary.replace(target)
            sync_folder(target.parent)

    def download(self, name: str, folder: Path) -> Path:
        return self.path / name

    def fetch(self, name: str, folder: Path) -> Path:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return path

    def remove(self, name: str) -> None:
        import shutil

        path = self.path / name
        with medium("remove", str(path)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "oci", "memory"})
"""There are no folders to be made in these; to ask for one would make a bucket of a misspelt name."""


class RemoteStore(Store):
    """In a store that fsspec reaches by URL."""

    def __init__(self, root: str) -> None:
        import fsspec

        self.root = root
        if set("*?[") & set(root):
            raise StorageError(f"Storage {root} has one of * ? [ in it, which stores read as a pattern of names.")
        try:
            self.fs, self.base = fsspec.core.url_to_fs(root)
        except (ImportError, ValueError) as error:
            reason = str(error).rstrip(".")
            extra = " For S3: pip install 'orchestrator[s3]'." if isinstance(error, ImportError) else ""
            raise StorageError(f"Storage {root} cannot be reached: {reason}.{extra}") from error
        self._has_folders = root.partition("://")[0].rpartition("::")[2] not in OBJECT_STORES
        self._pieces: dict[str, int] = {}

    def _at(self, name: str) -> str:
        return f"{self.base}/{name}".rstrip("/")

    def _make_parent(self, path: str) -> None:
        if self._has_folders:
            self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)

    def write(self, name: str, text: str) -> None:
        with medium("write", f"{self.root}/{name}"):
            self._make_parent(self._at(name))
            self.fs.pipe_file(self._at(name), text.encode())

    def read(self, name: str) -> str:
        with medium("read", f"{self.root}/{name}", may_be_absent=True):
            data: bytes = self.fs.cat_file(self._at(name))
        return data.decode()

    def exists(self, name: str) -> bool:
        # Not fs.exists(): it takes any trouble for absence, and a run would be overwritten or a checkpoint passed over.
        with medium("read", f"{self.root}/{name}"):
            self.fs.invalidate_cache()
            try:
                self.fs.info(self._at(name))
            except FileNotFoundError:
                return False
        return True

    def list(self, name: str = "") -> list[str]:
        with medium("read", f"{self.root}/{name}"):
            self.fs.invalidate_cache()
            try:
                entries: list[Any] = self.fs.ls(self._at(name), detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def append(self, name: str, text: str) -> None:
        number = self._pieces.get(name)
        if number is None:
            pieces = self.list(name)
            number = int(pieces[-1]) + 1 if pieces else 1
        self.write(f"{name}/{number:08d}", text)
        self._pieces[name] = number + 1

    def tail(self, name: str, cursor: int = 0, limit: int | None = None) -> tuple[str, int]:
        one_by_one = cursor > 0 or limit is not None
        pieces = _up_to(limit, self._pieces_after(name, cursor) if one_by_one else self._all_pieces(name))
        return "".join(pieces), cursor + len(pieces)

    def _pieces_after(self, name: str, last: int) -> Iterator[str]:
        """Pieces have no gaps: the next is asked for by its number, without listing thousands each time."""
        while True:
            last += 1
            try:
                piece = self.read(f"{name}/{last:08d}")
            except FileNotFoundError:
                return
            yield piece

    def _all_pieces(self, name: str) -> Iterator[str]:
        """All pieces there are, asked for at once."""
        places = [self._at(f"{name}/{piece}") for piece in self.list(name)]
        if places:
            with medium("read", f"{self.root}/{name}"):
                found: dict[str, bytes] = self.fs.cat(places)
            yield from (found[place].decode() for place in places)

    def gather(self, name: str, folder: Path) -> Path:
        target = folder / name
        write_atomically(target, "".join(self._all_pieces(name)).encode())
        return target

    def upload(self, folder: Path, name: str) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        with medium("write", f"{self.root}/{name}"):
            for path in sorted(files, key=lambda path: (path.suffix == ".json", path)):
                target = self._at(f"{name}/{path.relative_to(folder)}")
                self._make_parent(target)
                self.fs.put_file(str(path), target)

    def download(self, name: str, folder: Path) -> Path:
        target = folder / name
        if self.exists(name):
            with medium("read", f"{self.root}/{name}"):
                self.fs.get(self._at(name) + "/", f"{target}/", recursive=True)
        return target

    def fetch(self, name: str, folder: Path) -> Path:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with medium("read", f"{self.root}/{name}", may_be_absent=True):
            self.fs.get_file(self._at(name), str(target))
        return target

    def remove(self, name: str) -> None:
        if self.exists(name):
            with medium("remove", f"{self.root}/{name}"):
                self.fs.rm(self._at(name), recursive=True)


def _up_to(limit: int | None, pieces: Iterator[str]) -> list[str]:
    """Pieces until there are `limit` characters of them, or all."""
    taken: list[str] = []
    for piece in pieces:
        taken.append(piece)
        if limit is not None and sum(map(len, taken)) >= limit:
            break
    return taken


def _write_all(file: FileIO, data: bytes) -> None:
    """One write as a rule; a disk that fills up takes a part, and tells the reason only at the next."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _ends_inside_a_line(file: FileIO) -> bool:
    """Whether the writer before us died within a line: what follows must not become part of it."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


@contextmanager
def medium(verb: str, place: str, may_be_absent: bool = False) -> Iterator[None]:
    """Tell trouble with the medium as a StorageError that names the place and the reason."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # a border: each store has errors of its own, and botocore's are no OSErrors
        if may_be_absent and isinstance(error, FileNotFoundError):
            raise
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
        do = "read from" if verb == "read" else "write to"
        hint = f"Set storage.path to a folder or URL you can {do}."
        if getattr(error, "errno", None) in NO_ROOM:
            hint = "Make room there, or set storage.path to another folder or URL."
        raise StorageError(f"Cannot {verb} {place}: {reason}.", hint) from error

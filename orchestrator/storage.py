"""Reading and writing a folder of run storage: on a file system, or in any store that fsspec reaches.

A file is there or not there: on file systems it is written under a temporary name, fsynced and renamed. Object stores
cannot append, so there a growing file is a folder of numbered pieces; `append` and `tail` hide the difference.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from orchestrator import paths
from orchestrator.errors import StorageError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        """The whole of a file; FileNotFoundError when it is not there."""
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

    def tail(self, name: str, cursor: int = 0) -> tuple[str, int]:
        """What a growing file got since `cursor` (0: all), in whole lines, and the cursor to go on from."""
        raise NotImplementedError

    def upload(self, folder: Path, name: str) -> None:
        """Copy a local folder here, so that it is visible only when it is complete."""
        raise NotImplementedError

    def download(self, name: str, folder: Path) -> Path:
        """A local folder with the content of one here; on a file system that is the folder itself."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Delete a file or folder; nothing happens when it is not there."""
        raise NotImplementedError

    def check_writable(self) -> None:
        """Refuse early, with the reason, what could not be written later."""
        probe = f".probe-{os.getpid()}"
        self.write(probe, "probe\n")
        self.remove(probe)


class LocalStore(Store):
    """On a local or shared file system."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.path = Path(root)

    def write(self, name: str, text: str) -> None:
        try:
            write_atomically(self.path / name, text.encode())
        except OSError as error:
            raise _unusable(f"{self.root}/{name}", error) from error

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def list(self, name: str = "") -> list[str]:
        folder = self.path / name
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def append(self, name: str, text: str) -> None:
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                file.write(text.encode())
        except OSError as error:
            raise _unusable(str(path), error) from error

    def tail(self, name: str, cursor: int = 0) -> tuple[str, int]:
        path = self.path / name
        if not path.is_file():
            return "", cursor
        with path.open("rb") as file:
            file.seek(cursor)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        return whole.decode(errors="replace"), cursor + len(whole)

    def upload(self, folder: Path, name: str) -> None:
        import shutil

        target = self.path / name
        if folder == target:
            return
        temporary = target.with_name(f".{target.name}.part")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(folder, temporary)
            self.remove(name)
            temporary.replace(target)
        except OSError as error:
            raise _unusable(str(target), error) from error

    def download(self, name: str, folder: Path) -> Path:
        return self.path / name

    def remove(self, name: str) -> None:
        import shutil

        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class RemoteStore(Store):
    """In a store that fsspec reaches by URL."""

    def __init__(self, root: str) -> None:
        import fsspec

        self.root = root
        try:
            self.fs, self.base = fsspec.core.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise StorageError(f"Storage {root} cannot be reached: {error}.") from error
        self._pieces: dict[str, int] = {}

    def _at(self, name: str) -> str:
        return f"{self.base}/{name}".rstrip("/")

    def _put(self, name: str, data: bytes) -> None:
        try:
            self.fs.makedirs(self._at(name).rsplit("/", 1)[0], exist_ok=True)
            self.fs.pipe_file(self._at(name), data)
        except OSError as error:
            raise _unusable(f"{self.root}/{name}", error) from error

    def write(self, name: str, text: str) -> None:
        self._put(name, text.encode())

    def read(self, name: str) -> str:
        data: bytes = self.fs.cat_file(self._at(name))
        return data.decode()

    def exists(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self._at(name)))

    def list(self, name: str = "") -> list[str]:
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
        self._put(f"{name}/{number:08d}", text.encode())
        self._pieces[name] = number + 1

    def tail(self, name: str, cursor: int = 0) -> tuple[str, int]:
        text = ""
        for piece in self.list(name):
            if int(piece) > cursor:
                text += self.read(f"{name}/{piece}")
                cursor = int(piece)
        return text, cursor

    def upload(self, folder: Path, name: str) -> None:
        try:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    self.fs.makedirs(self._at(f"{name}/{path.relative_to(folder)}").rsplit("/", 1)[0], exist_ok=True)
                    self.fs.put_file(str(path), self._at(f"{name}/{path.relative_to(folder)}"))
        except OSError as error:
            raise _unusable(f"{self.root}/{name}", error) from error

    def download(self, name: str, folder: Path) -> Path:
        target = folder / name
        self.fs.get(self._at(name) + "/", f"{target}/", recursive=True)
        return target

    def remove(self, name: str) -> None:
        if self.exists(name):
            self.fs.rm(self._at(name), recursive=True)


def _unusable(path: str, error: OSError) -> StorageError:
    reason = error.strerror or str(error) or type(error).__name__
    return StorageError(f"Cannot write {path}: {reason}.", "Set storage.path to a folder or URL you can write to.")

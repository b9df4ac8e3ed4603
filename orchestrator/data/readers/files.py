"""Sources that are folders of files: one folder for each class, or a manifest that lists the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.readers import tables
from orchestrator.data.records import NAME, Problem, Record, Records, Source, existing, file_state
from orchestrator.errors import ConfigError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
AUDIO = (".wav", ".flac", ".ogg", ".mp3")
FILE_COLUMNS = ("file", "path", "filename", "file_name", "image", "audio", "wav")
"""How manifests call the column with the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFolders:
    """A folder with one folder for each class, and files below: records have `file` and `label`."""

    path: str
    suffixes: tuple[str, ...]

    def state(self) -> str:
        """Names, sizes and times of change of all files."""
        digest = hashlib.sha256()
        root = existing(self.path, "folder")
        for label, entry, name in self._files(root):
            if entry is not None:
                stat = entry.stat()
                digest.update(f"{label}\0{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
            else:
                digest.update(f"{label}\n".encode())
        return digest.hexdigest()

    def read(self) -> Records:
        """All files in the order of their names; a class without any is a problem."""
        root = existing(self.path, "folder")
        rows: list[Record] = []
        problems: list[Problem] = []
        for label, entry, name in self._files(root):
            if entry is None:
                problems.append(Problem(name=f"{label}/", reason=f"no {_words(self.suffixes)} file in this folder"))
            else:
                rows.append({NAME: name, "file": entry.path, "label": label})
        if not rows:
            raise ConfigError(
                f"No folder in {root} holds a {_words(self.suffixes)} file.",
                "One folder for each class is expected: CLASS/FILE, or train/CLASS/FILE and so on.",
            )
        return Records(rows=rows, problems=problems)

    def _files(self, root: Path) -> Iterator[tuple[str, os.DirEntry[str] | None, str]]:
        """Class, file and name of every file in order, and None for the file of an empty class."""
        if not root.is_dir():
            raise ConfigError(f"{root} is a file, and a folder of class folders is expected.")
        for folder in sorted(os.scandir(root), key=lambda entry: entry.name):
            if not folder.is_dir() or folder.name.startswith("."):
                continue
            empty = True
            for entry in _walk(folder.path):
                if entry.name.lower().endswith(self.suffixes):
                    empty = False
                    yield folder.name, entry, os.path.relpath(entry.path, root)
            if empty:
                yield folder.name, None, ""


def _walk(folder: str) -> Iterator[os.DirEntry[str]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path)
        else:
            yield entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A table of files (CSV, TSV, JSONL, Parquet); its other columns come along. Files are named from its folder."""

    paths: tuple[str, ...]

    def state(self) -> str:
        """The manifest and all files that it lists."""
        present = [path for path in (Path(row["file"]) for row in self.read().rows) if path.exists()]
        return file_state(*(existing(path, "manifest") for path in self.paths), *present)

    def read(self) -> Records:
        """One record for each line; whether its file can be read is found out later."""
        found = [self._read(path) for path in self.paths]
        return Records(
            rows=[row for records in found for row in records.rows],
            problems=[problem for records in found for problem in records.problems],
        )

    def _read(self, path: str) -> Records:
        file = existing(path, "manifest")
        table = tables.Table(paths=(path,)).read()
        column = next((name for name in FILE_COLUMNS if table.rows and name in table.rows[0]), None)
        if column is None:
            has = ", ".join(key for key in (table.rows[0] if table.rows else ()) if key != NAME)
            raise ConfigError(
                f"The manifest {file} has no column with file names; it has: {has or 'nothing'}.",
                f"Call that column one of: {', '.join(FILE_COLUMNS)}.",
            )
        rows = [{**row, "file": str(file.parent / str(row[column]))} for row in table.rows]
        return Records(rows=rows, problems=table.problems)


def by_split(path: str, suffixes: tuple[str, ...]) -> dict[str, Source]:
    """The sources below a path: train/, val/ and test/ (or dev, valid, validation) with class folders, or just these.

    A file is a manifest; files beside it that are named after splits are theirs.
    """
    root = existing(path, "folder or manifest")
    if root.is_file():
        return {"train": Manifest(paths=(str(root),))}
    folders = tables.named_after_splits({entry.name: entry for entry in root.iterdir() if entry.is_dir()})
    if "train" in folders:
        return {split: ClassFolders(path=str(folder), suffixes=suffixes) for split, folder in folders.items()}
    manifests = tables.files_by_split(root)
    if "train" in manifests:
        return {split: Manifest(paths=files) for split, files in manifests.items()}
    return {"train": ClassFolders(path=str(root), suffixes=suffixes)}


def _words(suffixes: tuple[str, ...]) -> str:
    return ", ".join(suffix.removeprefix(".") for suffix in suffixes[:-1]) + f" or {suffixes[-1].removeprefix('.')}"

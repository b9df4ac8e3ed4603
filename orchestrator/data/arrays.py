"""Prepared items on disk: one .npy file for each field, mapped into memory, so that reading one costs microseconds.

A field whose items all have one shape is one array. One whose items differ in their first dimension (`ragged`) is two:
all values one after the other, and where each item begins.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.errors import DataError, StorageError

Array = npt.NDArray[Any]
INDEX = "arrays.json"
OFFSETS = "-offsets"


class ArrayWriter:
    """Writes items one after the other into a new folder; `close` completes it."""

    def __init__(self, folder: Path, ragged: Collection[str]) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._ragged = frozenset(ragged)
        self._files: dict[str, _GrowingFile] = {}
        self._offsets: dict[str, list[int]] = {}
        self._count = 0

    def add(self, item: Mapping[str, Array]) -> None:
        """Append an item; all must have the same fields, types and shapes."""
        if self._count and item.keys() != self._files.keys():
            raise DataError(f"Prepared items differ in their fields: {sorted(item)} and {sorted(self._files)}.")
        for name, value in item.items():
            array = np.asarray(value)
            if name in self._ragged:
                offsets = self._offsets.setdefault(name, [0])
                offsets.append(offsets[-1] + len(array))
            else:
                array = array[None]
            if name not in self._files:
                self._files[name] = _GrowingFile(self._folder / f"{name}.npy", array)
            self._files[name].add(array)
        self._count += 1

    def close(self) -> None:
        """Complete the files and say what there is."""
        for file in self._files.values():
            file.close()
        for name, offsets in self._offsets.items():
            np.save(self._folder / f"{name}{OFFSETS}.npy", np.array(offsets, dtype=np.int64))
        index = {"count": self._count, "fields": {name: name in self._ragged for name in self._files}}
        (self._folder / INDEX).write_text(json.dumps(index) + "\n")

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            for file in self._files.values():
                file.abandon()


class _GrowingFile:
    """A .npy file whose length is known at its end: numpy leaves room for it in the header."""

    def __init__(self, path: Path, first: Array) -> None:
        self._path = path
        self._dtype = first.dtype
        self._shape = first.shape[1:]
        self._rows = 0
        self._file = path.open("wb")
        self._header = self._write_header()

    def add(self, rows: Array) -> None:
        if rows.dtype != self._dtype or rows.shape[1:] != self._shape:
            raise DataError(
                f"Prepared items differ in {self._path.stem}: {rows.dtype}{rows.shape[1:]} after"
                f" {self._dtype}{self._shape}."
            )
        self._file.write(np.ascontiguousarray(rows).tobytes())
        self._rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        if self._write_header() != self._header:
            raise StorageError(f"The header of {self._path} does not take its length of {self._rows} rows.")
        self._file.close()

    def abandon(self) -> None:
        self._file.close()

    def _write_header(self) -> int:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._file, header | {"shape": (self._rows, *self._shape)})
        return self._file.tell()


class Arrays:
    """Reads what ArrayWriter wrote. Sent to another process, it opens the files there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = json.loads((folder / INDEX).read_text())
            self._count: int = index["count"]
            self._ragged: dict[str, bool] = index["fields"]
            self._values = {name: _mapped(folder / f"{name}.npy") for name in self._ragged}
            self._offsets = {
                name: _mapped(folder / f"{name}{OFFSETS}.npy") for name in self._ragged if self._ragged[name]
            }
        except (OSError, ValueError, KeyError) as error:
            raise StorageError(
                f"The prepared data in {folder} cannot be read: {error}.",
                f"Remove {folder.parent} to have it made anew.",
            ) from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Array]:
        """One item's fields, as views of the files."""
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        return {name: self._part(name, index) for name in self._ragged}

    def whole(self, name: str) -> Array:
        """A field of all items: stacked, or one after the other if it is ragged."""
        return self._values[name]

    def _part(self, name: str, index: int) -> Array:
        values = self._values[name]
        if not self._ragged[name]:
            return np.asarray(values[index])
        offsets = self._offsets[name]
        return values[offsets[index] : offsets[index + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        return Arrays, (self.folder,)


def _mapped(file: Path) -> Array:
    array = np.load(file, mmap_mode="r") if file.stat().st_size else np.load(file)
    # A plain view: slicing numpy's memmap class itself takes several times as long.
    plain: Array = array.view(np.ndarray)
    return plain

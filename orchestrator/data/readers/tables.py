"""Sources that are tables or texts: CSV, TSV, JSONL, Parquet, plain text, and local Hugging Face datasets.

A line that cannot be read is a problem with its number, and no reason to refuse the others.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.data.records import NAME, Problem, Record, Records, Source, existing, file_state
from orchestrator.errors import ConfigError, DataError

NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
"""How people call splits."""
ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
"""By the mark that a file begins with."""

T = TypeVar("T")
Row = tuple[str, Record | str]
"""A name, and a record or what is wrong with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Files of rows. Cells of CSV and TSV are text; TSV knows no quotes."""

    paths: tuple[str, ...]
    columns: tuple[str, ...] | None = None
    """Names of the columns of CSV and TSV files that have no line with names."""
    encoding: str | None = None
    """Of text files; null: UTF-8, or UTF-16 where a file begins with its mark."""

    def state(self) -> str:
        """Sizes and times of change."""
        return file_state(*(existing(path, "table") for path in self.paths))

    def read(self) -> Records:
        """All rows, with what is wrong with those that cannot be read."""
        rows: list[Record] = []
        problems: list[Problem] = []
        for path in self.paths:
            for name, found in self._rows(existing(path, "table")):
                if isinstance(found, str):
                    problems.append(Problem(name=name, reason=found))
                else:
                    rows.append({**found, NAME: name})
        return Records(rows=rows, problems=problems)

    def _rows(self, file: Path) -> Iterator[Row]:
        reader = READERS.get(file.suffix.lower())
        if reader is None:
            raise ConfigError(
                f"{file} is no table that can be read.", f"Its name must end in one of: {', '.join(sorted(READERS))}."
            )
        return reader(self, file)


def _csv(table: Table, file: Path) -> Iterator[Row]:
    return _cells(table, file, csv.reader(io.StringIO(_text(file, table.encoding), newline="")))


def _tsv(table: Table, file: Path) -> Iterator[Row]:
    text = io.StringIO(_text(file, table.encoding), newline="")
    return _cells(table, file, csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE))


def _cells(table: Table, file: Path, reader: Any) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    columns = list(table.columns) if table.columns else [name.strip() for name in next(reader, [])]
    if len(set(columns)) < len(columns):
        raise DataError(f"{file} has two columns of one name: {', '.join(columns)}.")
    for cells in reader:
        name = f"{file.name}:{reader.line_num}"
        if not cells:
            continue
        if any(_undecoded(cell) for cell in cells):
            yield name, "not UTF-8 (set data.encoding if all of the file is in another)"
        elif len(cells) != len(columns):
            yield name, f"{len(cells)} cells where there are {len(columns)} columns"
        else:
            yield name, dict(zip(columns, cells, strict=True))


def _jsonl(table: Table, file: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(file, table.encoding).split("\n"), 1):
        if not line.strip():
            continue
        name = f"{file.name}:{number}"
        if _undecoded(line):
            yield name, "not UTF-8"
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield name, f"not JSON: {error}"
            continue
        yield name, row if isinstance(row, dict) else "not a JSON object"


def _parquet(table: Table, file: Path) -> Iterator[Row]:
    from pyarrow import parquet

    return _arrow(file, lambda: parquet.read_table(file))


def _arrow_stream(table: Table, file: Path) -> Iterator[Row]:
    import pyarrow as pa

    return _arrow(file, lambda: pa.ipc.open_stream(pa.memory_map(str(file))).read_all())


def _arrow(file: Path, read: Callable[[], Any]) -> Iterator[Row]:
    import pyarrow as pa

    try:
        content = read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    for number, row in enumerate(content.to_pylist(), 1):
        yield f"{file.name}:{number}", row


READERS: dict[str, Callable[[Table, Path], Iterator[Row]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
    ".arrow": _arrow_stream,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """Text files, one record for each line with its line break; blank lines count too."""

    paths: tuple[str, ...]
    encoding: str | None = None

    def state(self) -> str:
        """Sizes and times of change."""
        return file_state(*(existing(path, "text") for path in self.paths))

    def read(self) -> Records:
        """All lines; those that cannot be decoded are problems."""
        rows: list[Record] = []
        problems: list[Problem] = []
        for path in self.paths:
            file = existing(path, "text")
            for number, line in enumerate(_text(file, self.encoding).splitlines(keepends=True), 1):
                if _undecoded(line):
                    problems.append(Problem(name=f"{file.name}:{number}", reason="not UTF-8"))
                else:
                    rows.append({NAME: f"{file.name}:{number}", "text": line})
        return Records(rows=rows, problems=problems)


def _text(file: Path, encoding: str | None) -> str:
    """A file's text. Bytes that are not UTF-8 stay in it as marks, for the lines that have them to be told."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    marked = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), None)
    try:
        return content.decode(encoding or marked or "utf-8", errors="strict" if encoding else "surrogateescape")
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"{file} cannot be read as data.encoding={encoding or marked}: {error}.") from error


def _undecoded(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def named_after_splits(names: Mapping[str, T]) -> dict[str, T]:
    """Those whose names mean a split, by the split."""
    known = {alias: split for split, aliases in NAMES.items() for alias in aliases}
    return {known[name.lower()]: value for name, value in names.items() if name.lower() in known}


def files_by_split(folder: Path) -> dict[str, tuple[str, ...]]:
    """Tables in a folder whose names begin with a split's: train.tsv, validation-00000-of-00002.parquet."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in READERS and file.is_file():
            (split,) = named_after_splits({re.split(r"[-._]", file.name)[0]: file.name}) or ("",)
            found.setdefault(split, []).append(str(file))
    return {split: tuple(files) for split, files in found.items() if split}


def by_split(path: str, columns: Sequence[str] | None = None, encoding: str | None = None) -> dict[str, Source]:
    """The sources at a path: a table, a folder with tables named after splits, or a local Hugging Face dataset."""
    root = existing(path, "table or folder")
    named = tuple(columns) if columns else None
    if root.is_file():
        return {"train": Table(paths=(str(root),), columns=named, encoding=encoding)}
    files = _saved_splits(root) or files_by_split(root)
    if not files and (root / "data").is_dir():
        files = files_by_split(root / "data")
    if "train" not in files:
        raise ConfigError(
            f"The folder {root} has no training data that can be recognised.",
            "Expected: train.csv (tsv, jsonl, parquet), val.* and test.*, or what datasets.save_to_disk writes.",
        )
    return {split: Table(paths=paths, columns=named, encoding=encoding) for split, paths in files.items()}


def _saved_splits(root: Path) -> dict[str, tuple[str, ...]]:
    """The Arrow files that Hugging Face's `save_to_disk` wrote, of a dataset or of a dict of them."""
    if (root / "dataset_dict.json").is_file():
        folders = named_after_splits({name: root / name for name in _json(root / "dataset_dict.json")["splits"]})
        return {split: _saved(folder) for split, folder in folders.items()}
    return {"train": _saved(root)} if (root / "state.json").is_file() else {}


def _saved(folder: Path) -> tuple[str, ...]:
    state = _json(folder / "state.json")
    if state.get("_indices_files"):
        raise ConfigError(
            f"{folder} was saved with indices that pick its rows.",
            "Save it anew, with its rows in place: dataset.flatten_indices().save_to_disk(...).",
        )
    return tuple(str(folder / entry["filename"]) for entry in state["_data_files"])


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error

"""Sources: folders, manifests, tables, texts, and what is wrong with single items of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from orchestrator.data.readers import files, tables
from orchestrator.data.readers.files import AUDIO, IMAGES, ClassFolders
from orchestrator.data.readers.tables import Lines, Table
from orchestrator.data.records import NAME, Splits
from orchestrator.errors import ConfigError, DataError
from tests.unit.data import makers
from tests.unit.data.makers import InMemory


def names(records) -> list[str]:
    return [row[NAME] for row in records.rows]


def read(path: Path, **settings):
    return Table(paths=(str(path),), **settings).read()


def test_class_folders_are_read_in_order_and_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "a/deep/3.png", "a/.hidden.png", "a/notes.txt", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    records = ClassFolders(path=str(tmp_path), suffixes=IMAGES).read()
    assert names(records) == ["a/deep/3.png", "b/1.jpg", "b/2.PNG"]
    assert [row["label"] for row in records.rows] == ["a", "b", "b"]
    assert not records.problems


def test_an_empty_class_folder_is_counted(tmp_path: Path) -> None:
    makers.photo(tmp_path / "red" / "1.png")
    (tmp_path / "green").mkdir()
    records = ClassFolders(path=str(tmp_path), suffixes=IMAGES).read()
    assert [(problem.name, problem.reason[:10]) for problem in records.problems] == [("green/", "no jpg, jp")]


def test_a_folder_changes_its_state_with_its_files(tmp_path: Path) -> None:
    source = ClassFolders(path=str(makers.photos(tmp_path) / "train"), suffixes=IMAGES)
    states = [source.state(), source.state()]
    makers.photo(tmp_path / "train" / "red" / "new.png")
    states.append(source.state())
    (tmp_path / "train" / "blue" / "0.jpg").write_bytes(b"changed")
    states.append(source.state())
    assert len(set(states)) == 3
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "There is no folder or manifest"),
        (lambda root: root.mkdir(), "No folder in .* holds a jpg, jpeg"),
        (lambda root: makers.photo(root / "1.png"), "No folder in .* holds a jpg, jpeg"),
    ],
)
def test_a_folder_without_photos_is_refused(tmp_path: Path, make, message: str) -> None:
    root = tmp_path / "photos"
    make(root)
    with pytest.raises(ConfigError, match=message):
        files.by_split(str(root), IMAGES)["train"].read()


def test_splits_of_a_folder_are_found_by_their_names(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        makers.photo(tmp_path / split / "red" / "1.png")
    assert sorted(files.by_split(str(tmp_path), IMAGES)) == ["test", "train", "val"]
    assert list(files.by_split(str(tmp_path / "train"), IMAGES)) == ["train"]


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl"])
def test_a_manifest_names_its_files_from_its_own_folder(tmp_path: Path, name: str) -> None:
    rows = [{"path": "wavs/a.wav", "text": "one two"}, {"path": str(tmp_path / "b.wav"), "text": "three"}]
    text = "\n".join(map(json.dumps, rows))
    if not name.endswith("jsonl"):
        comma = "," if name.endswith("csv") else "\t"
        text = "\n".join([comma.join(rows[0]), *(comma.join(row.values()) for row in rows)])
    (tmp_path / name).write_text(text)
    (source,) = files.by_split(str(tmp_path / name), AUDIO).values()
    records = source.read()
    assert [row["file"] for row in records.rows] == [str(tmp_path / "wavs/a.wav"), str(tmp_path / "b.wav")]
    assert [row["text"] for row in records.rows] == ["one two", "three"]
    before = source.state()
    makers.sound(tmp_path / "wavs" / "a.wav", 300)
    assert source.state() != before, "the recordings are part of it"


def test_a_manifest_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("recording,text\na.wav,one\n")
    with pytest.raises(ConfigError, match=r"no column with file names; it has: recording, text"):
        files.by_split(str(tmp_path / "list.csv"), AUDIO)["train"].read()


def test_lines_that_cannot_be_read_are_counted_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'a,b\n1,2\n3\n\n"4,\n4",5\n\xff\xfe,6\n7,8\n')
    records = read(tmp_path / "x.csv")
    assert [dict(row) for row in records.rows] == [
        {"a": "1", "b": "2", NAME: "x.csv:2"},
        {"a": "4,\n4", "b": "5", NAME: "x.csv:6"},
        {"a": "7", "b": "8", NAME: "x.csv:8"},
    ]
    assert [(problem.name, problem.reason[:22]) for problem in records.problems] == [
        ("x.csv:3", "1 cells where there ar"),
        ("x.csv:7", "not UTF-8 (set data.en"),
    ]


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text('a "fine film\t1\nit\'s "bad"\t0\n')
    records = read(tmp_path / "x.tsv", columns=("text", "label"))
    assert [row["text"] for row in records.rows] == ['a "fine film', 'it\'s "bad"']


@pytest.mark.parametrize(
    ("encoding", "setting"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("latin-1", "latin-1"), ("cp1252", "cp1252")],
)
def test_encodings(tmp_path: Path, encoding: str, setting: str | None) -> None:
    (tmp_path / "x.csv").write_bytes("naïve,b\nçafé,1\n".encode(encoding))
    (row,) = read(tmp_path / "x.csv", encoding=setting).rows
    assert row["naïve"] == "çafé"


def test_a_wrong_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("a\nçafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot be read as data.encoding=utf-8"):
        read(tmp_path / "x.csv", encoding="utf-8")


def test_jsonl(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n{"a": \n[1]\n{"a": null}\n')
    records = read(tmp_path / "x.jsonl")
    assert [row["a"] for row in records.rows] == [1, None]
    assert [(problem.name, problem.reason[:8]) for problem in records.problems] == [
        ("x.jsonl:3", "not JSON"),
        ("x.jsonl:4", "not a JS"),
    ]


def test_parquet_in_pieces_named_after_splits(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, values in (("train-00000-of-00002", [1, 2]), ("train-00001-of-00002", [3]), ("test-00000-of-00001", [4])):
        parquet.write_table(pa.table({"a": values}), tmp_path / "data" / f"{name}.parquet")
    found = tables.by_split(str(tmp_path))
    assert {split: [row["a"] for row in source.read().rows] for split, source in found.items()} == {
        "train": [1, 2, 3],
        "test": [4],
    }
    (tmp_path / "data" / "train-00000-of-00002.parquet").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"train-00000-of-00002.parquet cannot be read"):
        found["train"].read()


def saved_dataset(folder: Path, texts: list[str], **state: object) -> None:
    """What `save_to_disk` of Hugging Face's datasets writes."""
    folder.mkdir(parents=True)
    table = pa.table({"text": texts, "label": list(range(len(texts)))})
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    files = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], **state}
    (folder / "state.json").write_text(json.dumps(files))


def test_a_dataset_of_hugging_face_saved_to_disk(tmp_path: Path) -> None:
    saved_dataset(tmp_path / "train", ["a", "b"])
    saved_dataset(tmp_path / "validation", ["c"])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    found = tables.by_split(str(tmp_path))
    assert {split: [row["text"] for row in source.read().rows] for split, source in found.items()} == {
        "train": ["a", "b"],
        "val": ["c"],
    }
    assert [row["text"] for row in tables.by_split(str(tmp_path / "train"))["train"].read().rows] == ["a", "b"]


def test_a_saved_dataset_with_indices_is_refused(tmp_path: Path) -> None:
    saved_dataset(tmp_path / "picked", ["a"], _indices_files=[{"filename": "indices.arrow"}])
    with pytest.raises(ConfigError, match=r"saved with indices.*flatten_indices"):
        tables.by_split(str(tmp_path / "picked"))


def test_text_keeps_its_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"one\n\n\xfftwo\nthree")
    records = Lines(paths=(str(tmp_path / "x.txt"),)).read()
    assert [row["text"] for row in records.rows] == ["one\n", "\n", "three"]
    assert [problem.name for problem in records.problems] == ["x.txt:3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.xlsx", b"PK", "no table that can be read"),
        ("x.csv", b"a,a\n1,2\n", "two columns of one name"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ConfigError, DataError), match=message):
        read(tmp_path / name)


def hundred() -> InMemory:
    return InMemory(rows=tuple({NAME: f"{k % 10}_{k}.wav", "k": k} for k in range(100)))


def test_splits_are_disjoint_and_complete() -> None:
    found = Splits(sources={"train": hundred()}, val_fraction=0.1, test_fraction=0.2, seed=3).read()
    assert {split: len(records.rows) for split, records in found.items()} == {"train": 70, "val": 10, "test": 20}
    together = sorted(row["k"] for records in found.values() for row in records.rows)
    assert together == list(range(100))
    assert found == Splits(sources={"train": hundred()}, val_fraction=0.1, test_fraction=0.2, seed=3).read()
    assert found != Splits(sources={"train": hundred()}, val_fraction=0.1, test_fraction=0.2, seed=4).read()


def test_splits_in_order_take_the_end() -> None:
    found = Splits(sources={"train": hundred()}, val_fraction=0.1, shuffle=False).read()
    assert [row["k"] for row in found["val"].rows] == list(range(90, 100))


def test_splits_by_name_and_by_source_come_before_fractions() -> None:
    splits = Splits(sources={"train": hundred()}, val_fraction=0.25, test_names="[0-1]_*", test_fraction=0.5)
    found = splits.read()
    assert {split: len(records.rows) for split, records in found.items()} == {"train": 60, "val": 20, "test": 20}
    assert {row[NAME][0] for row in found["test"].rows} == {"0", "1"}
    own = Splits(sources={"train": hundred(), "val": hundred()}, val_fraction=0.25).read()
    assert {split: len(records.rows) for split, records in own.items()} == {"train": 100, "val": 100}


def test_splits_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.val_fraction=0.5 and data.test_fraction=0.5"):
        Splits(sources={"train": hundred()}, val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match=r"data.test_names=\*.mp3 fits none of the 100 names"):
        Splits(sources={"train": hundred()}, test_names="*.mp3").read()

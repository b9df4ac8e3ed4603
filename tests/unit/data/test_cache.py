"""The cache of prepared data: reused, made anew when something changes, made once, whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from orchestrator.data import build, cache
from orchestrator.data.arrays import Arrays, ArrayWriter
from orchestrator.data.preparation import Facts, Fields, Items, Preparation
from orchestrator.data.prepared import Prepared, PreparedDataset, is_prepared
from orchestrator.data.readers.tables import Table
from orchestrator.data.records import NAME, Record, Splits, Unreadable
from orchestrator.errors import DataError, StorageError
from tests.unit.data import makers
from tests.unit.data.makers import InMemory


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubled(Preparation):
    """Numbers, doubled; negative ones are unreadable."""

    ragged: ClassVar[frozenset[str]] = frozenset({"digits"})
    times: int = 2
    column: str = "k"

    def preparer(self, facts: Facts) -> Callable[[Record], Fields]:
        def prepare(record: Record) -> Fields:
            number = int(record[self.column])
            if number < 0:
                raise Unreadable("it is negative")
            return {"value": np.array(number * self.times), "digits": np.arange(number % 4)}

        return prepare

    def measure(self, items: Items) -> Facts:
        return {"mean": float(items.whole("value").mean())}

    def reader(self, facts: Facts) -> Callable[[Fields], Any]:
        return lambda fields: (int(fields["value"]) - facts["mean"], fields["digits"].tolist())


def prepared(folder: Path, numbers: list[Any], **settings: Any) -> Prepared:
    rows = tuple({NAME: f"number {k}", "k": k} for k in numbers)
    preparation = Doubled(**{key: settings.pop(key) for key in ("times",) if key in settings})
    splits = Splits(sources={"train": InMemory(rows=rows)})
    return Prepared(splits=splits, preparation=preparation, cache=str(folder), **settings)


def kept(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


def test_prepared_items_are_found_again(tmp_path: Path) -> None:
    with build.using(build.Builder()) as builder:
        first = prepared(tmp_path, [1, 2, 6]).dataset("train")
        again = prepared(tmp_path, [1, 2, 6]).dataset("train")
    assert first is not None
    assert again is not None
    assert [ready.built for ready in builder.used] == [True, False]
    assert [first[k] for k in range(3)] == [again[k] for k in range(3)] == [(-4, [0]), (-2, [0, 1]), (6, [0, 1])]
    assert first.facts == {"mean": 6.0}
    with pytest.raises(IndexError):
        first[3]
    assert prepared(tmp_path, [1, 2, 6]).dataset("val") is None


def test_it_is_made_anew_when_data_or_parameters_change(tmp_path: Path) -> None:
    for numbers, times in (([1, 2], 2), ([1, 3], 2), ([1, 2], 3), ([1, 2], 2)):
        prepared(tmp_path, numbers, times=times).dataset("train")
    assert len(kept(tmp_path)) == 3


def test_it_is_made_anew_when_a_file_or_the_code_changes(tmp_path: Path) -> None:
    code = tmp_path / "own_preparation.py"
    file = makers.table(tmp_path / "x.csv", 20)
    script = f"""
        from orchestrator.data import build
        from orchestrator.data.prepared import Prepared
        from orchestrator.data.records import Splits
        from orchestrator.data.readers.tables import Table
        from own_preparation import Own

        with build.using(build.Builder()) as builder:
            splits = Splits(sources={{"train": Table(paths=({str(file)!r},))}})
            Prepared(splits=splits, preparation=Own(column="price"), cache={str(tmp_path / "cache")!r}).dataset("train")
        print(builder.used[0].built)
    """
    body = "from tests.unit.data.test_cache import Doubled\n\n\nclass Own(Doubled):\n    pass\n"

    def built() -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    code.write_text(body)
    assert [built(), built()] == ["True", "False"]
    code.write_text(body.replace("pass", "more = 1"))
    assert [built(), built()] == ["True", "False"]
    file.write_text(file.read_text() + "1,red,3\n")
    assert [built(), built()] == ["True", "False"]


def test_unreadable_items_are_counted_up_to_a_limit(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, [1, -2, 3, -4], skip_unreadable=1).dataset("train")
    assert caught.value.message == (
        "2 items cannot be used, and data.skip_unreadable=1: number -2 (it is negative); number -4 (it is negative)."
    )
    train = prepared(tmp_path, [1, -2, 3, -4], skip_unreadable=2).dataset("train")
    assert train is not None
    assert len(train) == 2
    assert len(kept(tmp_path)) == 1, "the limit is no reason to prepare it again"


def test_data_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"None of the training items can be used: number -1 \(it is negative\)"):
        prepared(tmp_path, [-1], skip_unreadable=5).dataset("train")
    with pytest.raises(DataError, match="there are none"):
        prepared(tmp_path, []).dataset("train")
    assert kept(tmp_path) == []


def test_a_bug_is_told_with_the_item_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"number x cannot be prepared: ValueError: invalid literal .*test_cache.py:\d+"
    ):
        prepared(tmp_path, [1, "x"], skip_unreadable=5).dataset("train")
    assert kept(tmp_path) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    place = prepared(tmp_path, [1, 2])
    name = f"doubled-{cache.fingerprint(place.splits, place.preparation)}"
    (tmp_path / f".{name}.part" / "train").mkdir(parents=True)
    (tmp_path / f".{name}.part" / "train" / "junk").write_text("half")
    train = place.dataset("train")
    assert train is not None
    assert kept(tmp_path) == [name]
    assert not (tmp_path / name / "train" / "junk").exists()


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Prepared data cannot be kept in .*file/cache"):
        prepared(tmp_path / "file" / "cache", [1]).dataset("train")


def test_torn_arrays_are_refused(tmp_path: Path) -> None:
    prepared(tmp_path, [1, 2]).dataset("train")
    (folder,) = tmp_path.glob("doubled-*")
    (folder / "train" / "value.npy").write_bytes(b"torn")
    with pytest.raises(StorageError, match=r"cannot be read: .*"):
        prepared(tmp_path, [1, 2]).dataset("train")


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    script = f"""
        import sys, time
        from orchestrator.data import build
        from pathlib import Path
        from tests.unit.data.test_cache import prepared

        class Slow(build.Builder):
            def run(self, rows, preparation, facts):
                time.sleep(0.5)
                return super().run(rows, preparation, facts)

        with build.using(Slow()) as builder:
            train = prepared(Path({str(tmp_path)!r}), list(range(50))).dataset("train")
        print(len(train), builder.used[0].built)
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        for _ in range(3)
    ]
    told = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert told == ["50 False", "50 False", "50 True"]


def test_datasets_cross_to_other_processes(tmp_path: Path) -> None:
    train = prepared(tmp_path, [1, 2, 6]).dataset("train")
    sent = pickle.dumps(train)
    assert len(sent) < 2000, "the arrays stay where they are"
    assert pickle.loads(sent)[2] == (6, [0, 1])  # noqa: S301 - our own bytes


def test_a_preview_prepares_a_few_and_keeps_nothing(tmp_path: Path) -> None:
    with build.using(build.Preview()):
        train = prepared(tmp_path, list(range(1000))).dataset("train")
    assert train is not None
    assert 0 < len(train) < 100
    assert train[1][1] == [0]
    assert kept(tmp_path) == []


def test_progress_is_said_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SAY_INTERVAL_S", 0.0)
    said: list[str] = []
    with build.using(build.Builder(said.append)):
        prepared(tmp_path, [1, 2]).dataset("train")
    assert said == ["prepared 1 of 2 train items", "prepared 2 of 2 train items"]


def test_data_callables_say_by_their_annotation_that_they_prepare() -> None:
    def does(split: str) -> PreparedDataset | None: ...

    def does_not(split: str) -> list[int] | None: ...

    assert is_prepared(does)
    assert not is_prepared(does_not)
    assert not is_prepared(len)


def test_arrays_refuse_items_that_differ(tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "a", []) as writer:
        writer.add({"value": np.zeros(3)})
        with pytest.raises(DataError, match="differ in value"):
            writer.add({"value": np.zeros(4)})
        with pytest.raises(DataError, match="differ in their fields"):
            writer.add({"values": np.zeros(3)})


def test_arrays_read_what_was_written(tmp_path: Path) -> None:
    items = [
        {"fixed": np.full((2, 2), k % 256, dtype=np.uint8), "ragged": np.arange(k, dtype=np.int32)} for k in range(300)
    ]
    with ArrayWriter(tmp_path / "a", ["ragged"]) as writer:
        for item in items:
            writer.add(item)
    arrays = Arrays(tmp_path / "a")
    assert len(arrays) == 300
    for k in (0, 1, 17, 299, -1):
        assert {name: value.tolist() for name, value in arrays[k].items()} == {
            name: value.tolist() for name, value in items[k].items()
        }
    assert np.load(tmp_path / "a" / "fixed.npy").shape == (300, 2, 2), "plain files that any program reads"


def test_empty_splits_are_no_splits(tmp_path: Path) -> None:
    splits = Splits(sources={"train": InMemory(rows=({"k": 1},)), "val": InMemory(rows=({"k": -1},))})
    both = Prepared(splits=splits, preparation=Doubled(), cache=str(tmp_path), skip_unreadable=1)
    assert both.dataset("val") is None


def test_a_warm_cache_is_quick(tmp_path: Path) -> None:
    file = makers.table(tmp_path / "x.csv", 20_000)
    splits = Splits(sources={"train": Table(paths=(str(file),))})
    one = Prepared(splits=splits, preparation=Doubled(column="price"), cache=str(tmp_path / "cache"))
    one.dataset("train")
    started = time.perf_counter()
    train = one.dataset("train")
    assert time.perf_counter() - started < 0.2, "the table is not read again"
    assert train is not None
    assert len(train) == 20_000


def test_the_record_is_plain_data(tmp_path: Path) -> None:
    prepared(tmp_path, [1, -2], skip_unreadable=1).dataset("train")
    (file,) = tmp_path.glob("doubled-*/prepared.json")
    record = json.loads(file.read_text())
    assert record["counts"] == {"train": 1}
    assert record["problems"] == [{"name": "number -2", "reason": "it is negative", "split": "train"}]

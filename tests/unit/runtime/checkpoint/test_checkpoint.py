"""Checkpoints: there as a whole or not at all, the right ones kept, progress told as it was."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.errors import StaleAttemptError, StorageError
from orchestrator.foundation.storage import LocalStore, Store, open_store
from orchestrator.runtime.checkpoint import staging
from orchestrator.runtime.checkpoint.catalog import Catalog, Progress, require
from orchestrator.runtime.checkpoint.checkpoint import Checkpoints, Found, Retention, Snapshot
from orchestrator.runtime.checkpoint.shards import MANIFEST, SUMS, Piece, ShardIndex, ShardReader


class Alone:
    """A gang of one."""

    def sum(self, values: list[float]) -> list[float]:
        return values

    def barrier(self) -> None:
        pass


class Threads:
    """A gang of threads."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size)
        self._lock = threading.Lock()
        self._totals: dict[int, list[float]] = {}
        self._round = threading.local()

    def sum(self, values: list[float]) -> list[float]:
        number = getattr(self._round, "number", 0)
        self._round.number = number + 1
        with self._lock:
            total = self._totals.setdefault(number, [0.0] * len(values))
            total[:] = [a + b for a, b in zip(total, values, strict=True)]
        self.barrier()
        return list(self._totals[number])

    def barrier(self) -> None:
        self._barrier.wait(20)


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(staging, "REMOTE_LOOK_S", 0.01)
    # Not memory://, whose readers in several threads share one place in a file.
    return open_store(f"{'file://' if request.param == 'url' else ''}{tmp_path}/checkpoints")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "checkpoints"))


def checkpoints(store: Store, *, attempt: int = 1, keep: int = 3, **options: Any) -> Checkpoints:
    options.setdefault("gang", Alone())
    options.setdefault("rank", 0)
    options.setdefault("world_size", 1)
    retention = Retention(keep=keep, keep_every=options.pop("keep_every", None))
    return Checkpoints(store, attempt=attempt, retention=retention, **options)


def snapshot(value: float, *, begin: int = 0, count: int = 4, whole: int = 4) -> Snapshot:
    piece = Piece(name="model/w", shape=(whole,), values=torch.full((count,), value), begin=begin)
    return Snapshot(pieces=[piece], scalars={}, about={"mesh": {"data": 1}, "scaler": {}, "aliases": {}})


def save(saved: Checkpoints, step: int, value: float = 0.0, **progress: Any) -> str:
    name = saved.save(Progress(step=step, **progress), snapshot(value))
    assert saved.settle() == [name]
    return name


def newest(found: Checkpoints) -> tuple[Found, list[float]]:
    content: list[float] = []

    def take(reader: ShardReader) -> None:
        content[:] = reader.whole("model/w").tolist()

    return found.load_newest(take), content


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_is_saved_is_loaded(store: Store, asynchronous: bool) -> None:
    saved = checkpoints(store, asynchronous=asynchronous)
    assert saved.catalog.last() is None
    assert newest(saved)[0] == Found()
    assert save(saved, 4, 0.5) == "step-00000004-a1"
    found, content = newest(checkpoints(open_store(store.root), attempt=2))
    assert (found.name, found.progress) == ("step-00000004-a1", Progress(step=4))
    assert content == [0.5] * 4
    assert store.read("latest") == "step-00000004-a1\n"


def test_the_newest_counts_by_its_step(store: Store) -> None:
    saved = checkpoints(store, keep=10)
    for step in (8, 100, 9):
        save(saved, step)
    assert saved.catalog.names() == ["step-00000008-a1", "step-00000009-a1", "step-00000100-a1"]


def test_training_may_change_its_state_while_a_checkpoint_is_written(local: LocalStore) -> None:
    saved = checkpoints(local)
    state = snapshot(1.0)
    saved.warm(state)
    for step in (1, 2):
        state.pieces[0].values.fill_(step)
        saved.save(Progress(step=step), state)
        state.pieces[0].values.fill_(-1)
    saved.settle()
    assert newest(saved)[1] == [2.0] * 4


def test_all_workers_write_into_one_checkpoint_and_any_number_reads_it(store: Store) -> None:
    gang = Threads(3)

    def work(rank: int) -> None:
        mine = checkpoints(open_store(store.root), rank=rank, world_size=3, gang=gang)
        mine.begin()
        mine.save(Progress(step=2), snapshot(float(rank), begin=2 * rank, count=2, whole=6))
        mine.settle()

    in_threads(work, 3)
    assert newest(checkpoints(store))[1] == [0, 0, 1, 1, 2, 2]
    read: dict[int, list[float]] = {}
    pair = Threads(2)
    in_threads(
        lambda rank: read.update(
            {rank: newest(checkpoints(open_store(store.root), rank=rank, world_size=2, gang=pair))[1]}
        ),
        2,
    )
    assert read == {0: [0, 0, 1, 1, 2, 2], 1: [0, 0, 1, 1, 2, 2]}


def in_threads(work: Callable[[int], None], count: int) -> None:
    errors: list[BaseException] = []

    def guarded(rank: int) -> None:
        try:
            work(rank)
        except BaseException as error:  # noqa: BLE001  a thread boundary: asserted below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors


def test_a_worker_is_done_with_its_part_before_rank_0_can_rename_the_folder(local: LocalStore) -> None:
    """A commit that comes the moment the last index is there, as it does between busy processes."""
    for number in range(150):
        staged = staging.LocalStaging(local, f"step-{number:08d}-a1")
        failed: list[BaseException] = []

        def put(staged: staging.LocalStaging = staged, failed: list[BaseException] = failed) -> None:
            try:
                staged.put(1, lambda file: ShardIndex(size=0, sha256="", tensors={}, scalars={}))
            except BaseException as error:  # noqa: BLE001  a thread's boundary
                failed.append(error)

        writer = threading.Thread(target=put)
        writer.start()
        while not failed and staged.index(1) is None:
            pass
        staged.commit({})
        writer.join()
        assert failed == []


def test_without_all_workers_files_there_is_no_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "WAIT_S", 0.2)
    save(checkpoints(store), 2, 0.25)
    torn = checkpoints(store, rank=0, world_size=2)
    torn.save(Progress(step=4), snapshot(0.5))
    with pytest.raises(StorageError, match="Workers 1 have not written their part"):
        torn.settle()
    assert newest(checkpoints(store))[1] == [0.25] * 4


def test_a_crash_in_the_commit_itself_leaves_the_older_one(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = checkpoints(local)
    save(saved, 2, 0.25)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        saved.save(Progress(step=4), snapshot(0.5))
        with pytest.raises(KeyboardInterrupt):
            saved.settle()
    assert checkpoints(local).catalog.names() == ["step-00000002-a1"]


def test_what_a_dead_attempt_left_gets_into_no_checkpoint_and_is_removed(store: Store) -> None:
    save(checkpoints(store), 2)
    store.write("notes.txt", "mine")
    store.write("step-00000009-a1/rank-00000.safetensors", "torn")
    store.write(".writing-step-00000010-a1/rank-00000.safetensors", "torn")
    resumed = checkpoints(store, attempt=2)
    resumed.begin()
    assert resumed.catalog.names() == ["step-00000002-a1"]
    left = [name for name in store.list() if not name.startswith((".orch", "."))]
    assert left == ["fence.json", "latest", "notes.txt", "step-00000002-a1"]


def test_a_stale_attempt_can_add_nothing(store: Store) -> None:
    old = checkpoints(store, attempt=1)
    old.begin()
    save(old, 2, 0.25)
    new = checkpoints(store, attempt=2)
    new.begin()
    old.save(Progress(step=4), snapshot(0.5))
    with pytest.raises(StaleAttemptError, match="Attempt 1 of this run saves nothing more: attempt 2 has taken over"):
        old.settle()
    with pytest.raises(StaleAttemptError):
        checkpoints(store, attempt=1).begin()
    assert new.catalog.names() == ["step-00000002-a1"]
    save(new, 4, 0.75)
    assert newest(checkpoints(store, attempt=3))[1] == [0.75] * 4


def test_a_commit_of_a_stale_attempt_that_looked_at_the_fence_too_early_counts_for_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = checkpoints(store, attempt=1), checkpoints(store, attempt=2)
    old.begin()
    new.begin()
    monkeypatch.setattr(Catalog, "check_fence", lambda self, attempt: None)
    save(old, 4, 0.5)
    monkeypatch.undo()
    assert new.catalog.names() == []
    new.begin()
    assert not store.exists("step-00000004-a1")


def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(local: LocalStore) -> None:
    saved = checkpoints(local)
    for step in (1, 2, 3):
        save(saved, step, step / 4)
    for step, name in ((3, "rank-00000.safetensors"), (2, MANIFEST)):
        file = local.path / f"step-0000000{step}-a1" / name
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    resumed = checkpoints(local, attempt=2)
    resumed.begin()
    found, content = newest(resumed)
    assert (found.progress.step, content) == (1, [0.25] * 4)
    assert found.passed_over == [
        "checkpoint step-00000003-a1 is passed over: rank-00000.safetensors or its index is not as it was written",
        "checkpoint step-00000002-a1 is passed over: manifest.json is not as it was written (SHA-256)",
    ]
    assert resumed.catalog.names() == ["step-00000001-a1"]


def test_when_all_are_damaged_nothing_is_begun_anew_in_silence(local: LocalStore) -> None:
    name = save(checkpoints(local), 1)
    (local.path / name / MANIFEST).unlink()
    with pytest.raises(StorageError, match=r"None of the 1 checkpoints .* is whole: .*manifest.json is missing"):
        newest(checkpoints(local, attempt=2))


def test_every_flipped_byte_is_noticed(local: LocalStore) -> None:
    name = save(checkpoints(local), 1, 0.5)
    for file in sorted((local.path / name).iterdir()):
        data = file.read_bytes()
        for place in range(len(data)):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with Catalog(local).opened(name) as checkpoint:
                assert checkpoint.whole_damage(), (file.name, place)
        file.write_bytes(data)
    with Catalog(local).opened(name) as checkpoint:
        assert checkpoint.whole_damage() is None


def test_a_flipped_byte_anywhere_in_a_large_one_leads_to_the_one_before(local: LocalStore) -> None:
    saved = checkpoints(local)
    saved.begin()
    for step in (1, 2):
        saved.save(Progress(step=step), snapshot(step / 4, count=130_000, whole=130_000))
        saved.settle()
    name, fence = "step-00000002-a1", local.path / "fence.json"
    known = fence.read_bytes()
    for file in sorted((local.path / name).iterdir()):
        data = bytearray(file.read_bytes())
        for place in range(0, len(data), 4096):
            data[place] ^= 1
            file.write_bytes(data)
            found, content = newest(checkpoints(local, attempt=2))
            assert (found.progress.step, content[0]) == (1, 0.25), (file.name, place)
            assert name in found.passed_over[0]
            data[place] ^= 1
            fence.write_bytes(known)  # which says by now that the damaged one does not count
        file.write_bytes(data)
    assert newest(checkpoints(local, attempt=2))[0].name == name


def test_the_sums_are_those_of_sha256sum(local: LocalStore) -> None:
    import subprocess

    name = save(checkpoints(local), 1, 0.5)
    checked = subprocess.run(["sha256sum", "-c", SUMS], cwd=local.path / name, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count(": OK") == 3


@pytest.mark.parametrize(
    ("keep", "best", "every", "kept"),
    [
        (1, None, None, [5]),
        (2, None, None, [4, 5]),
        (2, 1, None, [1, 4, 5]),
        (2, 4, None, [4, 5]),
        (2, 5, None, [4, 5]),
        (9, 2, None, [1, 2, 3, 4, 5]),
        (1, None, 2, [2, 4, 5]),
        (1, None, 3, [3, 5]),
        (1, 1, 4, [1, 4, 5]),
    ],
)
def test_the_newest_the_best_and_milestones_are_kept(
    store: Store, keep: int, best: int | None, every: int | None, kept: list[int]
) -> None:
    saved = checkpoints(store, keep=keep, keep_every=every)
    for step in range(1, 6):
        save(saved, step, best_step=min(best, step) if best is not None else None)
    assert saved.catalog.names() == [f"step-{step:08d}-a1" for step in kept]


def test_a_full_disk_is_told_before_anything_is_written(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = checkpoints(local)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda place: staging.shutil._ntuple_diskusage(100, 92, 8))
    with pytest.raises(StorageError, match=r"A checkpoint takes 1.6e-08 GB, and .* has 8e-09 GB left") as caught:
        saved.save(Progress(step=1), snapshot(1.0))
    assert "checkpoint.keep" in caught.value.hint


def test_trouble_with_the_disk_is_raised_at_the_next_look(local: LocalStore) -> None:
    saved = checkpoints(local)
    local.path.mkdir()
    (local.path / ".writing-step-00000001-a1").write_text("a file is in the way")
    saved.save(Progress(step=1), snapshot(1.0))
    with pytest.raises(StorageError, match=r"Cannot write .*\.writing-step-00000001-a1"):
        saved.settle()


@pytest.mark.parametrize("best", [None, 0.5, math.inf, -math.inf])
def test_progress_comes_back_as_it_was_and_is_plain_json(store: Store, best: float | None) -> None:
    progress = Progress(
        step=7,
        best=best,
        best_step=3,
        best_metrics={"val/loss": math.inf, "val/accuracy": 0.5, "val/mae": 1.0},
        stale=2,
        evaluated_step=6,
    )
    saved = checkpoints(store)
    name = saved.save(progress, snapshot(0))
    saved.settle()
    assert saved.catalog.progress(name) == progress

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(store.read(f"{name}/{MANIFEST}"), parse_constant=refuse)


def test_nan_comes_back_as_nan(store: Store) -> None:
    saved = checkpoints(store)
    name = save(saved, 1, best_metrics={"val/mae": math.nan})
    assert math.isnan(saved.catalog.progress(name).best_metrics["val/mae"])


def test_a_checkpoint_is_named_by_its_step_or_in_full(store: Store) -> None:
    saved = checkpoints(store)
    with pytest.raises(StorageError, match=r"There is no checkpoint in .*\. The run has not saved one yet"):
        require(saved.catalog, None)
    for step in (2, 4):
        save(saved, step)
    assert require(saved.catalog, None) == "step-00000004-a1"
    assert require(saved.catalog, "2") == require(saved.catalog, "step-00000002-a1") == "step-00000002-a1"
    with pytest.raises(StorageError, match=r"no checkpoint 3 in .*There are: step-00000002-a1, step-00000004-a1"):
        require(saved.catalog, "3")

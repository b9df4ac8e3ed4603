"""Checkpoints: there as a whole or not at all, the right ones kept, progress told as it was."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import PlanError
from orchestrator.runtime.checkpoint import STATE, Checkpoints, Progress
from orchestrator.storage import LocalStore, Store, open_store


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "checkpoints") if request.param == "folder" else f"memory://{tmp_path.name}/c")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "checkpoints"))


def checkpoints(
    store: Store, *, rank: int = 0, world_size: int = 1, keep: int = 3, barrier: Callable[[], None] = lambda: None
) -> Checkpoints:
    return Checkpoints(store, rank=rank, world_size=world_size, barrier=barrier, keep=keep)


def writes(text: str, rank: int = 0) -> Callable[[Path, str], None]:
    """Like DeepSpeed: files of this rank, in a folder of the tag's name."""

    def write(folder: Path, tag: str) -> None:
        (folder / tag).mkdir(parents=True, exist_ok=True)
        (folder / tag / f"rank-{rank}.pt").write_text(text)

    return write


def read_back(found: Checkpoints, name: str) -> dict[str, str]:
    content: dict[str, str] = {}

    def read(folder: Path, tag: str) -> None:
        content.update({path.name: path.read_text() for path in (folder / tag).iterdir() if path.name != STATE})

    found.load(name, read)
    return content


def test_what_is_saved_is_loaded(store: Store) -> None:
    saved = checkpoints(store)
    assert saved.last() is None
    assert saved.save(Progress(step=4), writes("weights")) == "step-00000004"
    found = checkpoints(open_store(store.root))
    assert found.last() == "step-00000004"
    assert read_back(found, "step-00000004") == {"rank-0.pt": "weights"}
    assert found.progress("step-00000004") == Progress(step=4)


def test_the_newest_counts_by_its_step(store: Store) -> None:
    saved = checkpoints(store, keep=10)
    for step in (8, 100, 9):
        saved.save(Progress(step=step), writes("x"))
    assert saved.names() == ["step-00000008", "step-00000009", "step-00000100"]
    assert saved.last() == "step-00000100"


def test_all_workers_write_into_one_checkpoint(store: Store) -> None:
    meeting = threading.Barrier(3)
    workers = [
        threading.Thread(
            target=lambda rank: checkpoints(
                open_store(store.root), rank=rank, world_size=3, barrier=lambda: void(meeting.wait(10))
            ).save(Progress(step=2), writes(f"part {rank}", rank)),
            args=(rank,),
        )
        for rank in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    found = checkpoints(store, world_size=3)
    assert read_back(found, "step-00000002") == {f"rank-{rank}.pt": f"part {rank}" for rank in range(3)}


def void(_: object) -> None:
    """Barriers return a number; ours return nothing."""


def test_a_crash_while_writing_leaves_the_older_one(store: Store) -> None:
    saved = checkpoints(store)
    saved.save(Progress(step=2), writes("older"))

    def crash(folder: Path, tag: str) -> None:
        writes("half")(folder, tag)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saved.save(Progress(step=4), crash)
    assert checkpoints(store).names() == ["step-00000002"]


def test_a_crash_between_write_and_commit_leaves_the_older_one(store: Store) -> None:
    checkpoints(store).save(Progress(step=2), writes("older"))

    def crash() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints(store, barrier=crash).save(Progress(step=4), writes("newer"))
    found = checkpoints(store)
    assert found.names() == ["step-00000002"]
    assert read_back(found, "step-00000002") == {"rank-0.pt": "older"}


def test_a_crash_in_the_commit_itself_leaves_the_older_one(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = checkpoints(local)
    saved.save(Progress(step=2), writes("older"))

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            saved.save(Progress(step=4), writes("newer"))
    assert checkpoints(local).names() == ["step-00000002"]


def test_what_a_dead_attempt_left_gets_into_no_checkpoint(store: Store) -> None:
    """It may have had more workers: their files would be taken for part of ours."""

    def crash() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints(store, rank=3, world_size=4, barrier=crash).save(Progress(step=4), writes("torn", rank=3))
    checkpoints(store).save(Progress(step=2), writes("whole"))
    resumed = checkpoints(store)
    resumed.clear_unfinished()
    assert resumed.names() == ["step-00000002"]
    resumed.save(Progress(step=4), writes("new"))
    assert read_back(resumed, "step-00000004") == {"rank-0.pt": "new"}


def test_clearing_removes_nothing_of_others(store: Store) -> None:
    store.write("notes.txt", "mine")
    store.write("step-00000009/rank-0.pt", "torn")
    checkpoints(store).save(Progress(step=2), writes("whole"))
    checkpoints(store).clear_unfinished()
    assert [name for name in store.list() if not name.startswith(".")] == ["notes.txt", "step-00000002"]


def test_a_folder_without_state_is_no_checkpoint(store: Store) -> None:
    store.write("step-00000009/rank-0.pt", "torn")
    assert checkpoints(store).names() == []


def test_saving_a_step_again_changes_nothing(store: Store) -> None:
    saved = checkpoints(store)
    saved.save(Progress(step=4), writes("first"))
    saved.save(Progress(step=4), writes("second"))
    assert read_back(saved, "step-00000004") == {"rank-0.pt": "first"}


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [(1, None, [5]), (2, None, [4, 5]), (2, 1, [1, 4, 5]), (2, 4, [4, 5]), (2, 5, [4, 5]), (9, 2, [1, 2, 3, 4, 5])],
)
def test_the_newest_and_the_best_are_kept(store: Store, keep: int, best: int | None, kept: list[int]) -> None:
    saved = checkpoints(store, keep=keep)
    for step in range(1, 6):
        progress = Progress(step=step, best_step=best if best is not None and best <= step else None)
        if best is not None and best > step:
            progress.best_step = step
        saved.save(progress, writes("x"))
    assert saved.names() == [f"step-{step:08d}" for step in kept]


def test_another_number_of_workers_is_refused_with_the_way_out(store: Store) -> None:
    checkpoints(store, world_size=4).save(Progress(step=2), writes("x"))
    with pytest.raises(PlanError, match=r"step-00000002 was saved by 4 workers and cannot be loaded by 2\. ") as caught:
        checkpoints(store, world_size=2).progress("step-00000002")
    assert caught.value.hint == "Resume with cluster.workers=4."


@pytest.mark.parametrize("best", [None, 0.5, math.inf, -math.inf])
def test_progress_comes_back_as_it_was_and_is_plain_json(store: Store, best: float | None) -> None:
    progress = Progress(
        step=7,
        best=best,
        best_step=3,
        best_metrics={"val/loss": math.inf, "val/accuracy": 0.5},
        stale=2,
        evaluated_step=6,
    )
    saved = checkpoints(store)
    name = saved.save(progress, writes("x"))
    assert saved.progress(name) == progress

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(store.read(f"{name}/{STATE}"), parse_constant=refuse)


def test_nan_comes_back_as_nan(store: Store) -> None:
    saved = checkpoints(store)
    name = saved.save(Progress(step=1, best_metrics={"val/mae": math.nan}), writes("x"))
    assert math.isnan(saved.progress(name).best_metrics["val/mae"])

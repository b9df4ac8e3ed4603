"""Runs that are cut and go on: to the bit with as many workers, and with others from the very same state."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from orchestrator import paths
from orchestrator.cli.main import main
from orchestrator.config.targets import targets
from orchestrator.foundation.storage import LocalStore
from orchestrator.models import pyfunc
from orchestrator.plans.types import Plan
from orchestrator.records import events
from orchestrator.runtime.checkpoint.catalog import Catalog
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from orchestrator.runtime.worker.context import Launch
from orchestrator.runtime.worker.data.sampler import permutation
from tests.integration.checkpoint.cuts import STRATEGIES, difference_after_kill, make_project, mixed, state_of
from tests.integration.training import carry_out

pytestmark = [pytest.mark.matrix(3), pytest.mark.usefixtures("forked_workers")]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_killed_anywhere_goes_on_to_the_bit_from_other_weights(strategy: str) -> None:
    assert difference_after_kill(strategy, seed=0) is None


def attempt(root: Path, plan: Plan, number: int, workers: int, entry: str = "", **environment: str) -> None:
    """One attempt at a run, in processes of its own."""
    options = {"entry": entry} if entry else {}
    launch = Launch(
        run_id="run",
        attempt=number,
        root=str(root),
        project=str(Path.cwd()),
        world_size=workers,
        plan=plan.to_dict(),
        **options,
    )
    root.mkdir(exist_ok=True)
    launcher = TorchrunLauncher()
    try:
        with mock.patch.dict(os.environ, environment):
            launcher.start(launch, plan.resources)
        deadline = time.monotonic() + 180
        while (ended := launcher.poll()) is None:
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.05)
        logs = "".join(path.read_text()[-4000:] for path in sorted((root / paths.LOGS).iterdir()))
        assert not ended.error, ended.error + logs
    finally:
        launcher.close()


RESHARDED = {
    "zero1": [("zero1", 1), ("zero1", 2), ("zero1", 3)],
    "zero2": [("zero2", 1), ("zero2", 2), ("zero3", 3)],
    "zero3": [("zero3", 1), ("zero3", 2), ("ddp", 1), ("zero3", 3)],
    "ddp": [("ddp", 1), ("zero3_offload", 2), ("zero2_offload", 1), ("ddp", 2)],
}


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [("zero1", "bf16"), ("zero2", "fp32"), ("zero3", "bf16"), ("ddp", "fp32")],
)
def test_state_is_the_same_to_the_bit_with_other_numbers_of_workers_and_strategies(
    strategy: str, precision: str, tmp_path: Path
) -> None:
    norm = [] if precision == "fp32" else [f"precision={precision}"]
    root = tmp_path / "run"
    attempt(root, mixed(f"strategy={strategy}", "job.steps=3", *norm), 1, 2)
    first = state_of(root)
    assert sum(name.startswith("optimizer/exp_avg_sq/") for name in first) == 10
    assert len([name for name in first if name.startswith("model/")]) == 14
    for number, (name, workers) in enumerate(RESHARDED[strategy], start=2):
        again = mixed(f"strategy={name}", f"cluster.workers={workers}", *norm)
        attempt(root, again, number, workers, "tests.integration.checkpoint.state_probe:save_again", DISTURB="1")
        assert state_of(root) == first, (name, workers)


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_no_sample_is_lost_or_repeated_when_the_number_of_workers_changes(strategy: str, tmp_path: Path) -> None:
    elastic, steady = tmp_path / "elastic", tmp_path / "steady"
    for number, (workers, steps) in enumerate([(2, 5), (1, 11), (2, 16)], start=1):
        # As many samples in each forward pass: batch norm tells the difference.
        factors = [f"cluster.workers={workers}", "accumulation=null", "micro_batch=3", "++model.dropout=0"]
        plan = mixed(f"strategy={strategy}", f"job.steps={steps}", *factors)
        disturb = {"DISTURB": "1"} if number > 1 else {}
        attempt(elastic, plan, number, workers, SAMPLES=f"{tmp_path}/{number}-", **disturb)
    attempt(steady, plan, 1, 2)
    assert used(tmp_path) == [permutation(90, 0, epoch)[k] for epoch in (0, 1, 2) for k in range(90)][: 16 * 12]
    changed, expected = ([*losses(root).values()] for root in (elastic, steady))
    assert changed[:5] == expected[:5]
    assert changed == pytest.approx(expected, rel=1e-5)


def used(folder: Path) -> list[int]:
    """Sample numbers in the order of the stream: micro-batch after micro-batch, worker after worker."""
    found: list[int] = []
    for number in (1, 2, 3):
        files = sorted(folder.glob(f"{number}-*"))
        for together in zip(*(file.read_text().splitlines() for file in files), strict=True):
            found += [int(word) for line in together for word in line.split()]
    return found


def losses(root: Path) -> dict[int, float]:
    from orchestrator.records.events import EventReader

    return {
        event.step: event.data["metrics"]["train/loss"]
        for event in EventReader(LocalStore(str(root))).poll()
        if event.kind == events.METRICS and event.step is not None and "train/loss" in event.data["metrics"]
    }


def test_a_pickle_in_a_checkpoint_folder_never_runs(tmp_path: Path) -> None:
    """Whatever is laid there under whatever name: files that are not listed are not read, listed ones are checked."""
    root, plan = tmp_path / "run", mixed("strategy=zero2")
    attempt(root, mixed("strategy=zero2", "job.steps=3"), 1, 2)
    catalog = Catalog(LocalStore(f"{root}/{paths.CHECKPOINTS}"))
    folder = root / paths.CHECKPOINTS / str(catalog.last())
    bomb = b"cposix\nsystem\n(S'touch " + str(tmp_path / "exploded").encode() + b"'\ntR."
    for name in ("rank-00000.pt", "mp_rank_00_model_states.pt", "latest", "state.pkl"):
        (folder / name).write_bytes(bomb)
    attempt(root, plan, 2, 2)
    newest = root / paths.CHECKPOINTS / str(catalog.last())
    (newest / "rank-00000.safetensors").write_bytes(bomb)
    (newest / "rank-00001.json").write_bytes(bomb)
    attempt(root, mixed("strategy=zero2", "job.steps=14"), 3, 2)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", ["crash", "short", "ENOSPC", "EIO"])
def test_whatever_file_operation_fails_the_newest_whole_checkpoint_is_loaded(
    kind: str, faults: Callable[[str], list[dict[str, object]]]
) -> None:
    """Below Python, at every file operation of two saves over an older one, removal of old ones included."""
    tries = faults(kind)
    assert len(tries) > 60
    assert tries[-1]["code"] == 0, "the last one is beyond the last operation"
    for each in tries:
        assert each["code"] in (0, 2, 3, 77), each
        assert each["content"] == [each["step"]], each
        assert (each["passed_over"], each["left"]) == ([], []), each
    steps = [each["step"] for each in tries]
    assert set(steps) == {2, 3, 4}
    if kind == "crash":
        assert steps == sorted(steps), "the later the crash, the newer the checkpoint"


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[str], list[dict[str, object]]]:
    """Runs tests/integration/checkpoint/saver.py under the preloaded library of faults."""
    here = Path(__file__).parent
    library = tmp_path / "faults.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, here / "faults.c", "-ldl"], check=True)

    def run(kind: str) -> list[dict[str, object]]:
        done = subprocess.run(
            [sys.executable, here / "saver.py", tmp_path / "saves", kind],
            env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(here.parent.parent)},
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_full_disk_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    """Real file systems, of which bytes or files run out at each point of a save."""
    here = Path(__file__).parent
    options = ["size=400k", *(f"nr_inodes={count}" for count in range(9, 24))]
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, here / "saver.py", tmp_path, "full", *options],
        env={**os.environ, "PYTHONPATH": str(here.parent.parent)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    if "unshare" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("mounts are not permitted here")
    assert done.returncode == 0, done.stderr[-3000:]
    tries = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(tries) == len(options)
    for each in tries:
        assert "No space left" in each["told"] or "GB left" in each["told"], each
        assert each["step"] in (each["failed"] - 1, each["failed"]), each
        assert each["content"] == [each["step"]], each
        assert (each["passed_over"], each["left"]) == ([], []), each
    assert {each["step"] == each["failed"] for each in tries} == {True, False}


def test_files_are_on_the_disk_before_the_name_and_the_name_before_it_counts(tmp_path: Path) -> None:
    """As the kernel saw it."""
    trace, folder = tmp_path / "trace", tmp_path / "saves"
    here = Path(__file__).parent
    watched = "openat,fsync,fdatasync,rename,renameat,renameat2,write,mkdir"
    subprocess.run(
        [
            "strace",
            "-f",
            "-y",
            "-o",
            trace,
            "-e",
            f"trace={watched}",
            sys.executable,
            here / "saver.py",
            folder,
            "once",
        ],
        env={**os.environ, "PYTHONPATH": str(here.parent.parent)},
        check=True,
        capture_output=True,
        timeout=180,
    )
    calls = [line for line in trace.read_text().splitlines() if "step-00000001-a1" in line or f"<{folder}" in line]
    position = {
        what: max(number for number, line in enumerate(calls) if all(word in line for word in words))
        for what, words in {
            "shard written": ("write(", "rank-00000.safetensors>"),
            "shard synced": ("fsync(", "rank-00000.safetensors>"),
            "index synced": ("fsync(", "rank-00000.json"),
            "manifest synced": ("fsync(", "manifest.json"),
            "sums synced": ("fsync(", "SHA256SUMS"),
            "folder synced": ("fsync(", "/.writing-step-00000001-a1>"),
            "renamed": ("rename", '/.writing-step-00000001-a1", '),
        }.items()
    }
    assert list(position.values()) == sorted(position.values()), position
    after = [line for line in calls[position["renamed"] :] if "fsync(" in line]
    assert f"<{folder}/once>" in after[0], after[:3]


def test_any_checkpoint_is_exported_as_one_file_that_loads_into_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    record = carry_out(mixed("strategy=zero3", "job.steps=6"))
    run = ["export", record.id, "--json"]
    assert main([*run, "--out", "best"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["checkpoint"], told["dtype"]) == (record.best_checkpoint, "fp32")
    final = load_file(Path(record.root) / paths.MODEL / "model.safetensors")
    best = load_file("best/model.safetensors")
    assert best.keys() == final.keys()
    assert all(torch.equal(best[name], final[name]) for name in final)
    task = targets.bind(record.plan.spec, project=project).task()
    task.build_model().load_state_dict(best)
    assert pyfunc.load("best").description["inputs"] == [{"name": "input", "dtype": "float32", "shape": [-1, 7]}]

    assert main([*run, "--checkpoint", "3", "--dtype", "bf16"]) == 0
    told = json.loads(capsys.readouterr().out)
    early = load_file(told["file"])
    assert Path(told["folder"]).name == f"{record.id}-step-00000003"
    assert early["first.weight"].dtype == torch.bfloat16
    assert early["norm.running_mean"].dtype == torch.float32
    assert not torch.equal(early["first.weight"].float(), best["first.weight"].bfloat16().float())

    for arguments, message in [
        (["--checkpoint", "7"], r"There is no checkpoint 7 in .*There are: step-00000003-a1, "),
        (["--out", "best"], r"best/model.safetensors exists already\. Name another folder with --out"),
        (["--out", "pyproject.toml"], r"--out=pyproject.toml is a file\. Name a folder"),
        (["--dtype", "fp64"], r"'fp64' is not one of"),
    ]:
        assert main(["export", record.id, *arguments]) in (2, 3)
        assert re.search(message, capsys.readouterr().err.replace("\n", " ")), arguments
    shard = Path(record.root) / paths.CHECKPOINTS / "step-00000003-a1" / "rank-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["export", record.id, "--checkpoint", "3", "--out", "other"]) == 3
    assert "Checkpoint step-00000003-a1 is damaged: rank-00001.safetensors" in capsys.readouterr().err
    assert not Path("other").exists()

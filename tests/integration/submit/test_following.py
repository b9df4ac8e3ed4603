"""Looking at jobs that run, wait, fail and are lost, on a cluster of this machine, with the commands that people use."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.records.events import read_event
from tests.integration.cluster.test_local_cluster import ORCHESTRATOR, Machine
from tests.integration.launch.test_launchers import wait_until
from tests.integration.submit import followed
from tests.integration.tracking.recording import free_port

GOLDEN = Path(__file__).parent / "golden"
CONTAINERS = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A project, and a cluster of two CPUs."""
    folder = tmp_path_factory.mktemp("project")
    followed.write(folder)
    (folder / "said").mkdir()
    machine = Machine(folder)
    machine.env |= {"SAID": str(folder / "said"), "COLUMNS": "200"}
    # Ports of its own, since other tests may start clusters at the same time.
    ports = [f"--{name}-port={free_port()}" for name in ("ray", "dashboard", "mlflow")]
    machine.gets("up", "--cpus", "2", *ports)
    yield machine
    machine.says("down")


def submit(machine: Machine, run: str, task: str, *more: str) -> None:
    machine.gets("submit", "--id", run, *followed.job(task, *more))


def data(machine: Machine, *words: str) -> Any:
    return json.loads(machine.gets(*words, "--json"))


def state(machine: Machine, run: str) -> str:
    return str(data(machine, "why", run)["state"])


def start(machine: Machine, *words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [ORCHESTRATOR, *words], cwd=machine.folder, env=machine.env, stdout=pipe, stderr=pipe, text=True
    )


@pytest.fixture(scope="module")
def held(machine: Machine) -> str:
    """A job that holds the whole cluster, and goes on for long."""
    submit(machine, "holder-1", "Talking", "job.steps=2000")
    wait_until(lambda: state(machine, "holder-1") == "running", 120)
    return "holder-1"


def test_one_that_runs_is_shown_with_its_places(machine: Machine, held: str) -> None:
    node = socket.gethostname()
    shown = data(machine, "jobs", "show", held)
    assert shown["nodes"] == {"0": node, "1": node}
    assert shown["step"] >= 0
    assert machine.gets("why", held).startswith(f"{held} is running at step ")
    table = machine.gets("jobs").splitlines()
    assert table[1].split()[:3] == [held, "digits", "running"]


def test_logs_of_all_ranks_are_followed_and_left(machine: Machine, held: str) -> None:
    follower = start(machine, "logs", held, "-f", "--since", "10s", "--grep", "^rank")
    assert follower.stdout
    lines = [follower.stdout.readline() for _ in range(40)]
    node = socket.gethostname()
    found = [re.fullmatch(rf"rank (\d) {node} \| rank \1 step (\d+)\n", line) for line in lines]
    assert all(found), lines
    assert {match[1] for match in found if match} == {"0", "1"}
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=20)
    assert follower.returncode == 130
    assert f"Detached: {held} goes on without you." in err
    assert state(machine, held) == "running"


def test_one_that_waits_says_for_what_and_starts_when_it_is_free(machine: Machine, held: str) -> None:
    """The whole explanation, and that it is right: when the run it names ends, the job starts."""
    submit(machine, "waiter-2", "Talking")
    wait_until(lambda: state(machine, "waiter-2") == "waiting", 120)
    node = socket.gethostname()
    told = machine.gets("why", "waiter-2").splitlines()
    told[2] = re.sub(r", [\d.]+ GiB of [\d.]+ GiB free", " free", told[2])
    assert told == [
        "waiter-2 waits for room: 2 workers with 1 CPU each need 2 CPUs, and there are none free.",
        "binds: CPU",
        f"  {node}: 0 of 2 CPUs free, no room; {held} holds 2 CPUs for 2 workers",
        "what would start it:",
        f"  it starts by itself when {held} ends",
    ]
    watcher = start(machine, "attach", "waiter-2")
    machine.gets("stop", held)
    assert state(machine, held) == "stopped"
    _, err = watcher.communicate(timeout=200)
    assert watcher.returncode == 0, err
    assert "waiting: 2 workers with 1 CPU each need 2 CPUs" in err
    assert "training 10 steps with 2 workers" in err
    assert state(machine, "waiter-2") == "finished"


def told(machine: Machine, text: str) -> str:
    """What is told, with what differs from run to run replaced."""
    text = text.replace(str(machine.folder), "PROJECT").replace(socket.gethostname(), "NODE")
    text = re.sub(r"\d\d:\d\d:\d\d", "CLOCK", text)
    text = re.sub(r"after step \d+", "after step N", text)
    return re.sub(r"alloc_cpu.cpp:\d+", "alloc_cpu.cpp:LINE", text)


def first_ten(text: str) -> str:
    return "\n".join(text.splitlines()[:10])


def compare(name: str, text: str, update: bool) -> None:
    """With the golden file, but for lines that are there or not as time goes by."""
    passing = re.compile(r"queued: |waiting: |step \d+/10 ")
    found = "\n".join([line for line in text.splitlines() if not passing.match(line)][:8]) + "\n"
    file = GOLDEN / f"{name}.txt"
    if update:
        file.write_text(found)
    assert found == file.read_text()


def line_of(code: str) -> int:
    """Where it stands in the project."""
    return 1 + next(number for number, line in enumerate(followed.TASK.splitlines()) if code in line)


TABLE = "rows.append(bytearray(2**22))"
PLACES = {
    "Raises": ("ValueError: token 17 is not in the vocabulary", f"toy/__init__.py:{line_of('raise ValueError')}"),
    "Mistyped": ("SyntaxError: '{' was never closed", "toy/mistyped.py:1"),
    "Lacks": ("No module named 'einops_that_nobody_has'", "toy/lacks.py:2"),
    "Limited": ("can't allocate memory", f"toy/__init__.py:{line_of('torch.ones')}"),
}


@pytest.mark.parametrize("task", PLACES)
def test_a_bug_of_ones_own_is_told_first_wherever_one_looks(machine: Machine, task: str, update_golden: bool) -> None:
    run = f"bug-{task.lower()}"
    waited = machine.says("submit", "--wait", "--id", run, *followed.job(task))
    views = {
        "train": machine.says("train", "--id", f"{run}-here", *followed.job(task, "cluster=torchrun")).stderr,
        "submit-wait": waited.stderr,
        "jobs-show": machine.gets("jobs", "show", run),
        "attach": machine.says("attach", run).stderr,
    }
    assert waited.returncode == 1
    cause, place = PLACES[task]
    for view, text in views.items():
        first = first_ten(told(machine, text))
        assert all(words in first for words in (cause, place, "worker 1")), f"{view}:\n{text}"
        compare(f"{task.lower()}-{view}", told(machine, text), update_golden)


@pytest.fixture
def container(machine: Machine) -> Iterator[Path]:
    """A limit on memory that the kernel enforces by killing."""
    folder = CONTAINERS / f"orchestrator-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(100 * 2**20))
    except OSError:
        pytest.skip("needs to be root of a machine with memory cgroups")
    yield folder
    wait_until(lambda: not (folder / "cgroup.procs").read_text(), 30)
    folder.rmdir()


def test_a_worker_that_the_kernel_kills_for_want_of_memory(machine: Machine, container: Path) -> None:
    machine.env["CONTAINER"] = str(container)
    done = machine.says("train", "--id", "killed", *followed.job("Killed", "cluster=torchrun"))
    assert done.returncode == 1
    first = first_ten(told(machine, machine.gets("jobs", "show", "killed")))
    assert "worker 1 was ended by SIGKILL" in first
    place = f"last seen at toy/__init__.py:{line_of(TABLE)} in table"
    assert f"worker 1 on NODE, {place}, after step N" in first
    assert TABLE in first
    assert "    | making a table" in first
    assert place in first_ten(told(machine, done.stderr))


def test_after_the_head_was_killed_nothing_that_was_said_is_lost(machine: Machine) -> None:
    """Last in this file: it takes the cluster away."""
    said = machine.folder / "said"
    for file in said.iterdir():
        file.unlink()
    submit(machine, "lost-9", "Talking", "job.steps=2000", "job.log_every=1")
    wait_until(lambda: (said / "1").exists() and len((said / "1").read_text().split()) > 20, 120)
    keeper = psutil.Process(json.loads((machine.home / "clusters/local/ray.json").read_text())["pid"])
    doomed = [*keeper.children(recursive=True), keeper]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):  # some end by themselves when others do
            process.kill()
    psutil.wait_procs(doomed, 20)
    wait_until(lambda: state(machine, "lost-9") == "lost", 30)
    lines = [json.loads(line) for line in machine.gets("logs", "lost-9", "--json").splitlines()]
    for rank in (0, 1):
        acknowledged = [int(step) for step in (said / str(rank)).read_text().split()]
        there = [line["text"] for line in lines if line["rank"] == rank]
        assert set(there) >= {f"rank {rank} step {step}" for step in acknowledged}
    events = Path(machine.folder / "runs/lost-9/events/rank-0.jsonl").read_text().split("\n")
    steps = [event.step for line in events if (event := read_event(line)) and event.kind == "metrics"]
    shown = data(machine, "jobs", "show", "lost-9")
    assert (shown["state"], shown["step"]) == ("lost", max(step for step in steps if step is not None))
    assert "driver" in {line["rank"] or "driver" for line in lines}
    table = machine.gets("jobs").splitlines()
    assert any(line.split()[:3] == ["lost-9", "digits", "lost"] for line in table)
    assert "Go on with: orchestrator resume lost-9" in machine.gets("why", "lost-9")
    assert machine.says("attach", "lost-9").returncode == 1
    follower = machine.gets("logs", "lost-9", "-f", "--tail", "2")
    assert len(follower.splitlines()) == 2
    began = time.monotonic()
    machine.gets("logs", "lost-9", "--rank", "0", "--since", "1h")
    assert time.monotonic() - began < 20

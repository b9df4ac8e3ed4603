"""What every launcher promises, as one suite that each launcher's tests inherit."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator import paths
from orchestrator.errors import MachineError
from orchestrator.plans.types import WorkerResources
from orchestrator.runtime.launchers.base import Ended, Launcher
from orchestrator.runtime.launchers.ray.launcher import RayLauncher
from orchestrator.runtime.launchers.torchrun import TorchrunLauncher
from orchestrator.runtime.worker.context import Launch

pytestmark = pytest.mark.matrix(2)

REPOSITORY = Path(__file__).parents[3]
RESOURCES = WorkerResources(cpus=1, gpus=0, threads=1)
PLAN = {"resources": {"cpus": 1, "gpus": 0, "threads": 1}, "anything": [1, 2]}


def launch(root: Path, entry: str, attempt: int = 3) -> Launch:
    return Launch(
        run_id="probe-1",
        attempt=attempt,
        root=str(root),
        project=str(REPOSITORY),
        world_size=2,
        plan=PLAN,
        entry=f"tests.integration.probes:{entry}",
    )


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def wait_for_end(launcher: Launcher) -> Ended:
    wait_until(launcher.poll)
    ended = launcher.poll()
    assert ended
    return ended


def read(root: Path, name: str) -> dict[str, object]:
    data: dict[str, object] = json.loads((root / name).read_text())
    return data


class LauncherContract:
    """Inherit it and provide a `launcher` fixture."""

    def test_workers_see_their_world(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "tell_facts"), RESOURCES)
        assert wait_for_end(launcher) == Ended()
        facts = [read(tmp_path, f"facts-{rank}.json") for rank in (0, 1)]
        assert [fact["rank"] for fact in facts] == [0, 1]
        assert [fact["local_rank"] for fact in facts] == [0, 1]
        assert {fact["pid"] for fact in facts} != {facts[0]["pid"]}
        for fact in facts:
            assert fact["world_size"] == 2
            assert fact["node_rank"] == 0
            assert (fact["run_id"], fact["attempt"]) == ("probe-1", 3)
            assert fact["plan"] == PLAN
            assert fact["should_stop"] is False
            assert fact["sum_over_ranks"] == 3
        checkpoints = tmp_path / paths.CHECKPOINTS
        assert {path.name for path in checkpoints.iterdir()} == {"from-0", "from-1"}
        assert "words of worker 1" in (tmp_path / paths.worker_log(1)).read_text()

    def test_a_stop_request_reaches_every_worker(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "wait_for_stop"), RESOURCES)
        wait_until(lambda: all((tmp_path / f"ready-{rank}.json").exists() for rank in (0, 1)))
        assert launcher.poll() is None
        (tmp_path / paths.STOP).write_text("please\n")
        assert wait_for_end(launcher) == Ended()
        assert all(read(tmp_path, f"stopped-{rank}.json")["asked"] for rank in (0, 1))

    def test_a_failure_is_kept_with_its_rank_and_place(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "fail_on_rank_1"), RESOURCES)
        assert wait_for_end(launcher).error
        failure = read(tmp_path, paths.failure(3, 1))
        assert (failure["rank"], failure["type"], failure["message"]) == (1, "ValueError", "the seventh batch is empty")
        assert str(failure["where"]).startswith(str(REPOSITORY / "tests/integration/probes.py") + ":")
        assert "fail_on_rank_1" in str(failure["traceback"])

    def test_kill_ends_the_workers_and_others_can_follow(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "wait_for_stop", attempt=1), RESOURCES)
        wait_until(lambda: all((tmp_path / f"ready-{rank}.json").exists() for rank in (0, 1)))
        pids = [int(str(read(tmp_path, f"ready-{rank}.json")["pid"])) for rank in (0, 1)]
        launcher.kill()
        launcher.kill()
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 30)
        launcher.start(launch(tmp_path, "tell_facts", attempt=2), RESOURCES)
        assert wait_for_end(launcher) == Ended()

    def test_one_attempt_follows_another(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "fail_on_rank_1", attempt=1), RESOURCES)
        assert wait_for_end(launcher).error
        assert launcher.outlook().workers == 2
        launcher.start(launch(tmp_path, "tell_facts", attempt=2), RESOURCES)
        assert launcher.poll() is None, "the end of the first is not that of the second"
        assert wait_for_end(launcher) == Ended()
        assert [read(tmp_path, f"facts-{rank}.json")["attempt"] for rank in (0, 1)] == [2, 2]

    def test_a_worker_that_is_killed_is_named(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "wait_for_stop"), RESOURCES)
        wait_until(lambda: all((tmp_path / f"ready-{rank}.json").exists() for rank in (0, 1)))
        psutil.Process(int(str(read(tmp_path, "ready-1.json")["pid"]))).kill()
        assert re.match(r"worker 1 (was ended by SIGKILL$|on \S+ died without a word)", wait_for_end(launcher).error), (
            "Ray is not told the signal"
        )


class TestTorchrun(LauncherContract):
    @pytest.fixture
    def launcher(self) -> Iterator[Launcher]:
        launcher = TorchrunLauncher()
        yield launcher
        launcher.close()

    def test_a_worker_that_does_not_come_to_its_own_log_has_last_words(
        self, launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so is missing')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        launcher.start(launch(tmp_path, "tell_facts"), RESOURCES)
        told = wait_for_end(launcher)
        assert re.fullmatch(r"worker [01] ended with exit code 1: ImportError: libtorch.so is missing", told.error)
        assert told.lost == ()

    def test_its_workers_never_import_ray(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "tell_facts"), RESOURCES)
        wait_for_end(launcher)
        assert read(tmp_path, "facts-0.json")["ray_imported"] is False


class TestRay(LauncherContract):
    @pytest.fixture
    def launcher(self, ray_address: str) -> Iterator[Launcher]:
        launcher = RayLauncher(ray_address)
        yield launcher
        launcher.close()

    def test_more_than_the_cluster_has_is_refused(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "tell_facts"), WorkerResources(cpus=3, gpus=0, threads=1))
        with pytest.raises(MachineError, match=r"2 workers with 3 CPUs each need 6 CPUs, and there are 4"):
            wait_until(launcher.poll)

    def test_a_later_start_waits_for_room(self, launcher: Launcher, tmp_path: Path) -> None:
        launcher.start(launch(tmp_path, "tell_facts", attempt=1), RESOURCES)
        assert wait_for_end(launcher) == Ended()
        launcher.start(launch(tmp_path, "tell_facts", attempt=2), WorkerResources(cpus=3, gpus=0, threads=1))
        wait_until(lambda: launcher.outlook().waits_for)
        assert launcher.poll() is None
        assert "2 workers with 3 CPUs each need 6 CPUs" in str(launcher.outlook().waits_for)

    def test_fewer_workers_start_where_there_is_room_for_fewer(self, launcher: Launcher, tmp_path: Path) -> None:
        plan = {**PLAN, "rows": [{"world_size": size} for size in (1, 2, 6)]}
        launcher.start(dataclasses.replace(launch(tmp_path, "tell_node"), plan=plan, world_size=6), RESOURCES)
        assert wait_for_end(launcher) == Ended()
        assert (launcher.outlook().workers, launcher.outlook().room) == (2, 2)
        assert sorted(path.name for path in tmp_path.glob("node-*")) == ["node-0.json", "node-1.json"]

    def test_a_dead_address_is_refused(self, tmp_path: Path) -> None:
        launcher = RayLauncher("127.0.0.1:1")
        launcher.start(launch(tmp_path, "tell_facts"), RESOURCES)
        with pytest.raises(MachineError, match=r"cluster.address=127.0.0.1:1 cannot be reached"):
            wait_until(launcher.poll)
        launcher.close()

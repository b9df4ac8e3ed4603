"""A real training while its tracking server is frozen, refuses and fails: no step is slower, and no point is lost.

`make outages` lets each outage last a minute and holds every single step against the normal ones; in the tests they
last seconds, and only a step that waited for the server would show.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import RunStoppedError
from orchestrator.records import runs
from orchestrator.records.events import METRICS, Event, EventReader
from orchestrator.records.runs import RunRecord
from orchestrator.runtime.driver import driver
from orchestrator.tracking.store import resolve_uri
from orchestrator.tracking.sync import sync
from tests.integration.flaky import FlakyWay, Mode
from tests.integration.tracking.recording import REAL_MLFLOW, MlflowService, assert_each_once, frozen
from tests.integration.training import Recorder, plan_of, spec_of

pytestmark = [*REAL_MLFLOW, pytest.mark.timeout(1200)]

OUTAGE_S = float(os.environ.get("ORCHESTRATOR_TEST_OUTAGE_S", "3"))
"""How long each outage lasts; the quiet time before the first, from which the normal steps are taken, is as long."""
LONG = OUTAGE_S >= 60
BREAK_S = min(20.0, OUTAGE_S)
"""Between two outages."""
WARM_STEPS = 20
MOST = 1.5
"""A step during an outage, in units of the 99th percentile of normal steps."""
NAMES = ("train/loss", "train/grad_norm")
TRAINING = [
    *("job=digits", "batch=128", "model.width=32", "job.epochs=null", "job.steps=1000000"),
    *("job.evaluate.epochs=null", "checkpoint=final_only", "tracking=mlflow", "tracking.log_model=false"),
    *("cluster.workers=1", "strategy=ddp"),
]


class Outages:
    """Outages one after the other while a training runs; then the training is asked to stop."""

    def __init__(self, way: FlakyWay, server: psutil.Process) -> None:
        self._way = way
        self._server = server
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.windows: dict[str, tuple[float, float]] = {}
        """When each was."""

    def event(self, event: Event) -> None:
        """What the view is shown: steps that are done."""
        if event.kind == METRICS and (event.step or 0) > WARM_STEPS:
            self._begun.set()

    def _run(self) -> None:
        self._begun.wait()
        time.sleep(OUTAGE_S)
        with self._window("frozen"), frozen(self._server):
            time.sleep(OUTAGE_S)
        modes: tuple[Mode, ...] = ("refused", "500")
        for mode in modes:
            time.sleep(BREAK_S)
            with self._window(mode):
                self._way.set(mode)
                time.sleep(OUTAGE_S)
                self._way.set("pass")
        time.sleep(BREAK_S)
        os.kill(os.getpid(), signal.SIGINT)

    @contextlib.contextmanager
    def _window(self, name: str) -> Iterator[None]:
        begun = time.time()
        yield
        self.windows[name] = (begun, time.time())


def step_times(record: RunRecord) -> list[tuple[float, float]]:
    """When each step ended, by the worker's own clock, and how long after the one before."""
    ends = [
        event.time
        for event in EventReader(record.store).poll()
        if event.kind == METRICS and "train/loss" in event.data["metrics"]
    ]
    return [(end, end - before) for before, end in itertools.pairwise(ends)][WARM_STEPS:]


def test_no_step_is_slower_and_no_point_is_lost(
    tmp_path: Path, mlflow_service: MlflowService, capsys: pytest.CaptureFixture[str]
) -> None:
    way = FlakyWay(mlflow_service.port)
    outages = Outages(way, mlflow_service.process)
    plan = plan_of(*TRAINING, f"tracking.uri={way.uri}", f"storage.path={tmp_path / 'runs'}")
    record = runs.create(plan)
    try:
        with pytest.raises(RunStoppedError):
            driver.carry_out(record, plan, spec_of(plan), Recorder(act=outages.event))
        record = runs.load(str(tmp_path / "runs"), record.id)
        sync(record, print)
    finally:
        way.close()
    steps = step_times(record)
    first = outages.windows["frozen"][0]
    normal = [seconds for end, seconds in steps if end < first]
    p99 = statistics.quantiles(normal, n=100)[-1]
    during = {
        name: [seconds for end, seconds in steps if begun <= end <= over]
        for name, (begun, over) in outages.windows.items()
    }
    with capsys.disabled():
        print(f"\nload {os.getloadavg()[0]:.1f}")
        for name, times in {"normal": normal, **during}.items():
            print(_line(name, times, p99))
    store = resolve_uri(mlflow_service.uri, str(tmp_path))
    assert record.mlflow_run_id
    assert_each_once(store, record.mlflow_run_id, record.step, NAMES)
    worst = max(max(times) for times in during.values())
    assert worst < 1.0, "a step waited for the server"
    if LONG:
        assert worst <= MOST * p99


def _line(name: str, times: list[float], p99: float) -> str:
    slow = sum(seconds > MOST * p99 for seconds in times)
    median, high = statistics.median(times), statistics.quantiles(times, n=100)[-1]
    figures = ", ".join(
        f"{what} {1000 * seconds:.1f} ms"
        for what, seconds in (("median", median), ("p99", high), ("slowest", max(times)))
    )
    return f"{name}: {len(times)} steps, {figures}, {slow} above {MOST} x normal p99"

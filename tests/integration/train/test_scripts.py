"""Training scripts that people have already, unchanged: `job=script script=train.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from orchestrator import paths
from orchestrator.cli.main import main
from orchestrator.errors import RunFailedError
from orchestrator.records import events
from orchestrator.records.runs import RunRecord
from tests.integration.training import Recorder, carry_out, plan_of

pytestmark = pytest.mark.matrix(2)

HERE = Path(__file__).parent / "scripts"
DOCS = ("job=script", "script=train.py", "cluster.workers=2", "strategy=zero2")
ARGUMENTS = '--deepspeed,--deepspeed_config,"{deepspeed_config}",--save,"{checkpoints}"'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def log(record: RunRecord, rank: int) -> str:
    return (Path(record.root) / paths.worker_log(rank)).read_text()


@pytest.mark.parametrize("launcher", ["torchrun", "local"])
def test_a_deepspeed_script_goes_on_from_its_own_checkpoint_after_a_killed_worker(project: Path, launcher: str) -> None:
    shutil.copy(HERE / "deepspeed_docs.py", project / "train.py")
    arguments = f"script_args=[{ARGUMENTS},--die-at,'25']"
    plan = plan_of(*DOCS, arguments, f"cluster={launcher}", "resilience.backoff_s=0")
    view = Recorder()
    record = carry_out(plan, view)
    assert record.status.value == "finished"
    assert len(record.attempts) == 2
    assert "went on from what the script has saved" in " ".join(
        event.data["message"] for event in view.events if event.kind == events.RESTART
    )
    for rank in range(2):
        assert f"rank {rank} begins at step 20" in log(record, rank), "not from nothing"
        assert f"rank {rank} ends at step 40" in log(record, rank)
        assert "built successfully" not in log(record, rank), "nothing is compiled"


def test_a_script_goes_with_its_worker_whatever_it_would_like(project: Path) -> None:
    (project / "train.py").write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "attempt = os.environ['ORCHESTRATOR_ATTEMPT']\n"
        "with open(f'pid-{attempt}', 'w') as file:\n"
        "    file.write(str(os.getpid()))\n"
        "if attempt == '1':\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    time.sleep(100)\n"
    )
    record = carry_out(plan_of("job=script", "script=train.py", "cluster.workers=1", "resilience.backoff_s=0"))
    assert len(record.attempts) == 2
    assert not psutil.pid_exists(int((project / "pid-1").read_text()))


def test_a_scripts_exception_is_told_with_its_place(project: Path) -> None:
    shutil.copy(HERE / "deepspeed_docs.py", project / "train.py")
    line = next(
        number for number, text in enumerate((project / "train.py").read_text().splitlines(), 1) if "raise" in text
    )
    with pytest.raises(RunFailedError) as caught:
        carry_out(plan_of(*DOCS, f"script_args=[{ARGUMENTS},--fail-at,'3']"))
    assert f"ValueError: this goes wrong (worker 1, {project}/train.py:{line})" in caught.value.message


def test_a_transformers_trainer_records_into_the_runs_own_record(project: Path) -> None:
    from mlflow import MlflowClient

    shutil.copy(HERE / "trainer.py", project / "train.py")
    arguments = (
        '--deepspeed,"{deepspeed_config}",--out,"{checkpoints}",--micro-batch,"{micro_batch}",'
        '--accumulation,"{accumulation}"'
    )
    record = carry_out(plan_of(*DOCS, f"script_args=[{arguments}]", "tracking=mlflow", "optimizer.weight_decay=0"))
    assert "trained 20 steps" in log(record, 0)
    assert (Path(record.root) / paths.SCRIPT_CHECKPOINTS / "checkpoint-20").is_dir()
    metrics = MlflowClient(record.tracking_uri).get_run(record.mlflow_run_id).data.metrics
    assert metrics["loss"] < 2.3


def test_what_a_script_reports_is_recorded_and_its_step_is_the_runs(project: Path) -> None:
    (project / "train.py").write_text(
        "import orchestrator\n"
        "for step in range(1, 4):\n"
        "    orchestrator.report(step, loss=1 / step)\n"
        "(orchestrator.checkpoint(saved=3) / 'mine').write_text('saved')\n"
    )
    view = Recorder()
    record = carry_out(plan_of("job=script", "script=train.py", "cluster.workers=1"), view)
    assert (record.step, record.final_metrics) == (3, {"train/loss": 1 / 3})
    assert [event.step for event in view.events if event.kind == events.METRICS] == [1, 2, 3]
    assert (Path(record.root) / paths.SCRIPT_CHECKPOINTS / "mine").read_text() == "saved"


def test_outside_of_a_run_reports_go_nowhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import orchestrator

    monkeypatch.delenv("ORCHESTRATOR_LAUNCH", raising=False)
    orchestrator.report(1, loss=0.5)
    assert orchestrator.checkpoint(saved=1) == Path("checkpoints")


@pytest.mark.parametrize(
    ("content", "overrides", "told"),
    [
        ("", ["script=trian.py"], "script=trian.py: there is no such file in"),
        ("x = (", [], "script=train.py is not Python: '(' was never closed"),
        ("", ["mesh.tensor=2", "cluster.workers=2"], "mesh.tensor=2 cuts up a Task's model"),
        ("", ["strategy=auto"], "strategy=auto and micro_batch=auto need a Task"),
        ("", ["job.compile=true"], "job.compile=true has no effect on script=train.py"),
    ],
)
def test_mistakes_are_named(
    project: Path, capsys: pytest.CaptureFixture[str], content: str, overrides: list[str], told: str
) -> None:
    (project / "train.py").write_text(content)
    assert main(["plan", "job=script", "script=train.py", *overrides]) == 2
    assert f"error: {told}" in capsys.readouterr().err

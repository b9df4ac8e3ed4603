"""A model judged anew: what training found, and also other checkpoints, splits and data; kept in the run and in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.records.runs import RunRecord
from tests.integration.training import carry_out, plan_of

pytestmark = pytest.mark.usefixtures("forked_workers")

OVERRIDES = ("job=digits", "job.epochs=2", "cluster=torchrun", "cluster.workers=2", "strategy=zero3")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    place = tmp_path_factory.mktemp("evaluated") / "runs"
    return carry_out(plan_of(*OVERRIDES, f"storage.path={place}", "tracking=mlflow"))


def evaluate(record: RunRecord, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, object]:
    code = main(["evaluate", record.id, "--storage", str(Path(record.root).parent), "--json", *args])
    out = capsys.readouterr()
    assert code == 0, out.err
    told: dict[str, object] = json.loads(out.out)
    return told


def test_training_leaves_plots_and_answers_in_the_run_and_in_mlflow(record: RunRecord) -> None:
    from mlflow import MlflowClient

    folder = Path(record.root) / "evaluations" / "test"
    files = ["answers.jsonl", "calibration.png", "confusion.png", "metrics.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    right = sum(row["truth"] == row["answer"] for row in rows)
    assert len(rows) == 359, "each item of the split once, whichever worker had it"
    assert right / len(rows) == pytest.approx(record.final_metrics["test/accuracy"])
    client = MlflowClient(record.tracking_uri)
    recorded = {item.path for item in client.list_artifacts(record.mlflow_run_id, "evaluations/test")}
    assert recorded == {f"evaluations/test/{name}" for name in files}
    assert [item.path for item in client.list_artifacts(record.mlflow_run_id, "plots")] == ["plots/loss.png"]


def test_without_a_test_split_the_answers_are_those_on_val(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracked = ["tracking=mlflow", "tracking.system_metrics=false", "tracking.log_model=false"]
    short = ["job=digits", "model.width=4", "job.epochs=1", "cluster.workers=1", "data.test_fraction=0"]
    record = carry_out(plan_of(*short, *tracked))
    folder = Path(record.root) / "evaluations" / "val"
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 180
    told = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert told["accuracy"] == record.final_metrics["val/accuracy"]


def test_one_process_finds_what_the_workers_found(record: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    told = evaluate(record, capsys)
    found = {f"test/{name}": value for name, value in told["metrics"].items()}  # type: ignore[attr-defined]
    expected = {name: value for name, value in record.final_metrics.items() if name.startswith("test/")}
    assert found == pytest.approx(expected, rel=1e-5)
    assert (told["items"], told["note"]) == (359, "")


def test_other_checkpoints_splits_and_data(record: RunRecord, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    early = evaluate(record, capsys, "--checkpoint", "20", "--split", "val")
    late = evaluate(record, capsys, "--split", "val")
    assert early["metrics"]["loss"] > late["metrics"]["loss"]  # type: ignore[index]
    other = evaluate(record, capsys, "data.test_fraction=0.5", "data.seed=1", "--name", "other")
    assert (other["items"], other["data"]) == (898, {"test_fraction": 0.5, "seed": 1})
    client = MlflowClient(record.tracking_uri)
    metrics = client.get_run(record.mlflow_run_id).data.metrics
    assert metrics["evaluate/other/accuracy"] == other["metrics"]["accuracy"]  # type: ignore[index]
    paths = {item.path for item in client.list_artifacts(record.mlflow_run_id, "evaluations")}
    assert paths == {"evaluations/test", "evaluations/val", "evaluations/other"}


@pytest.mark.parametrize(
    ("args", "told", "code"),
    [
        (["--checkpoint", "21"], "There is no checkpoint 21", 3),
        (["data.seed=1"], "Results on other data need a name of their own.", 2),
        (["data.sed=1", "--name", "x"], "The run's config has no data.sed", 2),
        (["job.seed=1", "--name", "x"], "'job.seed=1' cannot be changed here.", 2),
        (["data.seed=x", "--name", "x"], "data.seed=x is not a whole number.", 2),
        (["--name", "a/b"], "--name 'a/b' cannot name results.", 2),
    ],
)
def test_mistakes_are_named(
    record: RunRecord, capsys: pytest.CaptureFixture[str], args: list[str], told: str, code: int
) -> None:
    assert main(["evaluate", record.id, "--storage", str(Path(record.root).parent), *args]) == code
    assert f"error: {told}" in capsys.readouterr().err

"""The shipped jobs on data as people keep it, in miniature: prepared first, trained on, and what can be wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from orchestrator import paths
from orchestrator.cli.verbs.preprocess import preprocess
from orchestrator.data import build, preparation
from orchestrator.data.images import Images
from orchestrator.data.prepared import Prepared
from orchestrator.data.ray_build import RayBuilder
from orchestrator.data.readers import files
from orchestrator.data.records import Splits
from orchestrator.errors import DataError, RunFailedError
from orchestrator.models.evaluate import evaluate
from orchestrator.records.runs import Status
from orchestrator.runtime.launchers.ray.launcher import RayLauncher
from tests.integration.training import Recorder, carry_out, curve, plain_curve, plan_of
from tests.unit.data import makers

pytestmark = [pytest.mark.matrix(2), pytest.mark.usefixtures("forked_workers")]

TABLE = ["job=table", "data.target=price", "model.numbers=1", "model.categories=[4]", "model.width=16"]
PHOTOS = ["job=photos", "data.size=16", "model.classes=2", "model.width=8", "data.shift=2", "data.val_fraction=0.2"]
SPEECH = ["data.rate=8000", "data.bands=20", "model.bands=20", "model.width=16", "model.blocks=1"]
WORDS = ["data.tokens=characters", "model.vocabulary=80"]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def short(tmp_path: Path, data: Path, *overrides: str) -> list[str]:
    steps = ["job.epochs=null", "job.steps=4", "batch=4", "cluster.workers=2", "job.clip=null"]
    return [*overrides, f"data.path={data}", f"data.cache={tmp_path / 'cache'}", *steps]


@pytest.mark.parametrize(
    ("job", "make", "metrics"),
    [
        (TABLE, lambda root: makers.table(root / "x.csv"), {"mae", "rmse", "r2"}),
        ([*PHOTOS, "data.hide=4"], makers.photos, {"accuracy"}),
        (["job=keywords", "model.classes=2", "data.test_names='*_[0-1].wav'", *SPEECH], makers.sounds, {"accuracy"}),
        (
            ["job=digit_strings", "data.strings=40", "data.held_out_strings=6", "data.test_names='*_0.wav'", *SPEECH],
            makers.sounds,
            {"word_error_rate"},
        ),
        (["job=sentences", "data.columns=[text,label]", "model.width=8"], makers.sentences, {"accuracy", "macro_f1"}),
        (
            ["job=language", "data.context=16", "model.context=16", "model.width=16", "model.blocks=1", *WORDS],
            lambda root: makers.table(root / "x.csv").rename(root / "x.txt"),
            {"perplexity"},
        ),
    ],
    ids=["table", "photos", "keywords", "digit_strings", "sentences", "language"],
)
def test_jobs_train_on_data_as_people_keep_it(tmp_path: Path, job: list[str], make, metrics: set[str]) -> None:
    view = Recorder()
    record = carry_out(plan_of(*short(tmp_path, make(tmp_path / "data"), *job)), view)
    assert record.status is Status.finished
    losses = list(curve(record).values())
    assert len(losses) == 4
    assert all(torch.isfinite(torch.tensor(losses)))
    assert {f"val/{name}" for name in metrics} <= record.final_metrics.keys()
    assert any(text.startswith("data prepared in ") for text in view.said)
    described = json.loads((Path(record.root) / paths.MODEL / "model.json").read_text())
    assert preparation.load(described["preprocessing"]).facts


@pytest.mark.parametrize(
    "model",
    [
        [
            "model=conformer",
            "job.task=orchestrator.jobs.speech_recognition:BeamSearch",
            "data.bands=20",
            "model.bands=20",
            "model.kernel=5",
        ],
        ["model=wav2vec2", "data.features=waveform", "model.channels=16", "strategy=zero3"],
    ],
    ids=["conformer", "wav2vec2"],
)
def test_speech_is_learnt_as_in_one_process(tmp_path: Path, model: list[str]) -> None:
    sizes = ["model.tokens=9", "model.width=32", "model.blocks=1", "model.dropout=0", "data.rate=8000"]
    length = ["job.steps=20", "batch=8", "optimizer.lr=0.003", "data.hide_frames=0", "data.hide_bands=0"]
    manifest = makers.spoken(tmp_path / "data")
    plan = plan_of(*short(tmp_path, manifest, "job=speech", *model, *sizes), *length)
    record = carry_out(plan)
    losses = list(curve(record).values())
    assert losses == pytest.approx(list(plain_curve(plan).values()), rel=1e-3)
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])
    assert 0 <= record.final_metrics["test/word_error_rate"] <= 1
    again = evaluate(record, split="test").metrics
    found = {f"test/{name}": value for name, value in again.items()}
    assert found == pytest.approx({name: record.final_metrics[name] for name in found}, rel=1e-4)


def test_the_curve_is_the_same_to_the_bit_whoever_makes_the_batches(tmp_path: Path, ray_address: str) -> None:
    job = short(
        tmp_path, makers.photos(tmp_path / "data"), *PHOTOS, "data.hide=4", "accumulation=2", "model.dropout=0.2"
    )
    curves = [curve(carry_out(plan_of(*job, f"job.loader.processes={workers}"))) for workers in (0, 2)]
    curves.append(curve(carry_out(plan_of(*job, "job.loader.processes=1"), launcher=RayLauncher(ray_address))))
    assert curves[0] == curves[1] == curves[2]
    assert curves[0] != curve(carry_out(plan_of(*job, "data.hide=0"))), "what is random does something"


def test_unreadable_items_end_a_run_with_their_names_or_are_passed_over(tmp_path: Path) -> None:
    root = makers.photos(tmp_path / "data")
    broken = root / "train" / "red" / "broken.jpg"
    broken.write_bytes((root / "train" / "blue" / "0.jpg").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"1 item cannot be used, .*red/broken.jpg \(the file ends before"):
        carry_out(plan_of(*short(tmp_path, root, *PHOTOS)))
    (listed,) = (tmp_path / "project" / "runs").glob(f"*/{paths.UNREADABLE}")
    assert json.loads(listed.read_text())["name"] == "red/broken.jpg"
    view = Recorder()
    record = carry_out(plan_of(*short(tmp_path, root, *PHOTOS, "data.skip_unreadable=1")), view)
    assert (Path(record.root) / paths.UNREADABLE).read_text() == listed.read_text()
    assert "note: 1 item cannot be used and is passed over: see unreadable.jsonl" in view.said


def test_a_model_for_other_data_is_told_what_to_set(tmp_path: Path) -> None:
    table = makers.table(tmp_path / "x.csv")
    with pytest.raises(RunFailedError, match=r"Set model.numbers=1 'model.categories=\[4\]'"):
        carry_out(plan_of(*short(tmp_path, table, *TABLE, "model.categories=[3,3]")))
    root = makers.photos(tmp_path / "data")
    makers.photo(root / "train" / "green" / "1.png")
    makers.photo(root / "train" / "green" / "2.png")
    with pytest.raises(RunFailedError, match=r"at least 3 classes, and the model tells 2 apart"):
        carry_out(plan_of(*short(tmp_path, root, *PHOTOS, "data.val_fraction=0", "job.steps=20")))


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_items_than_workers_take(tmp_path: Path, rows: int) -> None:
    table = makers.table(tmp_path / "x.csv", rows)
    sizes = [f"model.categories=[{rows + 1}]", "data.val_fraction=0", "data.test_fraction=0", "data.numeric=[size]"]
    record = carry_out(plan_of(*short(tmp_path, table, *TABLE, *sizes, "batch=8", "job.loader.processes=1")))
    assert record.step == 4


def test_preprocess_says_what_there_is(tmp_path: Path) -> None:
    root = makers.photos(tmp_path / "data")
    (root / "train" / "red" / "empty.jpg").touch()
    arguments = short(tmp_path, root, *PHOTOS, "data.skip_unreadable=1")
    first, second = (CliRunner().invoke(preprocess, arguments, catch_exceptions=False) for _ in range(2))
    assert "train              10 items" in first.stdout
    assert "classes             2  blue, red" in first.stdout
    assert "unusable            1 items" in first.stdout
    assert "unusable: val: red/empty.jpg: the file is empty" in first.stderr
    assert ", made in" in first.stdout
    assert "there already" in second.stdout
    told = json.loads(CliRunner().invoke(preprocess, [*arguments, "--json"]).stdout)
    assert told[0]["counts"] == {"train": 10, "test": 4, "val": 2}
    nothing = CliRunner().invoke(preprocess, ["job=digits"])
    assert "nothing to prepare" in nothing.stdout


def test_ray_data_prepares_the_same(tmp_path: Path, ray_address: str) -> None:
    import ray

    root = makers.photos(tmp_path / "data", count=100)
    (root / "train" / "red" / "50.png").write_bytes(b"torn")

    def prepared(cache: str) -> Prepared:
        splits = Splits(sources=files.by_split(str(root), files.IMAGES))
        return Prepared(splits=splits, preparation=Images(size=8), cache=str(tmp_path / cache), skip_unreadable=1)

    said: list[str] = []
    connect = lambda: ray.init(ray_address, logging_level="ERROR", log_to_driver=False)  # noqa: E731
    try:
        with build.using(RayBuilder(connect, str(tmp_path), said.append, patience_s=0.0)):
            far = prepared("far").dataset("train")
    finally:
        ray.shutdown()
    near = prepared("near").dataset("train")
    assert [text for text in said if "Ray" in text] == ["starting Ray Data for 200 items"]
    assert far is not None
    assert near is not None
    assert far.problems == near.problems
    assert far.facts == near.facts
    assert len(far) == len(near) == 199
    assert all(torch.equal(far[k][0], near[k][0]) and far[k][1] == near[k][1] for k in range(199))

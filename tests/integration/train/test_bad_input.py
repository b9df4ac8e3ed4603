"""Whatever people get wrong ends as one line that says what, one that says what to do, an exit code, and no remains."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.config.request import ConfigArgs
from orchestrator.planning.planner import make_plan
from orchestrator.plans.types import Plan
from orchestrator.records import failures, runs
from orchestrator.records.runs import Status

Capture = pytest.CaptureFixture[str]
WRONG, LACKS = 2, 3

SETTINGS = (
    "Settings begin with: accumulation, batch, checkpoint, cluster, data, environment, job, mesh, micro_batch, model, optimizer, "
    "precision, resilience, schedule, script, script_args, storage, strategy, sweep, tracking."
)
MAKE_PLAN = "Make one with: orchestrator plan ... --out plan.json"
RAY_ADDRESS = (
    "Give Ray's address as HOST:PORT (the port is 6379 unless set otherwise), or start it with: ray start --head."
)
NO_TRACKING = "Train without it (tracking=off), or name another store (tracking.uri=...)."
NAME_ID = "Use letters, digits, '_', '.' and '-', and begin with a letter or digit."
TO_EXPORT = "To allow code of your own, list it in pyproject.toml: [tool.orchestrator] exports ="
NEAR_TASK = (
    "Nearest: orchestrator.jobs.image_classification:ImageClassification, orchestrator.jobs.text_classification:TextClassification, "
    "orchestrator.jobs.image_classification:digits."
)

FILES = {
    "a-file": "in the way\n",
    "cut.json": '{"format": ',
    "other.json": '{"epochs": 3}\n',
    "rowless.json": '{"format": 2}\n',
    "batch.json": '{"train_batch_size": 32}\n',
    "comma.json": '{"zero_allow_untested_optimizer": true,}\n',
    "conf/job/broken.yaml": "name: broken\n task: x\n",
}
"""What lies in the project before each case."""

# Command, error, hint, exit code. <project>, <closed> and <taken> stand for the folder and for two ports.
CASES: list[tuple[str, str, str, int]] = [
    # keys
    ("plan nosuchkey=1", "nosuchkey is not a setting (on the command line: nosuchkey=1).", SETTINGS, WRONG),
    ("plan job.epcohs=3", "job.epcohs is not a setting (on the command line: job.epcohs=3).", "Did you mean 'job.epochs'?", WRONG),
    ("plan +foo=1", "foo is not a setting (on the command line: +foo=1).", SETTINGS, WRONG),
    ("plan ~model.drop", "model.drop is not there to be removed (on the command line: ~model.drop).", "Did you mean 'model.dropout'?", WRONG),
    ("plan job=broken", "conf/job/broken.yaml:2 is not valid YAML: mapping values are not allowed here.", "Mind indentation, and the space after each colon.", WRONG),
    # groups
    ("plan optimiser=sgd", "There is no config group 'optimiser' (on the command line: optimiser=sgd).", "Did you mean 'optimizer'?", WRONG),
    ("plan optimizer=sgdd", "optimizer has no option 'sgdd' (on the command line: optimizer=sgdd).", "Did you mean optimizer=sgd?", WRONG),
    ("plan -cn confg", "There is no config 'confg' on the search path.", "Did you mean 'config'?", WRONG),
    ("plan -cn", "Option '-cn' requires an argument.", "See: orchestrator plan --help", WRONG),
    ("plan -cd nowhere", "--config-dir nowhere does not exist.", "Give a folder with config groups in it.", WRONG),
    # values
    ("plan job.epochs=many", "job.epochs=many is not a number (on the command line: job.epochs=many).", "", WRONG),
    ("plan optimizer.name=adamx", "optimizer.name=adamx is not one of adamw, adam, sgd (on the command line: optimizer.name=adamx).", "", WRONG),
    ("plan optimizer.lr=-1", "optimizer.lr=-1.0 is out of range: it must be greater than 0 (on the command line: optimizer.lr=-1).", "", WRONG),
    ("plan mesh.tensor=2 strategy=zero3", "mesh.tensor=2 does not go together with strategy=zero3.", "It does with strategy=ddp, strategy=zero1, strategy=zero2. Or set mesh.tensor=1.", WRONG),
    # grammar
    ("plan optimizer.lr", "Override 'optimizer.lr' has no value.", "Write optimizer.lr=value.", WRONG),
    ("plan optimizer.betas=[0.9,0.99", "Override 'optimizer.betas=[0.9,0.99' cannot be read: a ']' is missing.", "Check its brackets.", WRONG),
    ("plan optimizer.lr=0.1,0.2", "optimizer.lr has several values where one is needed (on the command line: optimizer.lr=0.1,0.2).", "Give one value; to try several: orchestrator sweep.", WRONG),
    ("plan --multirun optimizer.lr=0.1", "No such option '--multirun'.", "For several values of a setting: orchestrator sweep KEY=VALUE,VALUE ...", WRONG),
    ("plan -m optimizer.lr=0.1", "No such option '-m'.", "For several values of a setting: orchestrator sweep KEY=VALUE,VALUE ...", WRONG),
    # what does not go together
    ("plan batch=64 micro_batch=8 accumulation=3 cluster.workers=2", "batch=64, micro_batch=8, accumulation=3 and 2 data-parallel workers contradict each other: 8 x 3 x 2 = 48.", "Set batch=48, accumulation=4, or leave one of them out (batch=null).", WRONG),
    ("plan batch=50 cluster.workers=4", "batch=50 does not divide by 4 data-parallel workers.", "Nearest batch sizes: 48, 52. Nearest worker counts: 2, 5.", WRONG),
    ("plan job.epochs=null job.steps=10 +schedule.warmup_fraction=null schedule.warmup_steps=20", "schedule.warmup_steps=20 is longer than the whole training of 10 steps.", "Set schedule.warmup_steps=1 or less, or train longer (job.steps).", WRONG),
    ("plan schedule=cosine schedule.warmup_steps=20", "schedule.warmup_steps=20 and schedule.warmup_fraction=0.05 are both given (on the command line: schedule.warmup_steps=20).", "Set one of them to null (schedule.warmup_fraction=null).", WRONG),
    ("plan job.steps=10", "job.epochs=10 and job.steps=10 both say how long to train.", "Set one of them to null (job.epochs=null).", WRONG),
    ("plan cluster=torchrun cluster.address=10.0.0.1:6379", "cluster.launcher=torchrun starts processes on this machine, but cluster.address=10.0.0.1:6379 names a Ray cluster.", "Set cluster.launcher=ray, or cluster.address=null.", WRONG),
    ("plan cluster.nodes=2 cluster.address=10.0.0.1:6379", "cluster.nodes=2 needs storage that every node sees, but storage.path=runs lies on this host's own disk: checkpoints of workers elsewhere would be lost.", "Set storage.path to a shared folder or a URL (s3://bucket/runs); if it is shared, storage.shared=true.", WRONG),
    ("plan cluster.nodes=2 cluster.address=10.0.0.1:6379 storage.shared=true", "cluster.nodes=2 needs a tracking server: tracking.uri=null is a SQLite file that only this host can write.", "Set tracking.uri=http://host:5000 (mlflow server), or tracking.enabled=false.", WRONG),
    ("plan storage.path=s3://bucket/runs", "storage.path=s3://bucket/runs is a URL, and MLflow's SQLite file can only lie in a folder.", "Set tracking.uri=http://host:5000 (mlflow server), or train without it (tracking=off).", WRONG),
    # code
    ("plan model._target_=os:system", "model._target_=os:system is not an allowed target (on the command line: model._target_=os:system).", f'{TO_EXPORT} ["os:system"].', WRONG),
    ("plan model._target_=torch.nn:functional.torch.hub.load", "model._target_=torch.nn:functional.torch.hub.load is not an allowed target (on the command line: model._target_=torch.nn:functional.torch.hub.load).", f'{TO_EXPORT} ["torch.nn:functional.torch.hub.load"].', WRONG),
    ("plan job.task=orchestrator.jobs.image_classification:ImageClasification", "job.task=orchestrator.jobs.image_classification:ImageClasification is not an allowed target (on the command line: job.task=orchestrator.jobs.image_classification:ImageClasification).", f'{NEAR_TASK} {TO_EXPORT} ["orchestrator.jobs.image_classification:ImageClasification"].', WRONG),
    ("plan job.task=shapes:Triangle", "job.task=shapes:Triangle: shapes has no Triangle (on the command line: job.task=shapes:Triangle).", "Did you mean 'points'?", WRONG),
    ("plan job.task=nowhere:Task", "job.task=nowhere:Task: there is no module nowhere (on the command line: job.task=nowhere:Task).", "Start the command in the folder of your project (now: <project>), or install the package.", WRONG),
    ("plan job.task=shapes:points", "job.task=shapes:points is not a Task (on the command line: job.task=shapes:points).", "A Task is a class with a method loss(model, batch): see orchestrator.task.", WRONG),
    ("plan +model.widht=3", "model.widht is not an argument of orchestrator.jobs.image_classification:SmallResNet (on the command line: +model.widht=3).", "Did you mean 'width'?", WRONG),
    ("plan model.width=wide", "model.width=wide is not a whole number (on the command line: model.width=wide).", "", WRONG),
    # DeepSpeed
    ("plan strategy.deepspeed_file=nowhere.json", "strategy.deepspeed_file nowhere.json cannot be read: No such file or directory (<project>/nowhere.json).", "The path is relative to the folder you start the command in.", WRONG),
    ("plan strategy.deepspeed_file=comma.json", "strategy.deepspeed_file comma.json, line 1, column 40: not JSON: Expecting property name enclosed in double quotes.", "Correct the file; JSON has no comments, and no comma before a closing bracket.", WRONG),
    ("plan strategy.deepspeed_file=batch.json", "strategy.deepspeed_file batch.json sets train_batch_size=32, but the plan has 64.", "Set batch=32 or delete the key.", WRONG),
    ("plan +strategy.deepspeed.zero_optimization.stag=1", "strategy.deepspeed sets zero_optimization.stag, which DeepSpeed does not know.", "Did you mean 'stage'?", WRONG),
    # this machine
    ("plan cluster.gpus_per_worker=1 cluster.workers=2", "2 workers with 1 GPU each need 2 GPUs, and there are none.", "Set cluster.gpus_per_worker=0 to train on CPUs.", LACKS),
    ("plan precision=fp16", "precision=fp16 needs GPUs, and there are none.", "Set precision=fp32 or precision=bf16.", LACKS),
    ("plan --out a-file/plan.json", "--out a-file/plan.json cannot be written: Not a directory.", "Name a file you can write.", WRONG),
    # before training
    ("train storage.path=a-file/runs", "Cannot write <project>/a-file/runs: Not a directory.", "Set storage.path to a folder or URL you can write to.", LACKS),
    ("train storage.path=a-file tracking=off", "Cannot write <project>/a-file: Not a directory.", "Set storage.path to a folder or URL you can write to.", LACKS),
    ("train tracking.uri=http://127.0.0.1:<closed>", "The tracking server http://127.0.0.1:<closed> cannot be used: Connection refused.", NO_TRACKING, LACKS),
    ("train tracking.uri=gopher://there", "The tracking URI gopher://there begins with 'gopher', which MLflow does not know.", "Use one of: databricks, http, https, mssql, mysql, postgresql, sqlite.", WRONG),
    ("train tracking.uri=mlruns", "The tracking URI mlruns is a folder, a kind of store that MLflow has given up.", "Use a SQLite file instead: tracking.uri=sqlite:///mlflow.db.", WRONG),
    ("train cluster.address=127.0.0.1:1", "Ray at cluster.address=127.0.0.1:1 cannot be reached: Connection refused.", RAY_ADDRESS, LACKS),
    ("train cluster.address=somewhere", "cluster.address=somewhere is not an address of Ray.", RAY_ADDRESS, LACKS),
    # ids
    ("train --id ../x", "A run cannot have the id '../x'.", NAME_ID, WRONG),
    ("train --id ..", "A run cannot have the id '..'.", NAME_ID, WRONG),
    ("train --id a/b", "A run cannot have the id 'a/b'.", NAME_ID, WRONG),
    ("train --id ''", "A run cannot have the id ''.", NAME_ID, WRONG),
    ("train --id mlflow", "A run cannot have the id 'mlflow': MLflow's files lie under that name.", "Choose another id.", WRONG),
    ("train --id last", "A run cannot have the id 'last': it stands for the newest run.", "Choose another id.", WRONG),
    ("train --id digits-a1 tracking=off", "Run digits-a1 exists already in <project>/runs.", "Choose another id, or go on with it: orchestrator resume digits-a1", WRONG),
    ("runs show digits-b", "There is no run 'digits-b' in <project>/runs.", "Nearest: digits-a2, digits-a1. List them with: orchestrator runs.", WRONG),
    ("runs show digits", "Run id 'digits' is ambiguous: digits-a1, digits-a2.", "Give more of it.", WRONG),
    ("runs compare digits-a1 digits-a1", "The same run is named twice: digits-a1, digits-a1.", "Name different runs.", WRONG),
    ("resume nope", "There is no run 'nope'.", "Nearest: digits-a1, digits-a2, stopped-1. List them with: orchestrator jobs, or orchestrator runs.", WRONG),
    ("resume nope --storage elsewhere", "There is no run 'nope' in <project>/elsewhere.", "There are no runs there. If yours lie elsewhere, name the place with --storage.", WRONG),
    ("resume digits-a1", "Run digits-a1 has finished; there is nothing to go on with.", "Run its plan again with: orchestrator train --plan <project>/runs/digits-a1/plan.json", WRONG),
    ("resume stopped-1", "Ray at cluster.address=127.0.0.1:1 cannot be reached: Connection refused.", RAY_ADDRESS, LACKS),
    # plans
    ("train --plan nowhere.json", "Plan nowhere.json cannot be read: No such file or directory.", MAKE_PLAN, WRONG),
    ("train --plan latin.json", "Plan latin.json cannot be read: it is not UTF-8 text.", MAKE_PLAN, WRONG),
    ("train --plan cut.json", "cut.json is not JSON: Expecting value: line 1 column 12 (char 11).", MAKE_PLAN, WRONG),
    ("train --plan other.json", "other.json is not a plan (found: no format number).", MAKE_PLAN, WRONG),
    ("train --plan rowless.json", "rowless.json is damaged: 'rows'.", MAKE_PLAN, WRONG),
    ("train --plan other.json optimizer.lr=1", "--plan other.json runs a plan as it stands, and cannot take 'optimizer.lr=1'.", "Leave out one of the two.", WRONG),
    ("train --plan other.json -cn mine", "--plan other.json runs a plan as it stands, and cannot take --config-name mine.", "Leave out one of the two.", WRONG),
    ("train --plan evil.json", "model._target_=os:system is not an allowed target.", f'{TO_EXPORT} ["os:system"].', WRONG),
    # other verbs
    ("tran", "There is no command 'tran'. Nearest: train, runs, plan.", "See: orchestrator --help", WRONG),
    ("runs shwo", "No such command 'shwo'. Did you mean 'show'?", "See: orchestrator runs --help", WRONG),
    ("init .", "<project> is not empty: it has a-file, batch.json, comma.json, conf, cut.json and 5 more.", "Name a new folder, or empty this one.", WRONG),
    ("init a-file", "<project>/a-file is a file.", "Name a new folder.", WRONG),
    ("init digits", "The package cannot be named 'digits': its config would hide the shipped one (job=digits).", "Choose another name with --name.", WRONG),
    ("init 'new one' --name json", "The package cannot be named 'json': it belongs to Python.", "Choose another name with --name.", WRONG),
    ("ui --no-open --port <taken>", "Port <taken> on 127.0.0.1 cannot be used: Address already in use.", "Choose another one: --port <after>.", LACKS),
    ("ui --host 0.0.0.0", "--host 0.0.0.0 can be reached from other machines, and MLflow's page asks nobody for a password.", "Leave --host out and use an SSH tunnel (ssh -L 5000:127.0.0.1:5000 ...), or add --allow-remote.", WRONG),
    ("completion tcsh", "Invalid value for 'SHELL': 'tcsh' is not one of 'bash', 'zsh', 'fish'.", "See: orchestrator completion --help", WRONG),
]  # fmt: skip

SHAPES = """
def points(split: str) -> list[float]:
    with open(f"data/{split}.csv") as file:
        return [float(line) for line in file]
"""
EXPORTS = '[tool.orchestrator]\nexports = ["shapes:points", "shapes:Triangle", "nowhere:Task"]\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to start commands in, on a machine without GPUs; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "project"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, text in {**FILES, "shapes.py": SHAPES, "pyproject.toml": EXPORTS}.items():
        write(folder / name, text)
    (folder / "latin.json").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(folder)
    before = dict(sys.modules)
    yield folder
    for name, module in list(sys.modules.items()):
        if name not in before and str(getattr(module, "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def add_runs(project: Path) -> None:
    """Two that have finished, one that could go on if its cluster were there, and a plan that somebody changed."""
    plan = make_plan(ConfigArgs(overrides=("tracking=off",)), check_code=False)
    text = plan.to_json()
    elsewhere = Plan.from_json(text.replace('"address": null', '"address": "127.0.0.1:1"'))
    for run_id, status, of in (
        ("digits-a1", Status.finished, plan),
        ("digits-a2", Status.finished, plan),
        ("stopped-1", Status.stopped, elsewhere),
    ):
        record = runs.create(of, run_id)
        record.status = status
        record.save()
    write(project / "evil.json", text.replace("orchestrator.jobs.image_classification:SmallResNet", "os:system"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file, and every folder as a file of nothing."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, str]]:
    """A port that somebody listens on, and one that nobody does."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else gets it
        number = taken.getsockname()[1]
        yield {"<taken>": str(number), "<after>": str(number + 1), "<closed>": str(closed.getsockname()[1])}


@pytest.mark.parametrize(("command", "error", "hint", "code"), CASES, ids=[case[0] for case in CASES])
def test_one_line_and_what_to_do(
    project: Path, ports: dict[str, str], capsys: Capture, command: str, error: str, hint: str, code: int
) -> None:
    if re.search(r"digits-a|runs show|resume|evil", command):
        add_runs(project)
    for name, value in {**ports, "<project>": str(project)}.items():
        command, error, hint = (text.replace(name, value) for text in (command, error, hint))
    before, begun = content(project.parent), time.monotonic()
    assert main(shlex.split(command)) == code
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"error: {error}", *([hint] if hint else [])]
    assert out == ""
    assert time.monotonic() - begun < 20
    assert content(project.parent) == before


@pytest.mark.parametrize(
    ("command", "kind", "code"),
    [
        ("plan job.epcohs=3", "ConfigError", WRONG),
        ("plan --multirun", "UsageError", WRONG),
        ("train cluster.address=127.0.0.1:1", "MachineError", LACKS),
        ("resume nope", "UnknownRunError", WRONG),
        ("runs show nope", "UnknownRunError", WRONG),
        ("runs shwo", "UsageError", WRONG),
        ("init digits", "ConfigError", WRONG),
    ],
)
def test_the_same_as_json(project: Path, capsys: Capture, command: str, kind: str, code: int) -> None:
    assert main([*shlex.split(command), "--json"]) == code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["type"] == kind
    assert err.splitlines() == [f"error: {error['message']}", error["hint"]]


def test_a_dataset_without_its_file(project: Path, capsys: Capture) -> None:
    write(project / "conf/data/points.yaml", "_target_: shapes:points\n")
    command = "train job=diabetes data=points cluster=torchrun tracking=off --id points-1"
    assert main(shlex.split(command)) == 1
    out, err = capsys.readouterr()
    cause = "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.csv'"
    assert out == ""
    assert "Traceback (most" not in err
    lines = err.splitlines()
    at = lines.index(f"error: {cause} (worker 0, {project}/shapes.py:3)")
    assert lines[at + 1] == f"  worker 0 on {socket.gethostname()}, at shapes.py:3 in points"
    assert (
        lines[-1]
        == f"Traceback and log: {project}/runs/points-1/logs/rank-0.log. Go on with: orchestrator resume points-1."
    )
    assert main(["runs", "show", "last"]) == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert shown[shown.index("failure") + 1] == cause
    assert shown.index("failure") < shown.index("files")
    assert 'File "shapes.py", line 3, in points' in shown


@pytest.mark.parametrize(
    ("kind", "message", "told"),
    [
        ("RuntimeError", "two\n  lines", "RuntimeError: two lines (worker 3, task.py:7)"),
        ("ConfigError", "job.x is not there. Set y.", "job.x is not there. Set y."),
    ],
)
def test_a_workers_exception_is_told_in_one_line(kind: str, message: str, told: str) -> None:
    assert failures.describe({"type": kind, "message": message, "rank": 3, "where": "task.py:7"}) == told

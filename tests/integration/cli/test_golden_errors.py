"""What users see when something they typed is wrong: error, hint and exit code, pinned for a table of commands.

After an intended change: pytest tests/integration/cli --update-golden, and read the diff. Cases need no network, no Ray and no
training; those that plan do it for the nodes of a cluster.yaml, so that the machine which runs the tests does not matter.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.main import main
from tests.golden_files import compare

Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[3]
INTERNALS = re.compile(rf"(?<![.\w])orchestrator\.(?!jobs\b)\w+|Traceback|internal error|{re.escape(str(ROOT))}")
"""What no error of this table may show: our modules, tracebacks, bugs, and where this checkout is stored."""

# --- the project in which every command is run -----------------------------------------------------------------------

CLUSTER = {
    "cluster_name": "own",
    "provider": {
        "type": "local",
        "head_ip": "10.0.0.1",
        "worker_ips": ["10.0.0.2"],
        "node_resources": {"*": {"CPU": 4, "memory": "8GiB"}},
    },
    "auth": {"ssh_user": "me"},
}


def cluster(**changes: object) -> str:
    """A cluster.yaml with these keys in place of the good ones."""
    return yaml.safe_dump({**CLUSTER, **changes})


def provider(**changes: object) -> str:
    """A cluster.yaml with these keys of `provider` in place of the good ones."""
    return cluster(provider={**CLUSTER["provider"], **changes})  # type: ignore[dict-item]


CLUSTER_FILES = {
    "good.yaml": cluster(),
    "gpus.yaml": provider(node_resources={"*": {"CPU": 8, "GPU": 2, "memory": "64GiB", "accelerator_type:H100": 1}}),
    "list.yaml": "- 10.0.0.1\n- 10.0.0.2\n",
    "tabs.yaml": "provider:\n\ttype: local\n",
    "stray-node.yaml": provider(node_resources={"10.0.0.9": {"CPU": 4}}),
    "memory.yaml": provider(node_resources={"*": {"CPU": 4, "memory": "64 giga"}}),
    "cloud.yaml": "provider: {type: aws}\n",
    "key.yaml": cluster(clutser_name="x"),
    "own-key.yaml": cluster(metadata={"orchestrator": {"tsl": True}}),
    "own-type.yaml": cluster(metadata={"orchestrator": {"tls": "maybe"}}),
    "port.yaml": cluster(metadata={"orchestrator": {"ray_port": 0}}),
    "host.yaml": provider(worker_ips=["h2"]),
    "twice.yaml": provider(worker_ips=["10.0.0.2", "10.0.0.2"]),
}
PLAN_FILES = {
    "cut.json": '{"format": ',
    "other.json": '{"epochs": 3}\n',
    "rowless.json": '{"format": 2}\n',
    "newer.json": '{"format": 99, "rows": []}\n',
}
OTHER_FILES = {
    "a-file": "in the way\n",
    "conf/job/broken.yaml": "name: broken\n task: x\n",
    # Runs whose ids are known, though nothing else of them is.
    "runs/digits-a1/run.json": '{"format": 2}\n',
    "runs/digits-a2/run.json": "{}\n",
}

# --- the commands ----------------------------------------------------------------------------------------------------

ON_NODES = "plan cluster=existing tracking=off --cluster good.yaml"
"""A plan for two nodes with 4 CPUs and 8 GiB each, without GPUs."""

CASES = {
    "Commands and options": [
        "tran",
        "plan --jsn",
        "plan --multirun optimizer.lr=0.1",
        "plan -cn",
        "plan --cfg everything",
        "plan --resolve",
        "runs shwo",
        "runs --limit 0",
        "runs --limit many",
        "runs --status done",
        "jobs --state done",
        "jobs --watch --json",
        "runs show",
        "runs compare digits-a1",
        "stop nope --grace -1",
        "completion tcsh",
        "cluster start",
        "sweep best",
    ],
    "Keys, groups and values": [
        "plan nosuchkey=1",
        "plan job.epcohs=3",
        "plan ~model.drop",
        "plan optimiser=sgd",
        "plan optimizer=sgdd",
        "plan strategy=zero4",
        "plan job=digit",
        "plan job=broken",
        "plan model=resnett",
        "plan data=digitz",
        "plan precision=fp8",
        "plan experiment=demoo",
        "plan job.epochs=many",
        "plan optimizer.name=adamx",
        "plan optimizer.lr=-1",
        "plan tracking.enabled=perhaps",
        "plan cluster.workers=8..2",
        "plan cluster.memory_per_worker=4GX",
        "plan optimizer.lr",
        "plan optimizer.betas=[0.9,0.99",
        "plan optimizer.lr=0.1,0.2",
    ],
    "Targets": [
        "plan model._target_=os:system",
        "plan job.task=jobs.image_classification:ImageClasification",
        "plan +model.widht=3",
    ],
    "Settings that do not go together": [
        "plan batch=64 micro_batch=8 accumulation=3 cluster.workers=2",
        "plan batch=50 cluster.workers=4",
        "plan mesh.tensor=2 strategy=zero3",
        "plan cluster.nodes=2 cluster.address=10.0.0.1:6379",
    ],
    "DeepSpeed settings": [
        "plan +strategy.deepspeed.zero_optimization.stag=1",
    ],
    "What the nodes of a cluster.yaml do not have": [
        f"{ON_NODES} cluster.workers=16 batch=64",
        f"{ON_NODES} cluster.workers=4 cluster.memory_per_worker=6GiB",
        "plan cluster=existing tracking=off --cluster gpus.yaml cluster.gpus_per_worker=1 cluster.gpu_type=A100",
    ],
    "A cluster.yaml that is wrong, for a plan": [
        "plan --cluster good.yaml",
        *(f"plan cluster=existing tracking=off --cluster {name}.yaml" for name in ("stray-node", "memory")),
    ],
    "A cluster.yaml that is wrong, for a cluster": [
        *(
            f"cluster validate {name}.yaml"
            for name in (
                "nowhere",
                "list",
                "tabs",
                "key",
                "own-key",
                "own-type",
                "port",
                "host",
                "twice",
                "stray-node",
                "cloud",
            )
        ),
    ],
    "Run ids": [
        *(f"{verb} nope" for verb in ("runs show", "jobs show", "logs", "attach", "why", "stop", "resume", "rerun")),
        "evaluate nope",
        "export nope",
        "runs show digits",
        "why digits",
        "runs show digits-a1",
        "resume digits-b",
        "resume nope --storage elsewhere",
        "train --id ../x",
        "train --id last",
        "train --id mlflow",
    ],
    "Plan files": [
        *(f"train --plan {name}.json" for name in ("nowhere", "latin", "cut", "other", "rowless", "newer")),
        "train --plan other.json optimizer.lr=1",
        "train --plan other.json -cn mine",
        "submit --plan cut.json",
    ],
    "Sweeps": [
        "sweep job=digits",
        "sweep optimizer.lrr=1,2",
        "sweep 'optimizer.lr=interval(1e-4'",
        "sweep 'optimizer.lr=interval(1,0)'",
        "sweep 'batch=glob(*)'",
        "sweep batch=32,64 'sweep.constraints=[batch <]'",
        "sweep batch=32,64 'sweep.constraints=[\"batch <\"]'",
        "sweep --name list batch=32,64",
        "sweep best nope",
        "sweep resume nope",
    ],
    "New projects": [
        "init .",
        "init a-file",
        "init digits",
        "init 'new one' --name json",
        "init new --name 1",
    ],
    "Errors as JSON": [
        "plan job.epcohs=3 --json",
        "plan --multirun --json",
        "runs show nope --json",
        f"{ON_NODES} cluster.workers=2 cluster.gpus_per_worker=1 --json",
    ],
}
"""Commands under the title of their part of the golden file."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to start commands in, on a machine with no GPU, no cluster and no settings of the user's own."""
    folder = tmp_path / "project"
    for name, text in {**CLUSTER_FILES, **PLAN_FILES, **OTHER_FILES}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (folder / "latin.json").write_bytes(b"\xff\xfe")
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "ORCHESTRATOR_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    # Jobs that other tests submitted would be suggested for ids that are unknown.
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    return folder


def entry(command: str, project: Path, capsys: Capture) -> str:
    """A command as it is typed, its exit code and what it prints."""
    code = main(shlex.split(command))
    out, err = capsys.readouterr()
    shown = [f"$ orchestrator {command}", f"exit code {code}", *err.splitlines()]
    if out:
        shown += ["stdout:", *out.splitlines()]
    return "\n".join(shown).replace(str(project.parent), "<tmp>")


def test_errors_are_the_pinned_ones(project: Path, capsys: Capture, update_golden: bool) -> None:
    before = sorted(project.parent.rglob("*"))
    parts = []
    for title, commands in CASES.items():
        entries = [entry(command, project, capsys) for command in commands]
        parts.append("\n\n".join([f"===== {title}", *entries]))
    text = "\n\n".join(parts) + "\n"
    assert sorted(project.parent.rglob("*")) == before, "a command that is refused leaves no files behind"
    assert INTERNALS.findall(text) == []
    compare(Path(__file__).with_name("golden") / "errors.txt", text, update=update_golden)


def test_every_command_is_listed_once() -> None:
    listed = [command for commands in CASES.values() for command in commands]
    assert len(set(listed)) == len(listed)


def test_every_file_of_the_project_is_used() -> None:
    listed = " ".join(command for commands in CASES.values() for command in commands)
    assert [name for name in (*CLUSTER_FILES, *PLAN_FILES) if name not in listed] == []

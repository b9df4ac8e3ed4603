"""Training scripts that people have, unchanged, over two hosts; a worker is killed, and they go on by themselves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import HOME, Hosts
from tests.cluster.laptop import TWO_HOSTS, Laptop, soon
from tests.cluster.started import PYTHON, spec, started
from tests.integration.train.script_runs import BOTH, Script, kill, scripts_of, worker_of

pytestmark = pytest.mark.timeout(400)
READ_STEPS = """
import json, os, sys
from mlflow import MlflowClient
client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
print(json.dumps([point.step for point in client.get_metric_history(sys.argv[1], "loss")]))
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def laptop(allowed: None, shared: Path) -> Iterator[Laptop]:
    with (
        Hosts(2, shared=[shared]) as hosts,
        started(hosts, spec(hosts, "scripts", hosts.all, listen="network")) as person,
    ):
        laptop = Laptop(person, shared)
        for script in BOTH:
            script.put(laptop.folder)
        yield laptop


@pytest.mark.parametrize("script", BOTH, ids=lambda script: script.file)
def test_submitted_and_killed_it_goes_on(laptop: Laptop, script: Script) -> None:
    run = f"sent-{script.file.partition('_')[0].removesuffix('.py')}"
    laptop.submits(run, *script.overrides, *TWO_HOSTS)
    soon(lambda: script.has_saved(laptop.root(run)))
    assert len(laptop.hosts_of(run, 1)) == 2
    kill(run, rank=1)
    soon(lambda: laptop.is_over(run))
    ended = laptop.run(run)
    assert (ended["status"], len(ended["attempts"])) == ("finished", 2), ended
    script.check(lambda rank: laptop.gets("logs", run, "--rank", str(rank)))
    assert not scripts_of(run)


def test_what_trainer_records_reaches_the_servers_run(laptop: Laptop) -> None:
    """Of both attempts, into one run, over the network."""
    env = {
        "MLFLOW_TRACKING_URI": laptop.person.login()["url"],
        "MLFLOW_TRACKING_AUTH": "orchestrator",
        "ORCHESTRATOR_MLFLOW_LOGIN": str(HOME / ".orchestrator/remote/scripts/mlflow-login.json"),
    }
    command = [*PYTHON, "-c", READ_STEPS, laptop.run("sent-trainer")["mlflow_run_id"]]
    done = laptop.person.hosts.laptop.run(command, env=env, check=True, timeout=120)
    steps = json.loads(done.stdout.splitlines()[-1])
    assert {5, 200, 205, 400} <= set(steps)


@pytest.mark.parametrize("script", BOTH, ids=lambda script: script.file)
def test_trained_on_the_head_and_killed_it_goes_on(laptop: Laptop, script: Script, shared: Path) -> None:
    """The worker itself dies this time; its script goes with it."""
    run, project = f"here-{script.file.removesuffix('.py')}", shared / "project"
    project.mkdir(exist_ok=True)
    script.put(project)
    words = ["train", *script.overrides, "cluster=existing", *TWO_HOSTS, *laptop.storage, "--id", run]
    line = f"cd {project} && {shlex.join(['orchestrator', *words])}"
    command = laptop.person.command("exec", "--", "sh", "-c", line)
    with laptop.person.hosts.laptop.popen(command, stdout=-1, stderr=-1, text=True) as training:
        soon(lambda: script.has_saved(laptop.root(run)) or training.poll() is not None)
        assert training.poll() is None, training.communicate()
        worker_of(run, rank=1).kill()
        told, trouble = training.communicate(timeout=150)
    assert training.returncode == 0, told + trouble
    assert len(laptop.run(run)["attempts"]) == 2
    script.check(lambda rank: (laptop.root(run) / f"logs/rank-{rank}.log").read_text())


def test_what_a_script_leaves_on_the_nodes_is_no_part_of_the_project(laptop: Laptop) -> None:
    """It runs in the project's folder there; the same command again still means the same job."""
    (laptop.folder / "leaves.py").write_text("open('left.txt', 'a').write('x')\n")
    words = ("job=script", "script=leaves.py", "cluster.workers=1")
    assert laptop.submits("leaves", *words)["new"]
    soon(lambda: laptop.is_over("leaves"))
    assert laptop.run("leaves")["status"] == "finished"
    assert not laptop.submits("leaves", *words)["new"]
    first = laptop.submits("leaves-again", *words)
    assert first["package"] == json.loads((laptop.root("leaves") / "job.json").read_text())["package"]

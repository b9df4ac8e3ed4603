"""`submit` and what follows it, on a cluster of this machine, as a person uses them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.foundation.storage import open_store
from orchestrator.runtime.checkpoint.catalog import Catalog
from tests.integration.submit.client_killed import STEPS
from tests.integration.submit.submitting import SECRET, Person, own_project, soon, write
from tests.integration.train.script_runs import BOTH, Script, kill

LONG = ("job=diabetes", "job.epochs=null", "job.steps=1000000", "job.evaluate.epochs=null", "checkpoint=final_only")
SHORT = ("job=diabetes", "job.epochs=1", "checkpoint=final_only")


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    person = Person(tmp_path_factory.mktemp("submit"))
    own_project(person.folder)
    for script in BOTH:
        script.put(person.folder)
    yield person
    person.says("down")


@pytest.fixture(scope="module")
def up(person: Person) -> dict[str, str]:
    record: dict[str, str] = json.loads(person.gets("up", "--cpus", "2", "--json"))["record"]
    return record


@pytest.fixture(scope="module")
def done(person: Person, up: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A job of the person's own, submitted and followed to its end; its command."""
    token = write(tmp_path_factory.mktemp("secrets"), "token", f"{SECRET}\n")
    token.chmod(0o600)
    words = (
        "submit", "job=line", "cluster.workers=2", "--id", "own", f"+environment.secrets.HF_TOKEN={{file: {token}}}",
        f"+environment.variables.WHERE={token}", "+environment.variables.MODE=fast",
    )  # fmt: skip
    told = person.says(*words, "--wait")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "own finished after 12 steps" in told.stdout
    return words


def test_a_project_runs_with_its_code_its_packages_its_files_and_its_secrets(
    person: Person, done: tuple[str, ...]
) -> None:
    run = person.run("own")
    assert run["final_metrics"]["val/greeting"] == len("hello")
    assert run["project"] != str(person.folder), "it ran from what was sent"
    assert not Path(run["project"], "scratch").exists()
    assert (person.submissions("own"), person.mlflow_runs("own")) == (["own-a1"], 1)


def test_a_secret_is_written_nowhere(person: Person, done: tuple[str, ...]) -> None:
    places = [person.folder, person.home, Path(person.env["XDG_CACHE_HOME"])]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if SECRET.encode() in file.read_bytes()]


def test_the_same_again_starts_nothing(person: Person, done: tuple[str, ...]) -> None:
    assert "own was handed in already, and is not started again" in person.gets(*done)
    assert (person.submissions("own"), person.mlflow_runs("own")) == (["own-a1"], 1)


def test_the_id_is_taken(person: Person, done: tuple[str, ...]) -> None:
    other = person.says(*done, "job.epochs=4")
    assert (other.returncode, error_of(other)) == (2, "error: The id own is in use for another plan.")


def test_rerun_takes_the_project_as_it_was_sent(person: Person, done: tuple[str, ...]) -> None:
    task = person.folder / "own/task.py"
    before = task.read_text()
    task.write_text("raise ValueError('changed since')\n")
    try:
        told = person.says("rerun", "own", "--id", "again", "--wait")
    finally:
        task.write_text(before)
    assert told.returncode == 0, told.stdout + told.stderr
    assert person.job("again")["package"] == person.job("own")["package"]
    first, second = (person.run(run)["final_metrics"] for run in ("own", "again"))
    assert {name: first[name] for name in first if name.startswith("val/")} == {
        name: second[name] for name in second if name.startswith("val/")
    }


@pytest.mark.matrix(2)
def test_50_at_once_are_one_job(person: Person, up: dict[str, str]) -> None:
    clients = [person.begins("submit", *SHORT, "--id", "race", "--json") for _ in range(50)]
    told = [client.communicate(timeout=250) for client in clients]
    assert [client.returncode for client in clients] == [0] * 50, [error for _, error in told if error][:3]
    answers = [json.loads(answer) for answer, _ in told]
    assert sum(answer.pop("new") for answer in answers) == 1
    assert all(answer == answers[0] for answer in answers)
    soon(lambda: person.run("race").get("status") == "finished")
    assert (person.submissions("race"), person.mlflow_runs("race")) == (["race-a1"], 1)


@pytest.mark.matrix(2)
def test_two_plans_that_race_for_one_id(person: Person, up: dict[str, str]) -> None:
    """One wins; the others are told so, and nothing of them comes into its folder."""
    epochs = [1 + n % 2 for n in range(6)]
    clients = [person.begins("submit", *SHORT, f"job.epochs={each}", "--id", "either", "--json") for each in epochs]
    told = [client.communicate(timeout=250) for client in clients]
    plan = json.loads((person.storage / "either/plan.json").read_text())
    won = plan["spec"]["job"]["epochs"]
    for each, client, (_, error) in zip(epochs, clients, told, strict=True):
        lost = "error: The id either is in use for another plan."
        assert (client.returncode, lost in error) == ((0, False) if each == won else (2, True)), error
    assert person.job("either")["asked"][-1] == f"job.epochs={won:g}"
    assert f"epochs: {won:.1f}\n" in (person.storage / "either/config.yaml").read_text()
    soon(lambda: person.run("either").get("status") == "finished")
    assert person.submissions("either") == ["either-a1"]


@pytest.mark.matrix(2)
@pytest.mark.parametrize("script", BOTH, ids=lambda script: script.file)
def test_a_script_goes_on_from_its_own_checkpoint(person: Person, up: dict[str, str], script: Script) -> None:
    run = script.file.removesuffix(".py")
    person.gets("submit", *script.overrides, "--id", run)
    soon(lambda: script.has_saved(person.storage / run), 200)
    kill(run, rank=1)
    soon(lambda: person.run(run).get("status") == "finished", 200)
    assert len(person.run(run)["attempts"]) == 2
    script.check(lambda rank: person.gets("logs", run, "--rank", str(rank)))


@pytest.mark.matrix(2)
def test_a_client_killed_at_any_step_is_completed_once(person: Person, up: dict[str, str]) -> None:
    person.gets("plan", *SHORT, "cluster=existing", "--out", "scratch/plan.json")
    script = [sys.executable, Path(__file__).with_name("client_killed.py"), "scratch/plan.json"]
    env = {**person.env, "PYTHONPATH": str(Path(__file__).parents[3])}
    told = subprocess.run(script, cwd=person.folder, env=env, capture_output=True, text=True, timeout=200)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {step: [-signal.SIGKILL, 0] for step in STEPS}
    runs = [f"kill-{step}" for step in STEPS]
    assert [person.submissions(run) for run in runs] == [[f"{run}-a1"] for run in runs]
    for run in runs:
        person.gets("stop", run, "--now", "--no-wait")
    soon(lambda: all(person.run(run).get("status") in ("stopped", "finished") for run in runs), 250)
    assert all(len(person.run(run)["attempts"]) == 1 for run in runs)


@pytest.mark.matrix(2)
def test_detach_stop_and_resume(person: Person, up: dict[str, str]) -> None:
    follower = person.begins("submit", *LONG, "cluster.workers=2", "--id", "long", "--wait")
    soon(lambda: person.trains("long", 1))
    follower.send_signal(signal.SIGINT)
    _, told = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "Detached: long goes on without you" in told

    refused = person.says("resume", "long")
    assert (refused.returncode, "long goes on" in refused.stderr) == (2, True)
    assert "long stopped at step" in person.gets("stop", "long")
    run = person.run("long")
    catalog = Catalog(open_store(run["root"]).child("checkpoints"))
    with catalog.opened(run["last_checkpoint"]) as saved:
        assert saved.whole_damage() is None
    assert "is over already: stopped" in person.gets("stop", "long")

    person.gets("resume", "long")
    second = soon(lambda: person.trains("long", 2))
    assert second["first_step"] == run["step"]
    begun = time.monotonic()
    person.gets("stop", "long", "--now")
    assert time.monotonic() - begun < 20
    assert person.submissions("long") == ["long-a1", "long-a2"]
    assert person.mlflow_runs("long") == 1


@pytest.mark.matrix(2)
def test_a_killed_driver_is_lost_and_resumed(person: Person, up: dict[str, str]) -> None:
    person.gets("submit", *LONG, "--id", "lost")
    attempt = soon(lambda: person.trains("lost", 1))
    psutil.Process(attempt["pid"]).kill()
    soon(lambda: json.loads(person.gets("jobs", "show", "lost", "--json"))["state"] == "lost")
    assert "training 1000000 steps" in person.gets("logs", "lost", "--all")
    person.gets("resume", "lost")
    soon(lambda: len(person.run("lost")["attempts"]) == 2)
    person.gets("stop", "lost", "--now")


def test_a_package_that_cannot_be_had_is_the_first_thing_told(person: Person, up: dict[str, str]) -> None:
    """The person's own machine has it, as laptops do; here, a node is given another list."""
    code = (
        "import orchestrator\n"
        "from orchestrator.project import unpack\n"
        "unpack.add_packages = lambda *words: None\n"
        f"print(orchestrator.submit(*{SHORT!r}, id='lacks').id)"
    )
    listed = person.folder / "requirements.txt"
    before = listed.read_text()
    listed.write_text("--no-index\nno-such-package-of-ours\n")
    try:
        person.runs_python(code)
    finally:
        listed.write_text(before)
    soon(lambda: person.run("lacks").get("status") == "failed")
    first_lines = "\n".join(person.gets("jobs", "show", "lacks").splitlines()[:10])
    assert "packages cannot be installed" in first_lines
    assert "no-such-package-of-ours" in first_lines


def test_the_api_on_a_real_cluster(person: Person, up: dict[str, str]) -> None:
    code = (
        "import os, orchestrator\n"
        "before = dict(os.environ)\n"
        f"job = orchestrator.submit(*{SHORT!r}, id='api')\n"
        "assert dict(os.environ) == before\n"
        "assert job.state in ('queued', 'starting', 'running'), job.state\n"
        "found = job.result(150)\n"
        "assert found.state == 'finished' and found.metrics['val/loss'] and found.mlflow_run_id, found\n"
        f"assert orchestrator.submit(*{SHORT!r}, id='api').id == job.id\n"
        "assert any('training' in line for line in job.logs()), list(job.logs())\n"
        "print([each.id for each in orchestrator.runs(submitted=True)])"
    )
    assert "'api'" in person.runs_python(code)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The first line of the error that a command ended with."""
    return next(line for line in done.stderr.splitlines() if line.startswith("error:"))


class TestBadInput:
    def told(self, person: Person, *words: str) -> tuple[int, str]:
        """Exit code, and the line of the error."""
        done = person.says(*words)
        return done.returncode, error_of(done)

    @pytest.mark.parametrize("verb", ["stop", "resume", "rerun"])
    def test_unknown_id(self, person: Person, up: dict[str, str], verb: str) -> None:
        assert self.told(person, verb, "nothing") == (2, "error: There is no run 'nothing'.")

    def test_unwritable_storage(self, person: Person, up: dict[str, str]) -> None:
        code, line = self.told(person, "submit", *SHORT, "storage.path=/proc/runs")
        assert (code, line.startswith("error: Cannot write /proc/runs")) == (3, True), line

    def test_too_large(self, person: Person, up: dict[str, str]) -> None:
        done = person.says("submit", *SHORT, "--upload-limit", "100")
        assert done.returncode == 2
        assert "to send, and --upload-limit is" in error_of(done)
        assert "wheels/greeting-1.0" in done.stderr

    def test_what_never_fits(self, person: Person, up: dict[str, str]) -> None:
        code, line = self.told(person, "submit", *SHORT, "cluster.workers=64", "batch=64")
        assert (code, self.told(person, "plan", *SHORT, "cluster=existing", "cluster.workers=64", "batch=64")) == (
            3,
            (3, line),
        )

    def test_a_plan_for_this_terminal(self, person: Person, up: dict[str, str]) -> None:
        code, line = self.told(person, "submit", *SHORT, "cluster=local")
        assert (code, line) == (2, "error: cluster.address=None does not mean the cluster local, which takes this job.")

    def test_wrong_token(self, person: Person, up: dict[str, str]) -> None:
        token = person.home / "clusters/local/token"
        before = token.read_text()
        person.gets("plan", *SHORT, "cluster=existing", "--out", "scratch/plan.json")
        token.write_text("another")
        try:
            code, line = self.told(person, "submit", "--plan", "scratch/plan.json")
        finally:
            token.write_text(before)
        assert (code, line.endswith("does not know our token.")) == (3, True), line

    def test_stopped_cluster(self, person: Person, up: dict[str, str]) -> None:
        """Last of all: it ends it."""
        person.gets("down")
        assert self.told(person, "submit", *SHORT) == (3, "error: No cluster is up on this machine to take jobs.")
        code, line = self.told(person, "rerun", "own")
        assert (code, line) == (3, "error: No cluster is up on this machine to take jobs.")
        assert "is over already" in person.gets("stop", "own")
        assert (person.storage / "own").is_dir()

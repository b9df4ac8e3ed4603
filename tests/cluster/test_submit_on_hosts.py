"""Jobs over several hosts, handed in, stopped and handed in again by a person at a laptop."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.foundation.storage import open_store
from orchestrator.runtime.checkpoint.catalog import Catalog
from tests.cluster.hosts import HOME, Hosts
from tests.cluster.laptop import TWO_HOSTS, Laptop, soon
from tests.cluster.started import spec, started
from tests.integration.submit.submitting import SECRET, own_project

JOB = ("job=diabetes", "strategy=zero2", "job.epochs=null", "job.steps=1000000", "job.evaluate.epochs=null")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def laptop(allowed: None, shared: Path) -> Iterator[Laptop]:
    with Hosts(4, shared=[shared]) as hosts, started(hosts, spec(hosts, "jobs", hosts.all, listen="network")) as person:
        yield Laptop(person, shared)


@pytest.mark.timeout(900)
def test_a_job_is_stopped_resumed_elsewhere_and_done_once_more(laptop: Laptop) -> None:
    told = laptop.submits("first", *JOB, *TWO_HOSTS)
    assert (told["new"], [each["id"] for each in told["submissions"]]) == (True, ["first-a1"])
    assert not laptop.submits("first", *JOB, *TWO_HOSTS)["new"], "the same command again hands in nothing"
    soon(lambda: laptop.attempt("first", 1))
    assert len(laptop.hosts_of("first", 1)) == 2

    assert "first stopped at step" in laptop.gets("stop", "first")
    stopped = laptop.run("first")
    with Catalog(open_store(stopped["root"]).child("checkpoints")).opened(stopped["last_checkpoint"]) as saved:
        assert saved.whole_damage() is None

    laptop.submits("holder", *JOB, *TWO_HOSTS)
    soon(lambda: laptop.attempt("holder", 1))
    laptop.gets("resume", "first")
    laptop.submits("waits", *JOB, *TWO_HOSTS)
    second = soon(lambda: laptop.attempt("first", 2))
    assert second["first_step"] == stopped["step"]
    assert laptop.hosts_of("first", 2).isdisjoint(laptop.hosts_of("holder", 1))
    soon(lambda: "waits for room" in laptop.gets("why", "waits"))
    why = laptop.gets("why", "waits")
    assert all(name in why for name in ("first", "holder", "h1", "h4")), why
    for run in ("waits", "first", "holder"):
        laptop.gets("stop", run, "--now")

    laptop.gets("rerun", "first", "--id", "more")
    soon(lambda: laptop.attempt("more", 1))
    assert laptop.run("more")["plan_digest"] == laptop.run("first")["plan_digest"]
    follower = laptop.begins("logs", "more", "-f", "--all")
    ranks: set[str] = set()
    while ranks != {"0", "1"}:
        line = follower.stdout.readline()
        assert line, follower.communicate()
        ranks |= {line.split()[1]} if line.startswith("rank") else set()
    laptop.gets("stop", "more", "--now")
    assert "more stopped" in follower.communicate(timeout=60)[1]


@pytest.mark.timeout(400)
def test_a_sweep_of_trials_over_two_hosts(laptop: Laptop) -> None:
    words = ("job=diabetes", "job.epochs=1", "optimizer.lr=1e-3,1e-2,1e-1,1", *TWO_HOSTS, *laptop.storage)
    there = ("--storage", f"{laptop.shared}/runs")
    shown = json.loads(laptop.gets("sweep", "--dry-run", "--json", *words))
    assert shown["at_once"] == 2, "there are four hosts"
    laptop.gets("sweep", "--name", "rates", "--wait", *words)
    told = json.loads(laptop.gets("sweep show", "rates", *there, "--json"))
    assert [trial["state"] for trial in told["trials"]] == ["finished"] * 4
    # A worker takes a host as a whole, so the two of a trial are on two.
    sizes = [laptop.attempt(f"rates/trials/rates-{number:04}", 1)["world_size"] for number in range(4)]
    assert sizes == [2] * 4
    assert "optimizer.lr=" in laptop.gets("sweep best", "rates", *there)
    assert laptop.says("sweep", "--name", "rates", *words[:-1], "optimizer.lr=1,2").returncode == 2


@pytest.mark.timeout(300)
def test_errors_come_home(laptop: Laptop) -> None:
    done = laptop.says("stop", "nothing")
    assert (done.returncode, "There is no run 'nothing'" in done.stderr) == (2, True)
    done = laptop.says(
        "submit", *JOB, "cluster.workers=64", "batch=64", f"storage.path={laptop.shared}/runs", "storage.shared=true"
    )
    assert done.returncode == 3
    assert not list((laptop.shared / "runs").glob("diabetes-*"))


@pytest.mark.timeout(400)
class TestAProjectOfOnesOwn:
    """Its code, packages and secrets are needed on every host that has a worker."""

    SECRET = HOME / ".secret"
    WORDS = (
        "job=line", *TWO_HOSTS, f"+environment.secrets.HF_TOKEN={{file: {SECRET}}}",
        f"+environment.variables.WHERE={SECRET}", "+environment.variables.MODE=fast",
    )  # fmt: skip

    @pytest.fixture(autouse=True)
    def project(self, laptop: Laptop) -> None:
        if not (laptop.folder / "own").exists():
            own_project(laptop.folder)

    def test_every_host_gets_packages_and_reads_its_own_secret(self, laptop: Laptop) -> None:
        hosts = laptop.person.hosts
        for host in hosts.all:
            host.file(self.SECRET).write_text(f"{SECRET}_{host.name}\n")
            host.file(self.SECRET).chmod(0o600)
        laptop.submits("own", *self.WORDS)
        soon(lambda: laptop.is_over("own"))
        assert laptop.run("own")["status"] == "finished", laptop.gets("jobs", "show", "own")
        assert laptop.run("own")["final_metrics"]["val/greeting"] == len("hello")
        used = [host for host in hosts.all if host.name in laptop.hosts_of("own", 1)]
        assert len(used) == 2
        for host in used:
            installed = list(host.file(HOME / ".cache/orchestrator/environments").glob("*/lib/*/*/greeting"))
            assert len(installed) == 1, host.name
        written = [file for file in laptop.shared.rglob("*") if file.is_file()]
        assert len(written) > 20
        assert not [file for file in written if SECRET.encode() in file.read_bytes()]

    def test_a_host_without_the_secret_is_named(self, laptop: Laptop) -> None:
        head, *others = laptop.person.hosts.all
        for host in others:
            host.file(self.SECRET).unlink()
        head.file(self.SECRET).write_text(SECRET)
        laptop.submits("lacks", *self.WORDS)
        soon(lambda: laptop.is_over("lacks"))
        first_lines = "\n".join(laptop.gets("jobs", "show", "lacks").splitlines()[:10])
        assert "environment.secrets.HF_TOKEN: the file /home/host/.secret cannot be used on h" in first_lines


@pytest.mark.timeout(300)
class TestAFullDisk:
    """One clear line; and the same command works once there is room."""

    SMALL = HOME / "small"

    @pytest.mark.parametrize("where", ["laptop", "h1"])
    def test_on(self, laptop: Laptop, where: str) -> None:
        (laptop.folder / "large.bin").write_bytes(os.urandom(2**20))
        host = laptop.person.hosts[where]
        host.run(["mkdir", "-p", self.SMALL], check=True)
        host.run(["mount", "-t", "tmpfs", "-o", "size=128k", "small", self.SMALL], check=True)
        words = ("submit", *JOB, "--id", f"full-{where}", "--json")
        if where == "laptop":
            env, place = {"TMPDIR": str(self.SMALL)}, laptop.storage
            told = f"error: The project cannot be packed in {self.SMALL}: No space left on device."
        else:
            env, place = {}, (f"storage.path={self.SMALL}/runs",)
            told = f"error: Cannot write {self.SMALL}/runs/packages/"
        done = laptop.says(*words, *place, env=env)
        assert done.returncode == 3, done.stdout + done.stderr
        assert [line.startswith(told) for line in done.stderr.splitlines()][-2:] == [True, False], done.stderr
        assert "Make room there" in done.stderr
        host.run(["mount", "-o", "remount,size=100m", self.SMALL], check=True)
        done = laptop.says(*words, *place, env=env)
        assert (done.returncode, json.loads(done.stdout)["new"]) == (0, True), done.stderr
        laptop.gets("stop", f"full-{where}", "--now")
        (laptop.folder / "large.bin").unlink()

    def test_on_the_way_to_the_head(self, laptop: Laptop) -> None:
        (laptop.folder / "large.bin").write_bytes(os.urandom(2**20))
        head, incoming = laptop.person.hosts["h1"], HOME / ".orchestrator/incoming"
        head.run(["mkdir", "-p", incoming], check=True)
        head.run(["mount", "-t", "tmpfs", "-o", "size=128k", "small", incoming], check=True)
        words = ("submit", *JOB, *laptop.storage, "--id", "full-way", "--json")
        done = laptop.says(*words)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "could not be copied to ~/.orchestrator/incoming/" in done.stderr
        assert "Wrote only" in done.stderr
        assert "Is there room for it?" in done.stderr
        assert head.run(["ls", incoming], check=True).stdout == "", "nothing half sent is left"
        head.run(["mount", "-o", "remount,size=100m", incoming], check=True)
        done = laptop.says(*words)
        assert (done.returncode, json.loads(done.stdout)["new"]) == (0, True), done.stderr
        laptop.gets("stop", "full-way", "--now")
        head.run(["umount", incoming], check=True)
        (laptop.folder / "large.bin").unlink()

"""The hosts that other tests stand on: apart where they should be, reachable, and gone with whoever made them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import KEY, ROOT, Hosts

PYTHON = sys.executable
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()"


@pytest.fixture(scope="module")
def hosts(allowed: None) -> Iterator[Hosts]:
    with Hosts(2) as made:
        yield made


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_each_has_its_own_name_address_and_processes(hosts: Hosts) -> None:
    h1, h2 = hosts.all
    for host in hosts.all:
        assert host.run(["hostname"]).stdout == f"{host.name}\n"
        assert host.address in host.run(["ip", "-brief", "address"]).stdout
    with h1.popen(["sleep", "60"]) as sleeper:
        wait_until(lambda: "sleep 60" in h1.processes().values())
        assert h2.processes() == {}
        sleeper.terminate()
        assert sleeper.wait() == -signal.SIGTERM
    assert h1.processes() == {}


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp", "/run", "/dev/shm", "/home/host", str(ROOT), "/etc"])
def test_what_a_host_writes_is_its_own(hosts: Hosts, folder: str) -> None:
    h1, h2 = hosts.all
    mark = f"{folder}/mark-of-{os.getpid()}"
    h1.run(["touch", mark], check=True)
    assert h1.file(mark).exists()
    assert not h2.file(mark).exists()
    assert not Path(mark).exists()


def test_shared_folders_are_the_same_for_all(make_hosts: Callable[..., Hosts], tmp_path: Path) -> None:
    h1, h2 = make_hosts(2, shared=[tmp_path]).all
    h1.run(["sh", "-c", f"echo hello > {tmp_path}/note"], check=True)
    assert h2.run(["cat", tmp_path / "note"]).stdout == "hello\n"
    assert (tmp_path / "note").read_text() == "hello\n"


def test_environment_is_not_ours(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "1")
    words = hosts.all[0].run(["env"], env={"GIVEN": "2"}).stdout.splitlines()
    assert "HOME=/home/host" in words
    assert "GIVEN=2" in words
    assert not [word for word in words if word.startswith("SECRET")]


def test_ssh_from_the_laptop_with_the_key_and_only_with_it(hosts: Hosts) -> None:
    done = hosts.laptop.run(["ssh", "-o", "BatchMode=yes", "-i", hosts.key, "h2", "hostname; echo $HOME"])
    assert done.stdout == "h2\n/home/host\n"
    other = hosts.laptop.home / "other"
    hosts.laptop.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    options = ["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", other]
    assert "Permission denied" in hosts.laptop.run(["ssh", *options, "h2", "true"]).stderr
    refused = hosts.all[0].run([PYTHON, "-c", KNOCK, hosts.laptop.address, "22"])
    assert "ConnectionRefusedError" in refused.stderr


def test_interpreter_and_project_are_there(hosts: Hosts) -> None:
    done = hosts.all[0].run([PYTHON, "-c", "import orchestrator; print(orchestrator.__file__)"], cwd=ROOT)
    assert done.stdout.strip() == str(ROOT / "orchestrator/__init__.py")
    assert hosts.all[0].run(["python3", "--version"]).stdout.split()[1].startswith("3.")


def test_a_cut_host_is_silent_until_it_is_mended(hosts: Hosts) -> None:
    h1, h2 = hosts.all
    knock = [PYTHON, "-c", KNOCK, h2.address, "22"]
    hosts.cut(h2)
    assert "timed out" in h1.run(knock).stderr or "No route" in h1.run(knock).stderr
    hosts.mend(h2)
    wait_until(lambda: h1.run(knock).returncode == 0)


def test_the_world_outside_is_refused_at_once(hosts: Hosts) -> None:
    began = time.monotonic()
    assert "No route to host" in hosts.all[0].run([PYTHON, "-c", KNOCK, "192.0.2.1", "80"]).stderr
    assert time.monotonic() - began < 2


def test_hosts_can_be_added_and_crash(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(1)
    h2 = hosts.add()
    assert (h2.name, hosts["h2"]) == ("h2", h2)
    assert hosts.all[0].run(["getent", "hosts", "h2"]).stdout.split() == [h2.address, "h2"]
    hosts.crash(h2)
    assert hosts.all[0].run([PYTHON, "-c", KNOCK, h2.address, "22"]).returncode
    assert hosts.laptop.run(["ssh", "h1", "hostname"]).stdout == "h1\n"


def test_hosts_end_although_nobody_waits_for_what_was_started(allowed: None) -> None:
    with Hosts(2) as hosts:
        for host in (*hosts.all, hosts.all[0]):
            host.popen(["sleep", "1000"])
        hosts.crash(hosts.all[0])


def test_two_sets_of_hosts_know_nothing_of_each_other(hosts: Hosts, make_hosts: Callable[..., Hosts]) -> None:
    other = make_hosts(2)
    assert other.all[0].address == hosts.all[0].address
    other.all[1].run(["touch", "/tmp/mark-of-the-other"], check=True)
    assert not hosts.all[1].file("/tmp/mark-of-the-other").exists()
    assert "Permission denied" not in hosts.laptop.run(["ssh", "h2", "true"]).stderr


def first_processes() -> set[int]:
    """The processes 1 of all hosts on this machine."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"host_init.py" in words:
            found.add(int(folder.name))
    return found


def mounts_and_links() -> tuple[str, str]:
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True)
    return Path("/proc/self/mounts").read_text(), links.stdout


def test_nothing_is_left_when_the_owner_is_killed(allowed: None, tmp_path: Path) -> None:
    before = mounts_and_links()
    code = (
        "import sys; from tests.cluster.hosts import Hosts\n"
        "with Hosts(2, shared=[sys.argv[1]]) as hosts:\n"
        "    hosts.all[0].popen(['sh', '-c', 'sleep 1000 & sleep 1000'])\n"
        "    print(*[host.pid for host in (*hosts.all, hosts.laptop)], flush=True); sys.stdin.read()\n"
    )
    command = [PYTHON, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        ours = {int(word) for word in owner.stdout.readline().split()}
        assert len(ours) == 3
        assert ours <= first_processes()
        owner.kill()
    wait_until(lambda: not ours & first_processes())
    wait_until(lambda: not [1 for pid in ours if Path(f"/proc/{pid}/root/home").exists()])
    assert mounts_and_links() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "lines", ["def test_it(): pytest.skip('no mood')", "pytest.importorskip('no_such_module')\ndef test_it(): pass"]
)
def test_a_skipped_test_of_this_folder_fails(allowed: None, tmp_path: Path, lines: str) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/cluster/conftest.py").read_text())
    (tmp_path / "test_lazy.py").write_text(f"import pytest\n{lines}\n")
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode in (1, 2), done.stdout
    assert "skipped, although hosts can be made here" in done.stdout


def test_the_command_line(allowed: None) -> None:
    from tests.cluster.hosts_command import STATE

    if STATE.exists():
        pytest.fail(f"hosts are up by hand ({STATE}): python -m tests.cluster.hosts down")

    def hosts(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PYTHON, "-m", "tests.cluster.hosts", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    assert hosts("status").stdout.startswith("No hosts are up.")
    try:
        assert hosts("up", "1").stdout.splitlines()[:2] == ["h1      10.77.0.1", "laptop  10.77.0.100"]
        assert hosts("up").stdout.startswith("The hosts are up already.")
        assert hosts("exec", "laptop", "--", "ssh", "h1", "hostname").stdout == "h1\n"
        assert hosts("exec", "h1", "--", "sh", "-c", "exit 7").returncode == 7
        assert hosts("exec", "h9", "--", "true").stderr == "error: there is no host h9: there are h1, laptop\n"
    finally:
        assert hosts("down").stdout == "The hosts are gone.\n"
    assert not STATE.exists()
    assert hosts("down").stdout == "No hosts are up.\n"


def test_key_is_where_it_is_said_to_be(hosts: Hosts) -> None:
    assert hosts.key == KEY
    assert hosts.laptop.file(KEY).stat().st_mode & 0o777 == 0o600

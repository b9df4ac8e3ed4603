"""Several hosts on this machine, for tests and for trying a cluster out. Linux, root.

Each host has its own network address, processes, name, home, /tmp, /run and /dev/shm, and an sshd. It sees the machine's
files, but keeps what it writes to itself; only `shared` folders are the same for all. A laptop on the same network has no
sshd: commands of a person are run there. Everything lives in namespaces that end with the process that made them, so
there is nothing to clean up after a crash, and several sets of hosts know nothing of each other.

    python -m tests.cluster.hosts up 3                  start three hosts; they stay until `down`
    python -m tests.cluster.hosts shell                 a shell on the laptop; there: ssh h1
    python -m tests.cluster.hosts exec h1 -- ip address
    python -m tests.cluster.hosts status
    python -m tests.cluster.hosts down
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.cluster import namespaces

ROOT = Path(__file__).parents[2]
NETWORK = "10.77.0"
SWITCH_ADDRESS, LAPTOP_NUMBER = f"{NETWORK}.254", 100
HOME = Path("/home/host")
"""Every host's home. Not /root: a Python may be installed there."""
KEY = HOME / ".ssh/id_ed25519"
OWN_FOLDERS = ("/tmp", "/var/tmp", "/run", "/home", "/dev/shm")
"""Every host has its own. What all need of those here, such as a project that was cloned there, is shared."""
PROGRAMS = ("ip", "sshd", "ssh-keygen", "nsenter")
PATH = f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LAPTOP_PATH = f"{sys.prefix}/bin:{PATH}"
"""A person's laptop has orchestrator installed; the machines of a cluster have a Python."""
SSHD_START_S = 10.0


class HostsError(RuntimeError):
    """Hosts could not be made."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host. `pid` is its process 1 as we see it."""

    name: str
    address: str
    pid: int
    path: str
    home: Path = HOME
    started: list[subprocess.Popen[Any]] = field(default_factory=list, repr=False, compare=False)
    """What we run there: as long as one that ended is not waited for, the kernel does not let the host end."""

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a program on this host; `env` is added to the host's own environment, which is not ours."""
        own = {"HOME": str(self.home), "PATH": self.path, "USER": "root", "LOGNAME": "root", "LANG": "C.UTF-8"}
        options.setdefault("stdin", subprocess.DEVNULL)
        command = ["env", f"--chdir={cwd or self.home}", *map(str, argv)]
        process = namespaces.start_inside(self.pid, command, env={**own, **(env or {})}, **options)
        self.started[:] = [earlier for earlier in self.started if earlier.poll() is None] + [process]
        return process

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        input: str | None = None,
        check: bool = False,
        timeout: float = 60,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this host to its end, and bring home what it printed."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        if input is not None:
            options["stdin"] = subprocess.PIPE
        with self.popen(argv, **options) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(list(map(str, argv)), process.returncode, out, err)
        if check and done.returncode:
            raise HostsError(f"{self.name}: {' '.join(done.args)} ended with {done.returncode}: {err or out}")
        return done

    def file(self, path: Path | str) -> Path:
        """A file of this host, as a path that we can open from outside."""
        return Path(f"/proc/{self.pid}/root") / str(path).lstrip("/")

    def processes(self) -> dict[int, str]:
        """What runs on this host, by its number there, without process 1 and the sshd that it started."""
        found = {}
        for folder in self.file("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(folder.name)] = " ".join(words).strip() or f"[{(folder / 'comm').read_text().strip()}]"
        return {pid: line for pid, line in found.items() if pid != 1 and "[listener]" not in line}


class Hosts:
    """Hosts h1, h2, ... and a laptop, for the time of a `with` block."""

    def __init__(self, count: int = 2, *, shared: Iterable[Path | str] = ()) -> None:
        self._count = count
        self._shared = [str(Path(path).resolve()) for path in shared]
        self._first: dict[str, subprocess.Popen[str]] = {}
        self._started: dict[str, list[subprocess.Popen[Any]]] = {}
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self.all: list[Host] = []
        self.key = KEY
        """The key that every host's sshd takes for root; it lies on the laptop."""

    def __enter__(self) -> Hosts:
        missing = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
        if missing:
            raise HostsError(f"{', '.join(missing)} not found. Install what hosts need with: make tools")
        try:
            self._start_switch()
            self.laptop = self._start("laptop", LAPTOP_NUMBER, kind="laptop", path=LAPTOP_PATH)
            self.laptop.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(KEY)], check=True)
            for _ in range(self._count):
                self.add()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._first.values():
            process.kill()
        for name in list(self._first):
            self._end(name)
        self._log.close()

    def __getitem__(self, name: str) -> Host:
        return next(host for host in (*self.all, self.laptop) if host.name == name)

    def add(self) -> Host:
        """Start one more host."""
        number = len(self.all) + 1
        host = self._start(f"h{number}", number, kind="host", path=PATH)
        allowed = host.file(HOME / ".ssh/authorized_keys")
        allowed.write_text(self.laptop.file(f"{KEY}.pub").read_text())
        self.all.append(host)
        self._introduce()
        self._wait_for_sshd(host)
        return host

    def cut(self, host: Host) -> None:
        """Pull the host's cable: what is sent to it or by it is lost without a word."""
        self._on_switch("link", "set", host.name, "down")

    def mend(self, host: Host) -> None:
        """Put the cable back."""
        self._on_switch("link", "set", host.name, "up")

    def part(self, one: Host, other: Host) -> None:
        """Lose what two hosts send each other, without a word; all others reach both."""
        for host, target in ((one, other), (other, one)):
            # An address of hardware that nobody has.
            self._ip(
                host.name, *f"neigh replace {target.address} lladdr 02:00:00:00:00:01 dev eth0 nud permanent".split()
            )

    def unite(self, one: Host, other: Host) -> None:
        """Undo `part`."""
        for host, target in ((one, other), (other, one)):
            self._ip(host.name, "neigh", "del", target.address, "dev", "eth0")

    def crash(self, host: Host) -> None:
        """Take away the host's power: its processes are gone at once, and so is its address."""
        self._end(host.name)

    def _end(self, name: str) -> None:
        """Wait for a host's end: of its first process, and before, of what we started there."""
        first = self._first.pop(name, None)
        if first is None:
            return
        first.kill()
        for process in self._started.pop(name, ()):
            process.wait()
        first.communicate()

    def _start_switch(self) -> None:
        self._start_first("switch", {"kind": "switch"})
        self._on_switch("link", "set", "lo", "up")
        self._on_switch("link", "add", "switch", "type", "bridge")
        self._on_switch("address", "add", f"{SWITCH_ADDRESS}/24", "dev", "switch")
        self._on_switch("link", "set", "switch", "up")
        # The switch is everybody's way out, and knows none: connections to elsewhere fail at once instead of hanging.
        self._on_switch("route", "add", "unreachable", "default")
        forward = ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]
        subprocess.run([*self._enter_network("switch"), *forward], check=True, capture_output=True)

    def _start(self, name: str, number: int, *, kind: str, path: str) -> Host:
        needed = [str(ROOT), sys.prefix, sys.base_prefix, "/usr"]
        settings = {"kind": kind, "name": name, "home": str(HOME), "path": path}
        hidden = [path for path in needed if any(Path(path).is_relative_to(folder) for folder in OWN_FOLDERS)]
        pid = self._start_first(name, {**settings, "needed": needed, "shared": [*self._shared, *hidden]})
        address = f"{NETWORK}.{number}"
        self._on_switch("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        self._on_switch("link", "set", name, "master", "switch", "up")
        for words in (
            "link set lo up",
            f"address add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {SWITCH_ADDRESS}",
        ):
            self._ip(name, *words.split())
        host = Host(name=name, address=address, pid=pid, path=path)
        self._started[name] = host.started
        return host

    def _start_first(self, name: str, settings: dict[str, Any]) -> int:
        command = [sys.executable, str(Path(__file__).with_name("host_init.py")), json.dumps(settings)]
        process = namespaces.start_first(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True
        )
        self._first[name] = process
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            self._log.seek(0)
            raise HostsError(f"{name} did not start: {self._log.read().strip() or 'its first process ended'}")
        return process.pid

    def _introduce(self) -> None:
        """Give every host the names of the others, and the laptop their ssh keys."""
        everybody = [*self.all, self.laptop]
        for host in everybody:
            # As Debian has it: a host's own name leads to an address that nobody else can reach.
            others = "".join(f"{other.address} {other.name}\n" for other in everybody if other is not host)
            host.file("/etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n{others}")
        keys = ((host, host.file("/etc/ssh/host_key.pub").read_text().strip()) for host in self.all)
        known = "".join(f"{host.name},{host.address} {key}\n" for host, key in keys)
        self.laptop.file(HOME / ".ssh/known_hosts").write_text(known)

    def _wait_for_sshd(self, host: Host) -> None:
        knock = f"import socket; socket.create_connection(({host.address!r}, 22), 1).recv(3)"
        end = time.monotonic() + SSHD_START_S
        while (done := self.laptop.run([sys.executable, "-S", "-c", knock])).returncode:
            if time.monotonic() > end:
                log = host.file("/var/log/sshd.log").read_text()
                raise HostsError(f"sshd of {host.name} does not answer: {log or done.stderr}")

    def _on_switch(self, *words: str) -> None:
        self._ip("switch", *words)

    def _ip(self, name: str, *words: str) -> None:
        done = subprocess.run([*self._enter_network(name), "ip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostsError(f"{name}: ip {' '.join(words)}: {done.stderr.strip()}")

    def _enter_network(self, name: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._first[name].pid}/ns/net", "--"]


if __name__ == "__main__":
    from tests.cluster.hosts_command import main

    sys.exit(main(sys.argv[1:]))

"""Commands on other machines, by the ssh program: with the person's own keys, agents, hosts and settings."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from orchestrator.cluster.launch.cluster_spec import SshSettings
from orchestrator.errors import MachineError

CONNECT_TIMEOUT_S = 10
TAR_GIVES_UP = b"Exiting with failure status"
"""What tar says last, after the reason."""
COPY_TIMEOUT_S = 3600.0
FAILED = 255
"""The exit code by which ssh says that it could not get there."""
CAUSES = (
    (
        "Permission denied",
        "it takes none of our keys",
        "Name the user and key that it knows: auth.ssh_user, auth.ssh_private_key. To try: {try_it}",
    ),
    (
        "Host key verification failed",
        "its host key is not the one we know",
        "If the machine was set up anew: ssh-keygen -R {host}. To try: {try_it}",
    ),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one we know",
        "If the machine was set up anew: ssh-keygen -R {host}. To try: {try_it}",
    ),
    ("Load key", "the private key cannot be used", "Look at auth.ssh_private_key. To try: {try_it}"),
    ("Could not resolve", "its name has no address", "Look at the addresses in cluster.yaml."),
)
"""What ssh says, what it means, and what to do."""
Entry = Callable[[str, bool], str]
"""Makes a line of shell, that wants a terminal or not, into one that runs it elsewhere on the machine."""


class Connections:
    """Connections to machines, one to each, opened with the first command and kept until the end of a `with` block."""

    def __init__(
        self, settings: SshSettings, outside: dict[str, str] | None = None, entry: Entry | None = None
    ) -> None:
        if not shutil.which("ssh"):
            raise MachineError("The ssh program is not installed here.", "Install it: apt-get install openssh-client")
        self._settings = settings
        self._outside = outside or {}
        self._entry = entry or (lambda line, terminal: line)
        self._used: set[str] = set()
        self._folder = ""

    def __enter__(self) -> Connections:
        # Short, since the name of a socket is limited to some hundred letters.
        self._folder = tempfile.mkdtemp(prefix="orch-ssh-", dir="/tmp")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._used:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([*self._ssh(), "-O", "exit", host], capture_output=True, timeout=5, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(
        self, address: str, argv: Sequence[str], *, data: bytes = b"", timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program and bring home what it prints; `data` is its standard input. Its exit code is the caller's."""
        return self.shell(address, shlex.join(argv), data=data, timeout_s=timeout_s)

    def shell(
        self, address: str, line: str, *, data: bytes = b"", timeout_s: float = 60.0, on_machine: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """The same for a line of shell; `on_machine`: on the machine itself, where others run in a container."""
        host = self._host(address)
        self._used.add(host)
        command = [*self._ssh(), host, line if on_machine else self._entry(line, False)]
        try:
            done = subprocess.run(command, input=data, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{address}: no answer within {timeout_s:g} s.", f"To try: ssh {host}") from error
        if done.returncode == FAILED:
            raise self._unreachable(address, done.stderr.decode(errors="replace"))
        return done

    def follow(self, address: str, line: str) -> int:
        """Run a line of shell with our own standard input and output, as if it were here."""
        host = self._host(address)
        self._used.add(host)
        terminal = ["-tt"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        entered = self._entry(line, bool(terminal))
        code = subprocess.run([*self._ssh(), *terminal, host, entered], check=False).returncode
        if code == FAILED:
            raise MachineError(
                f"{address}: the connection failed, or the command ended with 255.", f"To try: ssh {host}"
            )
        return code

    def put(self, address: str, data: bytes, path: str) -> None:
        """Write a file there, for its owner alone, whole or not at all. The data stands on no command line."""
        part = f"{path}.part"
        quoted, target = shlex.quote(part), shlex.quote(path)
        line = f"umask 077 && mkdir -p {shlex.quote(str(Path(path).parent))} && cat > {quoted} && mv {quoted} {target}"
        done = self.shell(address, line, data=data, timeout_s=300.0)
        if done.returncode:
            reason = last_line(done.stderr)
            raise MachineError(f"{address}: {path} cannot be written: {reason}.", "Is its disk full? Look with: df -h")

    def copy(self, address: str, source: Path, target: str, hint: str) -> None:
        """Copy a file or the content of a folder to a path there; the hint says what to look at when that fails."""
        place = shell_line([target])
        folder, name = (source, ".") if source.is_dir() else (source.parent, source.name)
        # As the account, also where it is root: numbers of accounts differ between machines, and in containers.
        line = f"mkdir -p {place} && tar -xof - -C {place}"
        if not source.is_dir():
            line = f"mkdir -p $(dirname {place}) && tar -xOf - > {place}"
        host = self._host(address)
        self._used.add(host)
        packed = subprocess.Popen(["tar", "-C", str(folder), "-cf", "-", name], stdout=subprocess.PIPE)
        command = [*self._ssh(), host, self._entry(line, False)]
        done = subprocess.run(command, stdin=packed.stdout, capture_output=True, timeout=COPY_TIMEOUT_S, check=False)
        if packed.wait() or done.returncode:
            said = [line for line in done.stderr.splitlines() if TAR_GIVES_UP not in line]
            reason = last_line(b"\n".join(said)) or f"{source} could not be read"
            raise MachineError(f"{address}: {source} could not be copied to {target}: {reason}.", hint)

    def _host(self, address: str) -> str:
        place = self._outside.get(address, address)
        return f"{self._settings.user}@{place}" if self._settings.user else place

    def _ssh(self) -> list[str]:
        options = [
            "BatchMode=yes",
            f"ConnectTimeout={CONNECT_TIMEOUT_S}",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            # Tokens go this way: a machine that we know by another key is refused, one that we do not know is noted.
            "StrictHostKeyChecking=accept-new",
            "ControlMaster=auto",
            "ControlPersist=60",
            f"ControlPath={self._folder}/%C",
            "LogLevel=ERROR",
        ]
        words = ["ssh", *(word for option in options for word in ("-o", option))]
        if self._settings.proxy_command:
            words += ["-o", f"ProxyCommand={self._settings.proxy_command}"]
        if self._settings.key:
            words += ["-i", str(Path(self._settings.key).expanduser()), "-o", "IdentitiesOnly=yes"]
        return words

    def _unreachable(self, address: str, said: str) -> MachineError:
        host = self._host(address)
        try_it = shlex.join(["ssh", *(["-i", self._settings.key] if self._settings.key else []), host])
        for sign, meaning, hint in CAUSES:
            if sign in said:
                return MachineError(
                    f"{address} cannot be used over SSH: {meaning}.", hint.format(host=address, try_it=try_it)
                )
        reason = last_line(said.encode()) or "ssh gave no reason"
        return MachineError(
            f"{address} cannot be reached over SSH: {reason}.", f"Is it on, and is its address right? To try: {try_it}"
        )


def last_line(output: bytes) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""


def shell_line(words: Sequence[str]) -> str:
    """A line of shell in which a leading ~ still means the home of whoever runs it."""
    return " ".join(f'"$HOME"{shlex.quote(word[1:])}' if word.startswith("~/") else shlex.quote(word) for word in words)

"""The container on each machine in which all of a cluster runs, where cluster.yaml names an image.

It has the machine's network and shared memory, and the account's home at the same path, so addresses, files and what is
left behind are as without it. Its process 1 only waits: what is to run there is sent in, line by line, with its data on
standard input.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.cluster.launch.cluster_spec import ClusterSpec, ImageSettings
from orchestrator.cluster.launch.enter import NOT_UP
from orchestrator.cluster.launch.ssh import Connections, Entry, last_line, shell_line
from orchestrator.errors import MachineError

ABSENT = "its container does not run there"
"""Part of what a line that is sent into a container says where there is none."""
CLUSTER, CONTENT = "orchestrator.cluster", "orchestrator.content"
"""Labels: whose container it is, and of what it was made."""
WAIT = 'trap "exit 0" TERM; while sleep 3600 & wait $!; do :; done'
"""A shell that buries orphans, as process 1 has to, and ends at once when asked to; it works in every image."""
ITS_OWN = 125
"""The exit code by which docker and podman say that it was they who failed, not what they should run."""
LIST_TIMEOUT_S = 60.0
PULL_TIMEOUT_S = 3600.0
RUN_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The container that has our container's name."""

    runs: bool
    cluster: str
    """Empty: it is none of ours."""
    content: str


def entry(spec: ClusterSpec) -> Entry | None:
    """How a line of shell gets into the container of the machine that it is sent to."""
    if spec.image is None:
        return None
    program, name = spec.image.program, shlex.quote(spec.image.container_name)
    form = shlex.quote(f'{{{{.State.Running}}}} {{{{index .Config.Labels "{CLUSTER}"}}}}')
    runs = f'[ "$({program} container inspect -f {form} {name} 2>/dev/null)" = {shlex.quote(f"true {spec.name}")} ]'

    def enter(line: str, terminal: bool) -> str:
        inside = f"exec {program} exec -i{'t' if terminal else ''} {name} sh -c {shlex.quote(line)}"
        return f"{runs} || {{ echo 'The cluster {spec.name} is not up: {ABSENT}.' >&2; exit {NOT_UP}; }}; {inside}"

    return enter


class Containers:
    """The containers of one cluster. Every method may be called again at any time."""

    def __init__(self, spec: ClusterSpec, image: ImageSettings, connections: Connections) -> None:
        self._spec = spec
        self._image = image
        self._program = image.program
        self._name = shlex.quote(image.container_name)
        self._connections = connections

    def start(self, address: str, say: Callable[[str], None] = lambda line: None, *, newest: bool = True) -> None:
        """Start the machine's container, unless it runs. One of other content is replaced, but not under a cluster."""
        self._check_program(address)
        found = self._find(address)
        if found and found.cluster != self._spec.name:
            raise MachineError(
                f"{address}: there is a container {self._image.container_name} already, and it is not of this cluster.",
                f"Remove it there ({self._program} rm), or set another docker.container_name.",
            )
        if found and found.runs:
            if found.content == self._content(address):
                return
            if not self._connections.shell(address, f"test -e {shell_line([self._record])}").returncode:
                raise MachineError(
                    f"{address}: the cluster runs in another image or with other options than docker names now.",
                    f"End it first: orchestrator cluster down {self._spec.file}",
                )
        self._pull(address, say, newest=newest)
        if found:
            self._remove(address)
        line = self._run(
            address,
            f"-d --name {self._name} --label {CLUSTER}={self._spec.name} --label {CONTENT}={self._content(address)}",
            WAIT,
        )
        done = self._connections.shell(address, line, timeout_s=RUN_TIMEOUT_S, on_machine=True)
        if done.returncode:
            self._remove(address)
            raise self._refused(address, done, line)

    def wake(self, address: str, leavings: Sequence[str]) -> bool:
        """Whether something can be left to end: then the container runs, also where it had ended."""
        found = self._find(address)
        if found and found.runs:
            return found.cluster == self._spec.name
        look = f"ls -d {shell_line(leavings)} 2>/dev/null | grep -q ."
        left = self._connections.shell(address, look, on_machine=True).returncode == 0
        if left:
            self.start(address, newest=False)
        elif found and found.cluster == self._spec.name:
            self._remove(address)
        return left

    def remove(self, address: str) -> None:
        """Remove the container with all that runs in it."""
        done = self._remove(address)
        if done.returncode:
            raise MachineError(
                f"{address}: the container {self._image.container_name} cannot be removed: {_reason(done)}",
                f"To try there: {self._program} rm -f {self._name}",
            )

    def ready(self, address: str) -> bool:
        """Whether a line can be run in the machine's image at once: it has not to be pulled."""
        self._check_program(address)
        found = self._find(address)
        return bool(found and found.runs) or self._has_image(address)

    def once(
        self, address: str, line: str, *, data: bytes = b"", timeout_s: float = RUN_TIMEOUT_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a line of shell in the container; where none runs, in one that lives as long as the line does."""
        found = self._find(address)
        if found and found.runs:
            return self._connections.shell(address, line, data=data, timeout_s=timeout_s)
        command = self._run(address, "--rm -i", line)
        done = self._connections.shell(address, command, data=data, timeout_s=timeout_s, on_machine=True)
        if done.returncode == ITS_OWN:
            raise self._refused(address, done, command)
        return done

    @property
    def _record(self) -> str:
        return f"~/.orchestrator/clusters/{self._spec.name}/cluster.json"

    def _image_on(self, address: str) -> str:
        return self._image.on(head=address == self._spec.head)

    def _content(self, address: str) -> str:
        told = [self._image_on(address), *self._image.options(head=address == self._spec.head)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def _check_program(self, address: str) -> None:
        line = f"command -v {self._program} >/dev/null"
        if self._connections.shell(address, line, on_machine=True).returncode:
            other = "podman" if self._program == "docker" else "docker"
            raise MachineError(
                f"{address}: there is no {self._program}, and docker.image needs it.",
                f"Install it there (initialization_commands can), or take {other}: docker.use_podman.",
            )

    def _find(self, address: str) -> Found | None:
        """The container that has our name. The list comes first, since it fails only where the program does."""
        form = shlex.quote(
            f'{{{{.State.Running}}}}|{{{{index .Config.Labels "{CLUSTER}"}}}}|{{{{index .Config.Labels "{CONTENT}"}}}}'
        )
        named = shlex.quote(f"name=^{self._image.container_name.replace('.', '[.]')}$")
        line = (
            f"command -v {self._program} >/dev/null || exit 0; "
            f"id=$({self._program} ps -aq --filter {named}) || exit 1; "
            f'[ -z "$id" ] || {self._program} container inspect -f {form} "$id"'
        )
        done = self._connections.shell(address, line, timeout_s=LIST_TIMEOUT_S, on_machine=True)
        if done.returncode:
            raise MachineError(
                f"{address}: {self._program} does not work there: {_reason(done)}",
                f"Start its daemon, or let the account use it. To try there: {self._program} ps",
            )
        told = last_line(done.stdout)
        if not told:
            return None
        running, cluster, content = told.split("|")
        return Found(runs=running == "true", cluster=cluster, content=content)

    def _has_image(self, address: str) -> bool:
        line = f"{self._program} image inspect {shlex.quote(self._image_on(address))} >/dev/null 2>&1"
        return not self._connections.shell(address, line, timeout_s=LIST_TIMEOUT_S, on_machine=True).returncode

    def _pull(self, address: str, say: Callable[[str], None], *, newest: bool) -> None:
        there, image = self._has_image(address), self._image_on(address)
        if there and not (newest and self._image.pull_before_run):
            return
        if not there:
            say(f"{address} pulls {image}; the first time this takes minutes")
        pull = f"{self._program} pull -q {shlex.quote(image)}"
        done = self._connections.shell(address, pull, timeout_s=PULL_TIMEOUT_S, on_machine=True)
        if done.returncode and there:
            say(f"{address} takes the {image} that is there; a newer one cannot be pulled: {_reason(done)}")
        elif done.returncode:
            raise MachineError(
                f"{address}: the image {image} is not there and cannot be pulled: {_reason(done)}",
                f"Mend its name, log in to its registry, or load it there. To try there: {pull}",
            )

    def _run(self, address: str, how: str, line: str) -> str:
        options = self._image.options(head=address == self._spec.head)
        told = " ".join(options)
        own_memory = self._image.disable_shm_size_detection or "--ipc" in told or "--shm-size" in told
        words = [
            f"{self._program} run {how} --network=host --security-opt label=disable",
            *([] if own_memory else ["--ipc=host"]),
            *self._gpus(told),
            self._user,
            '-v "$HOME:$HOME" -w "$HOME" -e HOME="$HOME" -e USER="$(id -un)" -e LOGNAME="$(id -un)"',
            *options,
            f"--entrypoint /bin/sh {shlex.quote(self._image_on(address))} -c {shlex.quote(line)}",
        ]
        return " ".join(words)

    def _gpus(self, options: str) -> list[str]:
        """All of the machine's, where it has some and nobody says otherwise."""
        if self._image.disable_automatic_runtime_detection or "--gpus" in options or "nvidia" in options:
            return []
        words = "--device nvidia.com/gpu=all" if self._image.use_podman else "--gpus all"
        return [f"$(nvidia-smi -L >/dev/null 2>&1 && echo {words})"]

    @property
    def _user(self) -> str:
        """The account's own number, so that the files in its home stay its own; without a root daemon, that is 0."""
        if self._image.use_podman:
            return "--user 0:0"
        rootless = "docker info -f '{{.SecurityOptions}}' | grep -q rootless"
        return f'--user "$({rootless} && echo 0:0 || echo "$(id -u):$(id -g)")"'

    def _refused(self, address: str, done: subprocess.CompletedProcess[bytes], line: str) -> MachineError:
        return MachineError(
            f"{address}: no container can be started from {self._image_on(address)}: {_reason(done)}",
            f"Look at docker.run_options. To try there: {line}",
        )

    def _remove(self, address: str) -> subprocess.CompletedProcess[bytes]:
        line = f"{self._program} rm -f {self._name}"
        return self._connections.shell(address, line, timeout_s=RUN_TIMEOUT_S, on_machine=True)


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line of what was said, without the way to the help that follows it, as the end of a sentence."""
    lines = [line for line in done.stderr.splitlines() if b"--help" not in line]
    told = last_line(b"\n".join(lines)).removeprefix("Error: ") or f"exit code {done.returncode}"
    return told if told.endswith("?") else f"{told}."

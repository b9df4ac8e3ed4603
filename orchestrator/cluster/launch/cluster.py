"""A cluster of several machines, started and ended over SSH from wherever cluster.yaml is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.cluster.launch import containers, install, survey
from orchestrator.cluster.launch.cluster_spec import ClusterSpec
from orchestrator.cluster.launch.containers import Containers
from orchestrator.cluster.launch.roll_call import Member
from orchestrator.cluster.launch.ssh import Connections, last_line, shell_line
from orchestrator.cluster.launch.survey import Shell, Survey
from orchestrator.cluster.node import home, mlflow_service, private, ray_service
from orchestrator.cluster.node.home import Home, Record
from orchestrator.cluster.node.mlflow_service import MlflowSettings
from orchestrator.cluster.node.node import ANSWER, Request, State
from orchestrator.cluster.node.ray_service import LOOPBACK, RaySettings
from orchestrator.cluster.nodes.cluster_file import EVERY
from orchestrator.errors import ConfigError, MachineError, OrchestratorError

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 60.0
Result = TypeVar("Result")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """What opens a cluster."""

    token: str
    password: str
    authority: dict[str, str]
    """Certificate and key of its certificate authority; empty without TLS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineState:
    """One machine of a cluster, as it is now."""

    address: str
    role: str
    state: State | None
    """What it says of itself; None: it cannot be asked."""
    member: Member | None
    """What the head says of it; None: the head does not know it, or cannot be asked."""
    trouble: str = ""
    """Why it is not as it should be; empty when all is well."""


class Cluster:
    """The machines of one cluster.yaml. Every method may be called again at any time."""

    def __init__(self, spec: ClusterSpec, connections: Connections) -> None:
        self.spec = spec
        self._connections = connections
        self._containers = Containers(spec, spec.image, connections) if spec.image else None

    @classmethod
    def connections(cls, spec: ClusterSpec) -> Connections:
        """What its machines are reached by."""
        outside = {spec.head: spec.head_outside} if spec.head_outside else {}
        return Connections(spec.ssh, outside, containers.entry(spec))

    # --- up ----------------------------------------------------------------------------------------------------------
    def survey(self) -> list[Survey]:
        """Look at all machines, and refuse those that cannot take part, all of them at once.

        Where an image is named, we look into that, and machines that have to pull it first are left out.
        """
        if self._containers is None:
            return self._look(self.spec.machines, self._connections.shell)
        ready = self._on_all(self._containers.ready)
        those = tuple(address for address, there in zip(self.spec.machines, ready, strict=True) if there)
        return self._look(those, self._containers.once)

    def _look(self, addresses: tuple[str, ...], shell: Shell) -> list[Survey]:
        own, name = self.spec.own, self.spec.name
        python = f"{own.environment}/bin/python" if own.environment else own.python
        asked = [f"{install.folder_of(name, '~')}/{install.MARKER}", f"~/.orchestrator/clusters/{name}/cluster.json"]
        where = " in the image" if self._containers else ""
        found = self._on_all(lambda address: survey.look(shell, address, python, asked, where), addresses)
        _all_or_none(map(_checked(survey.check_room), found))
        survey.check_alike(found, named=bool(self.spec.own.environment))
        return found

    def up(self, say: Say) -> list[MachineState]:
        """Start what does not run; ready when this returns."""
        if self._containers:
            self._start_containers(self._containers, say)
        surveys = self._look(self.spec.machines, self._connections.shell)
        say(f"{len(surveys)} machines answer, with Python {surveys[0].python}")
        self._install(surveys, say)
        self._on_all(self._set_up)
        known = self._known_secrets()
        self._end(self._strangers(head_is_up=known is not None))
        secrets = known or self._new_secrets()
        self._start(self.spec.head, secrets)
        say(f"the head runs on {self.spec.head}")
        self._on_all(lambda address: self._start(address, secrets), self.spec.workers)
        self._keep(secrets)
        states = self.status(wait=True)
        missing = [machine for machine in states if machine.trouble]
        if missing:
            told = "\n".join(f"{machine.address}: {machine.trouble}" for machine in missing)
            raise MachineError(
                f"{len(missing)} of {len(states)} machines have not joined.\n{told}",
                f"The others are up. Mend it and repeat, or: orchestrator cluster down {self.spec.file}",
            )
        say(f"{len(states)} of {len(states)} machines have joined")
        return states

    def _start_containers(self, started: Containers, say: Say) -> None:
        def start(address: str) -> None:
            for command in self.spec.initialization:
                self._command(address, command, on_machine=True)
            started.start(address, say)

        self._on_all(start)

    def _install(self, surveys: list[Survey], say: Say) -> None:
        if self.spec.own.environment:
            return
        installer = install.Installer(self.spec, self._connections)
        needed = {each.address: each for each in surveys if installer.needed(each)}
        in_use = [each.address for each in surveys if each.started and installer.anew(each)]
        if in_use:
            raise MachineError(
                f"{in_use[0]} needs another environment than the one that its part of the cluster runs in.",
                f"End the cluster first: orchestrator cluster down {self.spec.file}",
            )
        if needed:
            say(f"installing the environment on {', '.join(needed)}; the first time this takes minutes")
            self._on_all(lambda address: installer.install(needed[address]), tuple(needed))

    def _set_up(self, address: str) -> None:
        for target, source in self.spec.mounts.items():
            self._connections.copy(address, source, target, "Look at file_mounts.")
        before = () if self._containers else self.spec.initialization
        for command in before + self.spec.setup(address):
            self._command(address, command)

    def _command(self, address: str, command: str, *, on_machine: bool = False) -> None:
        done = self._connections.shell(address, command, timeout_s=install.TIMEOUT_S, on_machine=on_machine)
        if done.returncode:
            reason = last_line(done.stderr) or last_line(done.stdout) or f"exit code {done.returncode}"
            raise MachineError(f"{address}: a setup command failed: {reason}.", f"The command: {command}")

    def _strangers(self, *, head_is_up: bool) -> tuple[str, ...]:
        """Workers whose Ray, if one runs, is of no use: that of a head that is gone, or one that the head has given up.

        It ends by itself, but only when it learns of that; until then it would look as if it were part of the cluster.
        """
        if not head_is_up:
            return self.spec.workers
        given_up = {member.address for member in self.members() if not member.alive}
        return tuple(address for address in self.spec.workers if address in given_up)

    def _known_secrets(self) -> Secrets | None:
        """Those of the head, where it is up."""
        known = self._call(self.spec.head, "secrets", {"name": self.spec.name}, ASK_TIMEOUT_S)
        return Secrets(**known) if known else None

    def _new_secrets(self) -> Secrets:
        own = self.spec.own
        authority = _tls().new_authority(self.spec.name) if own.tls else {}
        token = private.new_token() if own.token else ""
        return Secrets(token=token, password=private.new_password(), authority=authority)

    def _end(self, addresses: tuple[str, ...]) -> None:
        data = {"name": self.spec.name, "delete": None}
        self._on_all(lambda address: self._call(address, "down", data, STOP_TIMEOUT_S), addresses)

    def _start(self, address: str, secrets: Secrets) -> None:
        """Start one machine's part."""
        is_head = address == self.spec.head
        tls = _tls().for_machine(secrets.authority, address) if secrets.authority else {}
        request = Request(
            name=self.spec.name,
            ray=self._ray(address),
            mlflow=self._mlflow() if is_head else None,
            token=secrets.token,
            password=secrets.password,
            tls={**tls, **secrets.authority} if is_head else tls,
        )
        self._call(address, "up", asdict(request), START_TIMEOUT_S)

    def _ray(self, address: str) -> RaySettings:
        own = self.spec.own
        return RaySettings(
            address=address,
            head=f"{self.spec.head}:{own.ray_port}",
            is_head=address == self.spec.head,
            client_port=own.client_port,
            dashboard_port=own.dashboard_port,
            agent_port=own.agent_port,
            resources=self.spec.resources.get(address, self.spec.resources.get(EVERY, {})),
        )

    def _mlflow(self) -> MlflowSettings | None:
        own = self.spec.own
        if not own.mlflow:
            return None
        folder = own.records or f"~/.orchestrator/mlflow/{self.spec.name}"
        host = self.spec.head if own.listen == "network" else LOOPBACK
        return MlflowSettings(
            database=f"{folder}/mlflow.db", artifacts=f"{folder}/artifacts", host=host, port=own.mlflow_port
        )

    def _keep(self, secrets: Secrets) -> None:
        """Keep what this machine needs to use the cluster; the head has the same."""
        place = kept(self.spec.name)
        if secrets.token:
            private.write(place.token, secrets.token)
        if secrets.authority:
            files = _tls().for_machine(secrets.authority, LOOPBACK)
            for name, text in files.items():
                private.write(place.tls / name, text)
        if settings := self._mlflow():
            mlflow_service.write_login(place, settings, secrets.password, tls=bool(secrets.authority))

    # --- status, down, exec ------------------------------------------------------------------------------------------
    def status(self, *, wait: bool = False) -> list[MachineState]:
        """All machines as they are; with `wait`, when all have joined or the time for it is over."""
        timeout_s = self.spec.own.join_timeout_s if wait else 0.0
        ask = {"name": self.spec.name}
        nothing: dict[str, Any] = {"record": None, "services": {}}
        states = self._try_on_all(lambda address: State(**self._call(address, "status", ask, ASK_TIMEOUT_S, nothing)))
        head = states[self.spec.head]
        up = isinstance(head, State) and head.services.get(ray_service.NAME)
        members = {member.address: member for member in self.members(timeout_s)} if up else {}
        return [self._machine(address, states[address], members.get(address)) for address in self.spec.machines]

    def members(self, timeout_s: float = 0.0) -> list[Member]:
        """The machines that the head knows, as soon as all are alive or the time is over; none where it is not up."""
        data = {"name": self.spec.name, "expected": list(self.spec.machines), "timeout_s": timeout_s}
        answer = self._call(self.spec.head, "roll_call", data, ASK_TIMEOUT_S + timeout_s, {"members": []})
        return [Member(**told) for told in answer["members"]]

    def _machine(self, address: str, state: State | OrchestratorError, member: Member | None) -> MachineState:
        role = "head" if address == self.spec.head else "worker"
        told = state if isinstance(state, State) else None
        return MachineState(address=address, role=role, state=told, member=member, trouble=_trouble(state, member))

    def down(self, *, delete_records: bool = False) -> tuple[list[Record], list[str]]:
        """End everything on all machines. Returns what there was, and what could not be done."""
        answers = self._try_on_all(lambda address: self._down(address, delete_records=delete_records))
        troubles = [error.message for error in answers.values() if isinstance(error, OrchestratorError)]
        records = [answer for answer in answers.values() if isinstance(answer, Record)]
        if not troubles:
            private.remove(kept(self.spec.name).folder)
            home.tidy()
        return records, troubles

    def _down(self, address: str, *, delete_records: bool) -> Record | None:
        records = self._mlflow() if delete_records and address == self.spec.head else None
        if self._containers and not self._containers.wake(address, self._leavings(records)):
            return None
        record = self._call(address, "down", {"name": self.spec.name}, STOP_TIMEOUT_S, {"record": None})["record"]
        if records:
            self._delete(address, records)
        if not self.spec.own.environment:
            install.remove(self._connections, address, self.spec.name)
        if self._containers:
            self._containers.remove(address)
        return Record(**record) if record else None

    def _delete(self, address: str, settings: MlflowSettings) -> None:
        """Delete MLflow's records, wherever the environment that wrote them is by now."""
        files, folders = mlflow_service.records(settings)
        empty = shell_line([*folders, "~/.orchestrator"])
        line = f"rm -rf {shell_line(files)} && {{ rmdir {empty} 2>/dev/null; true; }}"
        done = self._connections.shell(address, line, timeout_s=STOP_TIMEOUT_S)
        if done.returncode:
            raise MachineError(f"{address}: MLflow's records stay: {last_line(done.stderr)}.", f"To try: {line}")

    def _leavings(self, records: MlflowSettings | None) -> list[str]:
        """What there is to remove on a machine."""
        made = [] if self.spec.own.environment else [install.folder_of(self.spec.name, "~")]
        return [f"~/.orchestrator/clusters/{self.spec.name}", *made, *([records.database] if records else [])]

    def execute(self, command: list[str], address: str | None = None) -> int:
        """Run a command on the head, or another machine, as part of the cluster; its exit code."""
        line = [*self._python(), "orchestrator.cluster.launch.enter", self.spec.name, *command]
        return self._connections.follow(address or self.spec.head, f"exec {shell_line(line)}")

    def send(self, source: Path, target: str) -> None:
        """Copy the content of a folder to a new one on the head, as a whole or not at all."""
        try:
            self._connections.copy(self.spec.head, source, target, "Is there room for it? Look there with: df -h ~")
        except MachineError:
            self._connections.shell(self.spec.head, f"rm -rf {shell_line([target])}")
            raise

    # --- calls -------------------------------------------------------------------------------------------------------
    def _python(self) -> list[str]:
        folder = self.spec.own.environment or install.folder_of(self.spec.name, "~")
        return [f"{folder}/bin/python", "-P", "-m"]

    def _call(
        self,
        address: str,
        verb: str,
        data: dict[str, Any],
        timeout_s: float,
        where_missing: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Have a machine do its part, and bring home its answer; `where_missing`: that of one without us."""
        line = shell_line([*self._python(), "orchestrator.cluster.node.node", verb])
        done = self._connections.shell(address, line, data=json.dumps(data).encode(), timeout_s=timeout_s)
        lines = [text for text in done.stdout.decode(errors="replace").splitlines() if text.startswith(ANSWER)]
        if not lines:
            # No environment yet, or one whose installation was broken off.
            absent = containers.ABSENT.encode() in done.stderr or b"No module named 'orchestrator'" in done.stderr
            missing = done.returncode in survey.NOT_FOUND or absent
            if missing and where_missing is not None:
                return where_missing
            reason = last_line(done.stderr) or f"exit code {done.returncode}"
            raise MachineError(f"{address}: orchestrator does not run there: {reason}.", f"To try: {line}")
        answer: dict[str, Any] = json.loads(lines[-1].removeprefix(ANSWER))
        if error := answer.get("error"):
            kind = ConfigError if error["type"] == "ConfigError" else MachineError
            raise kind(f"{address}: {error['message']}", error["hint"])
        return answer

    def _on_all(self, do: Callable[[str], Result], addresses: tuple[str, ...] | None = None) -> list[Result]:
        """Do something on several machines at once; all that went wrong is one error."""
        return _all_or_none(self._try_on_all(do, addresses).values())

    def _try_on_all(
        self, do: Callable[[str], Result], addresses: tuple[str, ...] | None = None
    ) -> dict[str, Result | OrchestratorError]:
        def attempt(address: str) -> Result | OrchestratorError:
            try:
                return do(address)
            except OrchestratorError as error:
                return error

        addresses = self.spec.machines if addresses is None else addresses
        if not addresses:
            return {}
        with ThreadPoolExecutor(max_workers=min(32, len(addresses))) as pool:
            return dict(zip(addresses, pool.map(attempt, addresses), strict=True))


def kept(name: str) -> Home:
    """Where the machine from which a cluster was started keeps what it takes to use it."""
    home.check_name(name)
    return Home(home.remote() / name)


def _trouble(state: State | OrchestratorError, member: Member | None) -> str:
    if isinstance(state, OrchestratorError):
        return state.message.partition(": ")[2] or state.message
    if state.record is None:
        return "nothing was started there"
    ended = [name for name, lives in state.services.items() if not lives]
    if ended:
        return (
            f"{' and '.join(ended)} has ended; what it said: {Path('~/.orchestrator/clusters') / state.record['name']}"
        )
    if member is None:
        return "Ray runs there, and the head does not see it: look at the network between them"
    if not member.alive:
        return f"the head has given it up: {member.reason or 'no reason was given'}"
    return ""


def _checked(check: Callable[[Any], None]) -> Callable[[Any], Any]:
    def attempt(value: Any) -> Any:
        try:
            check(value)
        except OrchestratorError as error:
            return error
        return value

    return attempt


def _all_or_none(results: Iterable[Result | OrchestratorError]) -> list[Result]:
    results = list(results)
    errors = [result for result in results if isinstance(result, OrchestratorError)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        told = "\n".join(f"{error.message} {error.hint}" for error in errors)
        raise MachineError(f"{len(errors)} machines cannot take part.\n{told}")
    return [result for result in results if not isinstance(result, OrchestratorError)]


def _tls() -> Any:
    try:
        from orchestrator.cluster.node import tls
    except ImportError as error:
        raise MachineError(
            f"tls: true needs the package {error.name}, which is not installed here.", f"pip install {error.name}"
        ) from error
    return tls

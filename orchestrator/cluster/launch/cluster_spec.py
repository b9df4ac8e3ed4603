"""A cluster of machines that are there already, as its cluster.yaml describes it: Ray's format, and our settings in it.

Ours lie under `metadata.orchestrator`: `metadata` is the part of Ray's format that Ray leaves to others.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.cluster.node import home
from orchestrator.cluster.nodes.cluster_file import EVERY, OWN_KEY, load, mapping
from orchestrator.errors import ConfigError, did_you_mean
from orchestrator.foundation.units import optional_bytes

OURS = "orchestrator"
"""Our key below `metadata`."""
# fmt: off
RAYS_KEYS = (
    "cluster_name", "max_workers", "min_workers", "upscaling_speed", "idle_timeout_minutes", "provider", "auth",
    "docker", "head_node_type", "file_mounts", "cluster_synced_files", "file_mounts_sync_continuously", "rsync_exclude",
    "rsync_filter", "metadata", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "available_node_types",
    "no_restart",
)
"""What Ray takes at the top of the file."""
PROVIDER_KEYS = (
    "type", "head_ip", "worker_ips", "external_head_ip", "use_internal_ips", "disable_node_updaters",
    "coordinator_address", OWN_KEY,
)
AUTH_KEYS = ("ssh_user", "ssh_private_key", "ssh_public_key", "ssh_proxy_command", "ssh_proxy_use_node_id")
# fmt: on
RAYS_TOKEN = ".ray/auth_token"
"""Where Ray's own tools look for the token."""
LISTEN = ("loopback", "network")
DEFAULT_EXTRAS = ("node", "tracking", "jobs")
CONTAINER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")
Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnSettings:
    """What stands under `metadata.orchestrator`."""

    environment: str = ""
    """A Python environment with orchestrator that is on every machine, under this path; empty: we make one."""
    python: str = "python3"
    """The Python from which we make one."""
    extras: tuple[str, ...] = DEFAULT_EXTRAS
    """What of orchestrator is installed in it."""
    token: bool = True
    """Ray asks everybody for a token; it can only be left out where nobody else reaches the machines."""
    tls: bool = False
    """Encrypt what Ray and MLflow say."""
    mlflow: bool = True
    """Run MLflow's server on the head."""
    listen: str = "loopback"
    """Who reaches MLflow's server: those on the head (and through SSH), or the network."""
    records: str = ""
    """Folder of MLflow's records on the head; empty: ~/.orchestrator/mlflow/NAME."""
    ray_port: int = 6379
    client_port: int = 10001
    dashboard_port: int = 8265
    agent_port: int = 52365
    mlflow_port: int = 5000
    join_timeout_s: float = 120.0
    """How long a machine may take until the others see it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SshSettings:
    """How the machines are reached; what is left out, ssh finds in its own configuration."""

    user: str = ""
    key: str = ""
    proxy_command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """What stands under `docker`, with Ray's words and meaning: what all of a cluster runs in."""

    image: str = ""
    head_image: str = ""
    worker_image: str = ""
    container_name: str = ""
    """Empty: orchestrator-NAME."""
    pull_before_run: bool = True
    """Ask the registry for a newer image each time a container is started, not only where there is none."""
    run_options: tuple[str, ...] = ()
    """Words of shell, behind our own."""
    head_run_options: tuple[str, ...] = ()
    worker_run_options: tuple[str, ...] = ()
    use_podman: bool = False
    disable_automatic_runtime_detection: bool = False
    """Leave GPUs to `run_options`."""
    disable_shm_size_detection: bool = False
    """Leave shared memory to `run_options`: else it is the machine's."""

    @property
    def program(self) -> str:
        """What starts containers."""
        return "podman" if self.use_podman else "docker"

    def on(self, *, head: bool) -> str:
        """The image of a machine."""
        return (self.head_image if head else self.worker_image) or self.image

    def options(self, *, head: bool) -> tuple[str, ...]:
        """The options of a machine, in Ray's order."""
        return self.run_options + (self.head_run_options if head else self.worker_run_options)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSpec:
    """One cluster."""

    file: Path
    name: str
    head: str
    workers: tuple[str, ...]
    head_outside: str = ""
    """The head's address as we reach it, where that is another one than the workers use."""
    ssh: SshSettings = field(default_factory=SshSettings)
    own: OwnSettings = field(default_factory=OwnSettings)
    image: ImageSettings | None = None
    """None: everything runs on the machines themselves."""
    resources: dict[str, dict[str, float]] = field(default_factory=dict)
    """By address: what the file says that a machine has."""
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Ray's lists of commands that are run before Ray starts."""
    mounts: dict[str, Path] = field(default_factory=dict)
    """Paths on the machines, and what of ours is copied there."""

    @property
    def machines(self) -> tuple[str, ...]:
        """All addresses, the head's first."""
        return (self.head, *self.workers)

    @property
    def initialization(self) -> tuple[str, ...]:
        """The commands that Ray runs on the machine itself, before it starts a container there."""
        return self.commands.get("initialization_commands", ())

    def setup(self, address: str) -> tuple[str, ...]:
        """The commands to run after those, where Ray will run, in Ray's order."""
        role = "head_setup_commands" if address == self.head else "worker_setup_commands"
        return self.commands.get("setup_commands", ()) + self.commands.get(role, ())


def read(file: Path) -> ClusterSpec:
    """Read and check a cluster.yaml; whatever is wrong is told in one line."""
    config = load(file)
    _check_keys(file, config, RAYS_KEYS, "")
    provider = mapping(file, config.get("provider"), "provider")
    if provider.get("type") != "local":
        raise ConfigError(
            f"{file}: provider.type={provider.get('type')} is not one that orchestrator starts.",
            f"It starts machines that are there already (type: local). For clouds: ray up {file}.",
        )
    _check_keys(file, provider, PROVIDER_KEYS, "provider.")
    name = _name(file, config)
    spec = ClusterSpec(
        file=file,
        name=name,
        head=_address(file, provider.get("head_ip"), "provider.head_ip"),
        head_outside=str(provider.get("external_head_ip") or ""),
        workers=_workers(file, provider),
        ssh=_ssh(file, config),
        own=_own(file, config),
        image=_image(file, config, name),
        resources=_resources(file, provider),
        commands=_commands(file, config),
        mounts=_mounts(file, config),
    )
    _check_machines(spec)
    return spec


def _check_keys(file: Path, given: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigError(f"{file}: there is no setting {where}{key}.", did_you_mean(str(key), list(known)))


def _name(file: Path, config: dict[str, Any]) -> str:
    name = str(config.get("cluster_name") or "")
    if name == home.THIS_MACHINE:
        raise ConfigError(f"{file}: cluster_name={name} is the name of what `orchestrator up` starts.", "Take another.")
    home.check_name(name)
    return name


def _address(file: Path, value: object, what: str) -> str:
    if isinstance(value, list):
        raise ConfigError(f"{file}: {what} is a list, and a cluster has one head.", "Name one machine.")
    if not value or not isinstance(value, str):
        raise ConfigError(f"{file}: {what} is missing.", "Give the machine's address, as 10.0.0.1.")
    try:
        ipaddress.ip_address(value)
    except ValueError as error:
        raise ConfigError(
            f"{file}: {what}={value} is not an IP address.", "Ray knows machines by their IP addresses: give that."
        ) from error
    return value


def _workers(file: Path, provider: dict[str, Any]) -> tuple[str, ...]:
    listed = provider.get("worker_ips") or []
    if not isinstance(listed, list):
        raise ConfigError(f"{file}: provider.worker_ips is not a list.", "Write: worker_ips: [10.0.0.2, 10.0.0.3]")
    return tuple(_address(file, value, "provider.worker_ips") for value in listed)


def _ssh(file: Path, config: dict[str, Any]) -> SshSettings:
    auth = mapping(file, config.get("auth") or {}, "auth")
    _check_keys(file, auth, AUTH_KEYS, "auth.")
    key = str(auth.get("ssh_private_key") or "")
    if key and not Path(key).expanduser().is_file():
        raise ConfigError(f"{file}: auth.ssh_private_key={key} is not there.", "Name the file of your private key.")
    return SshSettings(
        user=str(auth.get("ssh_user") or ""), key=key, proxy_command=str(auth.get("ssh_proxy_command") or "")
    )


def _own(file: Path, config: dict[str, Any]) -> OwnSettings:
    metadata = mapping(file, config.get("metadata") or {}, "metadata")
    where = f"metadata.{OURS}"
    own = _settings(file, mapping(file, metadata.get(OURS) or {}, where), where, OwnSettings)
    if own.listen not in LISTEN:
        raise ConfigError(f"{file}: {where}.listen={own.listen} is not known.", f"Use one of: {', '.join(LISTEN)}.")
    return own


def _image(file: Path, config: dict[str, Any], name: str) -> ImageSettings | None:
    given = mapping(file, config.get("docker") or {}, "docker")
    if not given:
        return None
    image = _settings(file, given, "docker", ImageSettings)
    if not image.on(head=True) or not image.on(head=False):
        raise ConfigError(
            f"{file}: docker names no image for {'workers' if image.on(head=True) else 'the head'}.",
            "Set docker.image, as registry.example.org/training:1; or leave docker out.",
        )
    if image.container_name and not CONTAINER_NAME.fullmatch(image.container_name):
        raise ConfigError(
            f"{file}: docker.container_name={image.container_name} cannot name a container.",
            "Use letters, digits, dots, dashes and underscores, and begin with a letter or digit.",
        )
    return dataclasses.replace(image, container_name=image.container_name or f"orchestrator-{name}")


def _settings(file: Path, given: dict[str, Any], where: str, kind: type[Settings]) -> Settings:
    kinds = {each.name: type(each.default) for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _check_keys(file, given, tuple(kinds), f"{where}.")
    return kind(**{name: _value(file, f"{where}.{name}", value, kinds[name]) for name, value in given.items()})


def _value(file: Path, what: str, value: object, kind: type) -> Any:
    if kind is tuple and isinstance(value, list):
        return tuple(str(item) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list"}
        raise ConfigError(f"{file}: {what}={value} is not {words[kind]}.", "Mend it there.")
    if kind is int and not 1 <= int(value) <= 65535:  # type: ignore[call-overload]
        raise ConfigError(f"{file}: {what}={value} is not a port.", "Use a number from 1 to 65535.")
    return value


def _resources(file: Path, provider: dict[str, Any]) -> dict[str, dict[str, float]]:
    told = mapping(file, provider.get(OWN_KEY) or {}, f"provider.{OWN_KEY}")
    found = {}
    for address, has in told.items():
        amounts = dict(mapping(file, has, f"provider.{OWN_KEY}.{address}"))
        if "memory" in amounts:
            amounts["memory"] = optional_bytes(f"{file}: memory of {address}", amounts["memory"]) or 0
        found[str(address)] = amounts
    return found


def _commands(file: Path, config: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    names = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    found = {}
    for name in names:
        listed = config.get(name) or []
        if not isinstance(listed, list) or not all(isinstance(line, str) for line in listed):
            raise ConfigError(
                f"{file}: {name} is not a list of commands.", "Write each command on a line after a dash."
            )
        found[name] = tuple(listed)
    return found


def _mounts(file: Path, config: dict[str, Any]) -> dict[str, Path]:
    """What is to be copied; without the token of `ray up`: ours goes another way, and leaves with the cluster."""
    found = {}
    for target, source in mapping(file, config.get("file_mounts") or {}, "file_mounts").items():
        if str(target).endswith(RAYS_TOKEN):
            continue
        found[str(target)] = Path(str(source)).expanduser()
        if not found[str(target)].exists():
            raise ConfigError(
                f"{file}: file_mounts copies {source}, which is not there.", "Mend the path, or remove it."
            )
    return found


def _check_machines(spec: ClusterSpec) -> None:
    """Each machine once, and none that others reach without a token."""
    if spec.head in spec.workers:
        raise ConfigError(
            f"{spec.file}: {spec.head} is both the head and a worker.",
            "Take it out of provider.worker_ips: workers run on the head as well.",
        )
    twice = sorted({address for address in spec.workers if spec.workers.count(address) > 1})
    if twice:
        raise ConfigError(f"{spec.file}: provider.worker_ips names {twice[0]} twice.", "Name each machine once.")
    stray = sorted(spec.resources.keys() - {*spec.machines, EVERY})
    if stray:
        raise ConfigError(
            f"{spec.file}: provider.{OWN_KEY} names {stray[0]}, which is no machine of the cluster.",
            f"Use {', '.join(spec.machines)}, or {EVERY!r} for all.",
        )
    others = [address for address in spec.machines if not ipaddress.ip_address(address).is_loopback]
    if not spec.own.token and others:
        raise ConfigError(
            f"{spec.file}: metadata.{OURS}.token=false would let everybody who reaches {others[0]} run code there.",
            "Leave the token on.",
        )

"""What is wrong with a cluster.yaml is told in one line, before any machine is asked."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cluster.launch.cluster_spec import RAYS_KEYS, ImageSettings, read
from orchestrator.errors import ConfigError

ROOT = Path(__file__).parents[4]
GOOD = {
    "cluster_name": "own",
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
    "auth": {"ssh_user": "me"},
}


def write(folder: Path, **more: Any) -> Path:
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump({**GOOD, **more}))
    return file


def provider(**more: Any) -> dict[str, Any]:
    return {**GOOD["provider"], **more}  # type: ignore[dict-item]


def ours(**settings: Any) -> dict[str, Any]:
    return {"orchestrator": settings}


def test_a_good_one_is_read_as_it_is(tmp_path: Path) -> None:
    own = ours(environment="/opt/env", tls=True, join_timeout_s=30)
    has = {"*": {"CPU": 8}, "10.0.0.2": {"CPU": 4, "memory": "2GiB"}}
    commands = {"setup_commands": ["all"], "head_setup_commands": ["head"], "worker_setup_commands": ["worker"]}
    spec = read(write(tmp_path, metadata=own, provider=provider(node_resources=has), **commands))
    assert spec.machines == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert (spec.own.environment, spec.own.tls, spec.own.join_timeout_s) == ("/opt/env", True, 30.0)
    assert spec.resources["10.0.0.2"] == {"CPU": 4, "memory": 2 << 30}
    assert (spec.setup("10.0.0.1"), spec.setup("10.0.0.2")) == (("all", "head"), ("all", "worker"))


def test_the_image_of_a_machine_and_its_options_are_read_as_ray_reads_them(tmp_path: Path) -> None:
    told = {"image": "all:1", "worker_image": "worker:1", "run_options": ["-v /a:/a"], "head_run_options": ["--x"]}
    image = read(write(tmp_path, docker=told)).image
    assert image
    assert (image.on(head=True), image.on(head=False)) == ("all:1", "worker:1")
    assert (image.options(head=True), image.options(head=False)) == (("-v /a:/a", "--x"), ("-v /a:/a",))
    assert (image.container_name, image.program, image.pull_before_run) == ("orchestrator-own", "docker", True)
    named = read(write(tmp_path, docker={"image": "x", "container_name": "mine", "use_podman": True})).image
    assert named
    assert (named.container_name, named.program) == ("mine", "podman")
    assert read(write(tmp_path, docker={})).image is None


def test_commands_of_initialization_are_not_for_the_container(tmp_path: Path) -> None:
    commands = {"initialization_commands": ["first"], "setup_commands": ["all"]}
    spec = read(write(tmp_path, docker={"image": "x"}, **commands))
    assert (spec.initialization, spec.setup("10.0.0.1")) == (("first",), ("all",))


def test_the_shipped_one_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the addresses and the key, which everybody has to fill in."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519").touch()
    spec = read(ROOT / "cluster.yaml")
    assert (spec.name, len(spec.machines), spec.mounts) == ("training", 3, {})


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"clutser_name": "x"}, "there is no setting clutser_name. Nearest: cluster_name"),
        ({"provider": provider(worker_ip=[])}, "there is no setting provider.worker_ip."),
        ({"auth": {"ssh_key": "x"}}, "there is no setting auth.ssh_key."),
        ({"metadata": ours(tsl=True)}, "there is no setting metadata.orchestrator.tsl. Did you mean 'tls'?"),
        ({"metadata": ours(tls="yes")}, "metadata.orchestrator.tls=yes is not true or false."),
        ({"metadata": ours(ray_port=0)}, "metadata.orchestrator.ray_port=0 is not a port."),
        ({"metadata": ours(listen="all")}, "listen=all is not known. Use one of: loopback, network."),
        ({"metadata": ours(token=False)}, "token=false would let everybody who reaches 10.0.0.1 run code there."),
        ({"cluster_name": "a/b"}, "cluster_name='a/b' cannot name a cluster."),
        ({"cluster_name": "local"}, "cluster_name=local is the name of what `orchestrator up` starts."),
        ({"provider": {"type": "aws"}}, "provider.type=aws is not one that orchestrator starts."),
        ({"provider": {"type": "local"}}, "provider.head_ip is missing."),
        ({"provider": provider(head_ip=["10.0.0.1", "10.0.0.2"])}, "head_ip is a list, and a cluster has one head."),
        ({"provider": provider(head_ip="10.0.0.2")}, "10.0.0.2 is both the head and a worker."),
        ({"provider": provider(worker_ips=["10.0.0.2"] * 2)}, "provider.worker_ips names 10.0.0.2 twice."),
        ({"provider": provider(worker_ips="10.0.0.2")}, "provider.worker_ips is not a list."),
        ({"provider": provider(worker_ips=["h2"])}, "provider.worker_ips=h2 is not an IP address."),
        (
            {"provider": provider(node_resources={"10.0.0.9": {}})},
            "names 10.0.0.9, which is no machine of the cluster.",
        ),
        ({"auth": {"ssh_private_key": "/no/key"}}, "auth.ssh_private_key=/no/key is not there."),
        ({"docker": {"imgae": "x"}}, "there is no setting docker.imgae. Nearest: image"),
        ({"docker": {"container_name": "x"}}, "docker names no image for the head. Set docker.image"),
        ({"docker": {"head_image": "x"}}, "docker names no image for workers. Set docker.image"),
        ({"docker": {"image": "x", "run_options": "-v a:a"}}, "docker.run_options=-v a:a is not a list."),
        ({"docker": {"image": "x", "use_podman": "yes"}}, "docker.use_podman=yes is not true or false."),
        ({"docker": {"image": "x", "container_name": "a b"}}, "docker.container_name=a b cannot name a container."),
        ({"docker": "x"}, "docker is not a mapping."),
        ({"file_mounts": {"/a": "/no/folder"}}, "file_mounts copies /no/folder, which is not there."),
        ({"setup_commands": "ls"}, "setup_commands is not a list of commands."),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, **more))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_are_those_of_ray() -> None:
    ray = importlib.util.find_spec("ray")
    assert ray
    assert ray.origin
    schema = json.loads((Path(ray.origin).parent / "autoscaler/ray-schema.json").read_text())
    # Ray takes `min_workers` as well: it moves it elsewhere before it checks.
    assert set(schema["properties"]) | {"min_workers"} == set(RAYS_KEYS)
    assert set(schema["properties"]["docker"]["properties"]) == {each.name for each in fields(ImageSettings)}

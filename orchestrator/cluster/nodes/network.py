"""The network interface that workers talk through: the one that holds their node's address in Ray.

Left alone, gloo takes whatever address the host's name leads to, which is often 127.0.0.1, and NCCL the first interface
that it finds, which may be one of a container network: workers on several nodes then never meet.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence

import psutil

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def use_ray_interface() -> None:
    """Set the interface for gloo and NCCL in this process, a worker of Ray, unless a person has."""
    import ray

    set_interface(os.environ, interface_of(ray.util.get_node_ip_address()))


def set_interface(env: MutableMapping[str, str], interface: str | None) -> None:
    """Set what is not set yet; nothing where no interface is known: what the libraries find may then be right."""
    if interface is not None:
        env.setdefault(GLOO, interface)
        # "=" takes the name as it is: without it, eth1 would also stand for eth10.
        env.setdefault(NCCL, f"={interface}")


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]] | None = None) -> str | None:
    """The interface that holds an address; None when no interface does, as behind address translation."""
    wanted = ipaddress.ip_address(address)
    for name, addresses in (local_interfaces() if interfaces is None else interfaces).items():
        if wanted in {ipaddress.ip_address(own) for own in addresses}:
            return name
    return None


def local_interfaces() -> dict[str, list[str]]:
    """The addresses of this host by interface."""
    internet = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [own.address.partition("%")[0] for own in addresses if own.family in internet]
        for name, addresses in psutil.net_if_addrs().items()
    }

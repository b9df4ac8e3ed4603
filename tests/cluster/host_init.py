"""Process 1 of a host for tests: makes the host's world, starts sshd, and lives as long as its owner.

Its standard input is the lifeline: it is closed when the owner ends, however that may be. Process 1 then ends, the kernel
kills all other processes of the host, and with the last of them go its mounts and its network. Nothing is left to
clean up, since nothing was made outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120

import namespaces

SCRATCHES = ("/mnt", "/media", "/srv", "/opt")
"""Where the new root may be put together: any folder that is there. What is mounted on it is seen by this host only."""
SSHD_CONFIG = """\
HostKey /etc/ssh/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv PATH={path}
"""


def main(settings: dict[str, Any]) -> None:
    """Make a switch (only a network) or a host, say so, and wait for the owner's end."""
    if settings["kind"] == "switch":
        namespaces.unshare(namespaces.NEW_NETWORK)
    else:
        namespaces.unshare(namespaces.ALL & ~namespaces.NEW_PIDS)
        make_root(settings["needed"], settings["shared"])
        socket.sethostname(settings["name"])
        make_home(Path(settings["home"]), settings["name"])
    if settings["kind"] == "host":
        start_sshd(settings["path"])
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    reap()
    print("ready", flush=True)
    sys.stdin.read()


def make_root(needed: list[str], shared: list[str]) -> None:
    """A root of our own: what the machine has, seen through a layer that keeps what this host writes, in memory."""
    scratch = scratch_folder([*needed, *shared])
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "scratch", str(scratch))
    root = scratch / "root"
    for number, point in enumerate(mount_points(needed)):
        layer = scratch / f"layer-{number}"
        (layer / "upper").mkdir(parents=True)
        (layer / "work").mkdir()
        target = root / point.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={point},upperdir={layer}/upper,workdir={layer}/work"
        run("mount", "-t", "overlay", "-o", options, "host", str(target))
    fill_root(root)
    for path in shared:
        target = root / path.lstrip("/")
        if Path(path).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        run("mount", "--bind", path, str(target))
    old = root / scratch.relative_to("/")
    run("pivot_root", str(root), str(old))
    os.chdir("/")
    run("umount", "--lazy", str(scratch))


def scratch_folder(used: Iterable[str]) -> Path:
    """A folder that hides nothing we need when something is mounted on it."""
    taken = {str(folder) for path in used for folder in (Path(path), *Path(path).parents)}
    return next(Path(path) for path in SCRATCHES if path not in taken and Path(path).is_dir())


def mount_points(needed: Iterable[str]) -> list[str]:
    """The file systems that hold the folders that every host needs, outermost first."""
    points = {"/"}
    for path in needed:
        points |= {str(folder) for folder in (Path(path), *Path(path).parents) if folder.is_mount()}
    return sorted(points)


def fill_root(root: Path) -> None:
    """What a host has for itself: processes, devices' terminals, shared memory, temporary and run folders."""
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    run("mount", "-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys"))
    if any(Path("/sys/fs/cgroup").iterdir()):
        run("mount", "--rbind", "/sys/fs/cgroup", str(root / "sys/fs/cgroup"))
    run("mount", "--bind", "/dev", str(root / "dev"))
    run("mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=620", "devpts", str(root / "dev/pts"))
    for folder, mode in (("dev/shm", 1777), ("tmp", 1777), ("var/tmp", 1777), ("run", 755), ("home", 755)):
        run("mount", "-t", "tmpfs", "-o", f"mode={mode}", "own", str(root / folder))


def make_home(home: Path, name: str) -> None:
    """A home folder, and root's entry in the table of users that points to it."""
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    users = Path("/etc/passwd").read_text().splitlines()
    fields = [line.split(":") for line in users]
    lines = [":".join([*line[:5], str(home), "/bin/bash"] if line[0] == "root" else line) for line in fields]
    Path("/etc/passwd").write_text("\n".join(lines) + "\n")
    Path("/etc/hostname").write_text(f"{name}\n")


def start_sshd(path: str) -> None:
    """An sshd with keys of its own, at port 22 of the host's address."""
    config = Path("/etc/ssh/sshd_config")
    config.parent.mkdir(exist_ok=True)
    config.write_text(SSHD_CONFIG.format(path=path))
    Path("/run/sshd").mkdir(mode=0o755)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/host_key")
    subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-f", str(config), "-E", "/var/log/sshd.log"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def reap() -> None:
    """Bury those whose parents died before them, as process 1 has to."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def run(*argv: str) -> None:
    """Run a command that has to work."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

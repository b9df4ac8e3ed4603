"""The same verbs from a machine that is not part of the cluster: they run on its head, over SSH.

`orchestrator.cli.incoming` is what runs there for a project that was sent.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import paths
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.config.request import ConfigArgs

INCOMING = ".orchestrator/incoming"
ENTRY = "orchestrator.cli.incoming"
"""The module that takes a project in, on the head."""
OPTION = "--cluster"


def forward(cluster_file: str, words: Sequence[str]) -> int:
    """Run the same command on the head; its exit code."""
    from orchestrator.cluster.launch.connected import connected

    with connected(cluster_file) as cluster:
        return cluster.execute(["orchestrator", *without_option(words)])


def without_option(words: Sequence[str]) -> list[str]:
    """The command without the part that says where."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == OPTION:
            next(rest, None)
        elif not word.startswith(f"{OPTION}="):
            kept.append(word)
    return kept


def submit(
    cluster_file: str, config: ConfigArgs, plan_file: str | None, run_id: str | None, *, wait: bool, upload_limit: str
) -> int:
    """Send the project to the head, and submit it there under an id that is chosen here."""
    from orchestrator.records.runs import new_id

    _refuse_config_dir(config)
    job, storage = _job_and_storage(config, plan_file)
    words = ["submit", "--id", run_id or new_id(job), "--upload-limit", upload_limit, *(["--wait"] if wait else [])]
    return _send(cluster_file, config, storage, plan_file, words, upload_limit)


def sweep(
    cluster_file: str, config: ConfigArgs, name: str | None, *, dry_run: bool, wait: bool, upload_limit: str
) -> int:
    """Send the project to the head, and submit a sweep there under a name that is chosen here; or only plan it."""
    from orchestrator.records.runs import new_id
    from orchestrator.sweeps.definition import define

    _refuse_config_dir(config)
    spec = define(config.overrides, config.config_name).spec
    words = ["sweep", "--name", name or new_id(f"{spec.job.name}-sweep"), "--upload-limit", upload_limit]
    words += ["--submit", *(["--dry-run"] if dry_run else []), *(["--wait"] if wait else [])]
    return _send(cluster_file, config, paths.absolute(spec.storage.path), None, words, upload_limit)


def _refuse_config_dir(config: ConfigArgs) -> None:
    if config.config_dir:
        raise ConfigError("--config-dir stays on this machine.", "Put it into the project, as conf/.")


def _job_and_storage(config: ConfigArgs, plan_file: str | None) -> tuple[str, str]:
    if plan_file:
        from orchestrator.planning.plan_file import read_plan, refuse_config

        refuse_config(config, plan_file)
        plan = read_plan(plan_file)
        return plan.job, paths.absolute(plan.spec["storage"]["path"])
    spec = config.load().spec
    return spec.job.name, paths.absolute(spec.storage.path)


def _send(
    cluster_file: str, config: ConfigArgs, storage: str, plan_file: str | None, words: list[str], upload_limit: str
) -> int:
    """Send the project, and run a command in it on the head; its exit code."""
    from orchestrator.cluster.launch.connected import connected
    from orchestrator.submission.request import pack

    packed = pack(storage, upload_limit)
    words += ["--json"] if config.json else []
    words += ["--config-name", config.config_name] if config.config_name != "config" else []
    words += config.overrides
    folder = f"{INCOMING}/{secrets.token_hex(8)}"
    with connected(cluster_file) as cluster, tempfile.TemporaryDirectory(prefix="orchestrator-package-") as scratch:
        package = Path(scratch) / f"{packed.digest}.zip"
        packed.write(package)
        if plan_file:
            (Path(scratch) / "plan.json").write_bytes(Path(plan_file).read_bytes())
            words += ["--plan", "plan.json"]
        cluster.send(Path(scratch), f"~/{folder}")
        return cluster.execute(["python", "-P", "-m", ENTRY, folder, packed.digest, *words])

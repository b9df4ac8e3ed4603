"""What would keep a run from starting, asked before there is a run: it then leaves nothing behind."""

from __future__ import annotations

from orchestrator import paths
from orchestrator.cluster.node.address import check_answers
from orchestrator.config.schema import JobSpec
from orchestrator.foundation.storage import open_store
from orchestrator.tracking.store import prepare, resolve_uri


def check(spec: JobSpec) -> None:
    """Refuse a dead tracking server, a dead Ray cluster, and storage that cannot be written, in this order."""
    tracking = spec.tracking
    tracked = resolve_uri(tracking.uri, spec.storage.path) if tracking.enabled else None
    if tracked and not tracked.ours:
        prepare(tracked, tracking.timeout_s)
    if spec.cluster.address:
        check_answers(spec.cluster.address)
    open_store(paths.absolute(spec.storage.path)).check_writable()
    if tracked and tracked.ours:
        prepare(tracked, tracking.timeout_s)

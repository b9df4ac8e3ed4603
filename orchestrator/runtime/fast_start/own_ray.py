"""A Ray of our own, for one run on this machine: only what runs actors, since its helpers take most of its start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

UNNEEDED = ("start_api_server", "start_log_monitor", "start_monitor")
"""What Ray's head starts beside: the dashboard's server, which it waits for even where there is to be no dashboard; the
carrier of logs to the driver, which we do not want; the autoscaler's monitor."""


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """While it lasts, `ray.init` starts no helpers, and its agents as those of a Ray installed without extras.

    ray.init has no options for it. What another version of Ray calls otherwise is started as usual.
    """
    import ray._private.node
    import ray._private.utils

    with contextlib.ExitStack() as changes:
        for name in UNNEEDED:
            changes.enter_context(_replaced(ray._private.node.Node, name, _not_started))
        no_extras = ImportError("not for a Ray that nobody looks at")
        changes.enter_context(_replaced(ray._private.utils, "get_dashboard_dependency_error", lambda: no_extras))
        yield


def _not_started(node: Any, **_: Any) -> None:
    node._webui_url = ""  # which the server would have set


@contextlib.contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)

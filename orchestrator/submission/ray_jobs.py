"""Ray Jobs by plain HTTP: importing Ray would take longer than all there is to say."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.node import private
from orchestrator.cluster.node.home import Record
from orchestrator.errors import MachineError

TIMEOUT_S = 60.0
"""Ray answers once it has begun to start the job, which takes a second or two on a busy machine."""
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What Ray says of a submission."""

    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str = ""
    metadata: Mapping[str, str]
    exit_code: int | None = None
    """Of its process, once that has ended by itself."""

    @property
    def is_over(self) -> bool:
        """Whether its process has ended, or will never be started."""
        return self.status in ENDED


class RayJobs:
    """The jobs of the cluster whose head is this machine."""

    def __init__(self, cluster: Record) -> None:
        self._address = cluster.dashboard
        self._name = cluster.name
        if not cluster.dashboard:
            raise MachineError(
                f"Jobs of the cluster {cluster.name} are handed in on its head, and this machine is another one.",
                "Do it on the head, or from where its cluster.yaml is, with --cluster cluster.yaml.",
            )
        token = cluster.environment.get("RAY_AUTH_TOKEN_PATH", "")
        self._token = private.read(Path(token)) if token else ""

    def submit(self, submission_id: str, entrypoint: str, metadata: Mapping[str, str]) -> bool:
        """Hand one in. False: Ray has one of this id already, and starts no second."""
        body = {"entrypoint": entrypoint, "submission_id": submission_id, "metadata": dict(metadata)}
        status, text = self._ask("POST", "/api/jobs/", body)
        if status == 200:
            return True
        if f"{submission_id} already exists" in text:
            return False
        raise self._refused(status, text)

    def get(self, submission_id: str) -> Told | None:
        """What Ray says of one; None when it does not know it."""
        status, text = self._ask("GET", f"/api/jobs/{submission_id}")
        if status == 404:
            return None
        if status != 200:
            raise self._refused(status, text)
        found: dict[str, Any] = json.loads(text)
        return Told(
            status=found["status"],
            message=found.get("message") or "",
            metadata=found.get("metadata") or {},
            exit_code=found.get("driver_exit_code"),
        )

    def stop(self, submission_id: str) -> None:
        """End its process: SIGTERM, and after 3 s SIGKILL. Nothing happens where there is none."""
        status, text = self._ask("POST", f"/api/jobs/{submission_id}/stop")
        if status not in (200, 404):
            raise self._refused(status, text)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}{path}", data, headers, method=method)
        try:
            # No proxy stands between this machine and itself.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=TIMEOUT_S
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")
        except (OSError, ValueError) as error:
            told = getattr(error, "reason", error)
            reason = getattr(told, "strerror", None) or str(told)
            raise MachineError(
                f"The cluster {self._name} takes no jobs at {self._address}: {reason}.",
                "Look at it with: orchestrator status",
            ) from error

    def _refused(self, status: int, text: str) -> MachineError:
        if status in (401, 403):
            return MachineError(
                f"The cluster {self._name} at {self._address} does not know our token.",
                "Was it started anew by somebody else? Start your own: orchestrator down; orchestrator up",
            )
        last = ([line.strip() for line in text.splitlines() if line.strip()] or [f"status {status}"])[-1]
        return MachineError(f"The cluster {self._name} did not take the job: {last.rstrip('.')}.")

"""MLflow's client without its noise, and calls to it that end in a time we choose."""

from __future__ import annotations

import logging
import math
import os
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from orchestrator.errors import TrackingError
from orchestrator.foundation.environment import quiet_telemetry

if TYPE_CHECKING:
    from mlflow import MlflowClient

Result = TypeVar("Result")


def quiet_mlflow() -> None:
    """Keep MLflow's own messages off the terminal: what matters of them comes back as our errors and notes."""
    quiet_telemetry(os.environ)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for our JSON
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(mlflow|alembic|sqlalchemy|pydantic)\b")


def load() -> None:
    """Import MLflow: some seconds that are not the server's, so they are not counted as its delay."""
    quiet_mlflow()
    import mlflow.entities
    import mlflow.exceptions  # noqa: F401


def make_client(uri: str, timeout_s: float) -> MlflowClient:
    """A client that gives up a request after `timeout_s`; by default MLflow tries for four minutes."""
    quiet_mlflow()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, math.ceil(timeout_s))))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def within(timeout_s: float, call: Callable[[], Result], what: str) -> Result:
    """Call, and wait no longer than `timeout_s`. A call that hangs goes on in a thread that nobody waits for."""
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001  the thread's boundary: raised again below, with its traceback
            failure.append(error)

    thread = threading.Thread(target=run, name=f"mlflow: {what}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if failure:
        raise failure[0]
    if not outcome:
        raise TrackingError(f"MLflow did not {what} within {timeout_s:g} s.")
    return outcome[0]


def reason(error: BaseException) -> str:
    """The one line of an error of MLflow, or of what is below it, that a person can use."""
    text = str(error).strip() or type(error).__name__
    if "Max retries exceeded" in text or "Failed to establish" in text:
        return "the server does not answer"
    if "Read timed out" in text:
        return "the server does not answer in time"
    line = text.splitlines()[0]
    return line if len(line) <= 300 else f"{line[:300]}..."


def errors() -> tuple[type[Exception], ...]:
    """What calls into MLflow can raise: its own errors, and those of the network, database and folder below it."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, requests.RequestException, SQLAlchemyError, ImportError, OSError, ValueError)

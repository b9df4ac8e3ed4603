"""Environment variables we set for every process: nothing a person trains is reported to anybody."""

from __future__ import annotations

from collections.abc import MutableMapping

TELEMETRY_OFF = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
}
"""What each library reads: Ray (`_common/usage/usage_lib.py`), MLflow (`telemetry/utils.py`), huggingface_hub (both
spellings, and DO_NOT_TRACK) and the convention many tools follow. MLflow takes DO_NOT_TRACK only as the word `true`."""


def quiet_telemetry(env: MutableMapping[str, str]) -> None:
    """Turn telemetry off wherever the person has not decided otherwise. Call it before ray or mlflow is imported."""
    for name, value in TELEMETRY_OFF.items():
        env.setdefault(name, value)

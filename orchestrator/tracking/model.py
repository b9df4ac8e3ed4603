"""The final model in MLflow: weights as safetensors, with a signature; nothing must be unpickled to load it."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

LOADER = "orchestrator.models.pyfunc"
REQUIREMENTS = ("torch", "safetensors", "numpy", "pandas", "hydra-core", "omegaconf", "PyYAML", "mlflow")
"""What loading needs from the package index. Not our own package: on the index, its name may be somebody else's."""
NAME = "model"


def log(client: MlflowClient, run_id: str, folder: Path) -> str:
    """Record the model of a run and return its id in MLflow.

    In the steps that `mlflow.pyfunc.log_model` takes, but on this client and run: that function goes by the process's
    global tracking URI and active run, and reads the history of every metric.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, name=NAME, source_run_id=run_id, params=run.data.params, model_type="training"
    )
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=int(description.get("step") or 0))])
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / NAME
        mlflow.pyfunc.save_model(
            path=str(target),
            loader_module=LOADER,
            data_path=str(folder),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
                metadata={"orchestrator.version": version("orchestrator"), "task": description.get("task", "")},
            ),
            signature=signature(description),
            pip_requirements=requirements(),
        )
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    _link_metrics(client, run_id, logged.model_id, description)
    return str(logged.model_id)


def signature(description: dict[str, Any]) -> ModelSignature | None:
    """MLflow's signature from model.json; None when the worker could not tell it."""
    from mlflow.models import ModelSignature

    if not description.get("inputs"):
        return None
    return ModelSignature(inputs=_schema(description["inputs"]), outputs=_schema(description.get("outputs") or []))


def _schema(tensors: list[dict[str, Any]]) -> Any:
    """One tensor has no name, so that a plain array is accepted; several go by name."""
    import numpy
    from mlflow.types import Schema, TensorSpec

    if not tensors:
        return None
    names = [str(tensor.get("name") or index) for index, tensor in enumerate(tensors)] if len(tensors) > 1 else [None]
    return Schema(
        [
            TensorSpec(numpy.dtype(_numpy_name(tensor["dtype"])), tuple(tensor["shape"]), name)
            for name, tensor in zip(names, tensors, strict=True)
        ]
    )


def _numpy_name(dtype: str) -> str:
    """torch.bfloat16, which numpy does not have, comes in and out as float32."""
    name = dtype.removeprefix("torch.")
    return {"bfloat16": "float32"}.get(name, name)


def requirements() -> list[str]:
    """Exact versions as the package index names them: torch 2.13.0+cpu is there as 2.13.0."""
    found = []
    for package in REQUIREMENTS:
        try:
            found.append(f"{package}=={version(package).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found


def _link_metrics(client: MlflowClient, run_id: str, model_id: str, description: dict[str, Any]) -> None:
    """Show the model's own metrics on its page: those the run recorded at the step the model was saved at."""
    from mlflow.entities import Metric

    step, names = description.get("step"), description.get("metrics") or {}
    linked = [
        Metric(point.key, point.value, point.timestamp, point.step, model_id=model_id, run_id=run_id)
        for name in names
        for point in client.get_metric_history(run_id, name)
        if point.step == step
    ]
    if linked:
        client.log_batch(run_id, metrics=linked)

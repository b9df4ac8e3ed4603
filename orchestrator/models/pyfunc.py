"""Loads a model that a run left in its folder: for ourselves, and as the loader that MLflow calls by its name.

The folder holds model.safetensors (the weights) and model.json (how to build the module they go into, what goes in and
comes out). Building goes through the same allowlist of targets as training; nothing is unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import paths
from orchestrator.errors import StorageError
from orchestrator.foundation import formats

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
POSITIONAL = re.compile(r"input(?:_(\d+))?")
"""Names of inputs that had none in training: they go in by position, all others by keyword."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to predict. MLflow calls `predict`."""

    module: torch.nn.Module
    description: dict[str, Any]

    def predict(self, inputs: Any, params: dict[str, Any] | None = None) -> Any:
        """Outputs for an array, tensor, DataFrame or dict of arrays, as numpy; several outputs keep their shape."""
        import torch

        with torch.no_grad():
            return _to_numpy(self._call(inputs))

    def _call(self, inputs: Any) -> Any:
        tensors = {tensor["name"]: tensor for tensor in self.description.get("inputs") or []}
        if not isinstance(inputs, Mapping):
            inputs = {next(iter(tensors), "input"): inputs}
        ready = {name: _to_tensor(value, tensors.get(name)) for name, value in inputs.items()}
        if all(POSITIONAL.fullmatch(name) for name in ready):
            return self.module(*(ready[name] for name in sorted(ready, key=_position)))
        return self.module(**ready)


def load(folder: str | Path) -> LoadedModel:
    """The model in a folder, in evaluation mode."""
    folder = Path(folder)
    return LoadedModel(rebuild(folder), describe(folder))


def _load_pyfunc(path: str) -> LoadedModel:
    """What mlflow.pyfunc calls."""
    return load(path)


def describe(folder: Path) -> dict[str, Any]:
    """What model.json says, refused when it is not there or of another format."""
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        formats.check("model", str(folder), description)
    except (OSError, ValueError) as error:
        raise StorageError(f"{folder} holds no model that can be read: {error}.") from error
    return description


def rebuild(folder: Path) -> torch.nn.Module:
    """The module with its weights. Every weight must be there and none may be left over."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    module = _build(describe(folder))
    try:
        module.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise StorageError(f"The weights {folder / WEIGHTS} cannot be read: {error}.") from error
    except RuntimeError as error:
        raise StorageError(
            f"The weights in {folder} do not fit the model that its config describes: {error}.",
            "The model's code has changed since it was trained: use the commit the run recorded.",
        ) from error
    return module.eval()


def _build(description: dict[str, Any]) -> torch.nn.Module:
    """The seam to the config room: a new module, as the Task of the run builds it."""
    from orchestrator.config.targets import targets

    module: torch.nn.Module = targets.bind(description["spec"], project=paths.project_dir()).task().build_model()
    return module


def _position(name: str) -> int:
    match = POSITIONAL.fullmatch(name)
    return int(match[1] or 0) if match else 0


def _to_tensor(value: Any, expected: dict[str, Any] | None) -> torch.Tensor:
    """A tensor of the dtype the model was trained on; a DataFrame's rows take the shape that the model expects."""
    import numpy
    import torch

    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(numpy.array(value))
    if expected is None:
        return tensor
    tensor = tensor.to(getattr(torch, str(expected["dtype"]).removeprefix("torch.")))
    rest = list(expected["shape"])[1:]
    if tensor.dim() == 2 and len(rest) > 1 and all(size > 0 for size in rest):
        tensor = tensor.reshape(-1, *rest)
    return tensor


def _to_numpy(outputs: Any) -> Any:
    import torch

    if isinstance(outputs, torch.Tensor):
        outputs = outputs.detach().cpu()
        return (outputs.float() if outputs.dtype == torch.bfloat16 else outputs).numpy()
    if isinstance(outputs, Mapping):
        return {name: _to_numpy(value) for name, value in outputs.items() if value is not None}
    if isinstance(outputs, Sequence) and not isinstance(outputs, str):
        return [_to_numpy(value) for value in outputs]
    return outputs

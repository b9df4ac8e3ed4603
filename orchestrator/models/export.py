"""Takes a run's model out of any of its checkpoints, in one file, whatever strategy and number of workers saved it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import paths
from orchestrator.errors import ConfigError, StorageError
from orchestrator.foundation import formats
from orchestrator.foundation.storage import write_atomically
from orchestrator.models.pyfunc import DESCRIPTION, WEIGHTS
from orchestrator.records.runs import RunRecord

if TYPE_CHECKING:
    from orchestrator.runtime.checkpoint.catalog import Catalog, OpenCheckpoint

BEST, LAST = "best", "last"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was written."""

    run: str
    checkpoint: str
    step: int
    folder: str
    file: str
    parameters: int
    bytes: int
    dtype: str


def find(record: RunRecord, which: str = BEST) -> str:
    """A checkpoint's name. `which`: best (the last, where none was judged), last, a step or a name."""
    from orchestrator.runtime.checkpoint.catalog import require

    catalog = _catalog(record)
    last = catalog.last()
    if which == BEST and last:
        return catalog.at_step(catalog.progress(last).best_step) or last
    return require(catalog, None if which in (BEST, LAST) else which)


def export(record: RunRecord, folder: Path, *, checkpoint: str = BEST, dtype: str = "fp32") -> Exported:
    """Write model.safetensors and model.json.

    A checkpoint is checked before it is read, tensors are copied one at a time, and the file gets its name when it is
    complete.
    """
    from orchestrator.runtime.checkpoint.catalog import step_of
    from orchestrator.runtime.checkpoint.whole_model import WholeModel

    name = find(record, checkpoint)
    _check_folder(folder)
    with opened_checkpoint(record, name) as opened:
        model = WholeModel(opened.reader(), _dtype(dtype))
        file, partial = folder / WEIGHTS, folder / f".{WEIGHTS}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            model.write(partial)
            write_atomically(folder / DESCRIPTION, (json.dumps(_describe(record, name), indent=2) + "\n").encode())
            partial.replace(file)
        except OSError as error:
            raise StorageError(f"Cannot write {file}: {error.strerror}.", "Choose another folder: --out.") from error
        finally:
            partial.unlink(missing_ok=True)
        return Exported(
            run=record.id,
            checkpoint=name,
            step=step_of(name),
            folder=str(folder),
            file=str(file),
            parameters=model.parameters,
            bytes=file.stat().st_size,
            dtype=dtype,
        )


@contextlib.contextmanager
def opened_checkpoint(record: RunRecord, name: str) -> Iterator[OpenCheckpoint]:
    """A checkpoint to read from; one that is not as it was written is refused."""
    catalog = _catalog(record)
    with catalog.opened(name) as opened:
        damage = opened.whole_damage()
        if damage:
            raise StorageError(f"Checkpoint {name} is damaged: {damage}.", f"Others: {', '.join(catalog.names())}.")
        yield opened


def _catalog(record: RunRecord) -> Catalog:
    from orchestrator.runtime.checkpoint.catalog import Catalog

    return Catalog(record.store.child(paths.CHECKPOINTS))


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ConfigError(f"--out={folder} is a file.", "Name a folder, which is made if it is not there.")
    if (folder / WEIGHTS).exists():
        raise ConfigError(f"{folder / WEIGHTS} exists already.", "Name another folder with --out, or remove it.")


def _dtype(name: str) -> Any:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "as-saved": None}[name]


def _describe(record: RunRecord, name: str) -> dict[str, Any]:
    """How to build the module that the weights go into; inputs and outputs as the final model has them."""
    from orchestrator.runtime.checkpoint.catalog import step_of

    final: dict[str, Any] = {}
    if record.store.exists(f"{paths.MODEL}/{DESCRIPTION}"):
        final = json.loads(record.store.read(f"{paths.MODEL}/{DESCRIPTION}"))
        formats.check("model", f"{record.root}/{paths.MODEL}", final)
    known: dict[str, Any] = {key: final[key] for key in ("inputs", "outputs") if key in final}
    plan = record.plan
    return {"format": formats.FORMAT, "task": plan.task, "spec": plan.spec, "step": step_of(name), **known}

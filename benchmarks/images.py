"""Photos as float tensors at the step: from the prepared cache, against a DataLoader that decodes with Pillow.

Both crop to a square, resize, normalise, and then shift, mirror and hide a part at random, in as many processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import Measurement, Result, interleave
from orchestrator.config.schema import Loader as Settings
from orchestrator.jobs.image_classification import ImageClassification, photos
from orchestrator.plans.types import MeshShape, Row
from orchestrator.runtime.worker.data.loader import Loader, Source
from orchestrator.runtime.worker.data.sampler import Sampler

IMAGES, SIDE, SIZE = 1600, (256, 192), 112
BATCH, PROCESSES = 32, 2
SHIFT, HIDE = 8, 32


class PillowFolder(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A folder of photos as tutorials read one."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*/*.jpg"))
        self.classes = sorted({file.parent.name for file in self.files})

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file = self.files[index]
        with Image.open(file) as opened:
            width, height = opened.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            image = opened.convert("RGB").crop((left, top, left + side, top + side)).resize((SIZE, SIZE))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float().div(255).sub(0.5).div(0.25)
        top, left = np.random.randint(0, 2 * SHIFT + 1, size=2).tolist()
        pixels = torch.nn.functional.pad(pixels, [SHIFT] * 4)[:, top : top + SIZE, left : left + SIZE]
        if np.random.rand() < 0.5:
            pixels = pixels.flip(-1)
        top, left = (np.random.randint(0, SIZE + HIDE, size=2) - HIDE).tolist()
        pixels = pixels.clone()
        pixels[:, max(0, top) : top + HIDE, max(0, left) : left + HIDE] = 0
        return pixels, self.classes.index(file.parent.name)


def benchmark(pairs: int, folder: Path) -> list[Result]:
    """Samples a second over whole epochs; the first of ours, which prepares, for itself."""
    make_photos(folder / "photos")
    cold = _cold(folder)
    compared = interleave(pairs, lambda: _ours(folder, folder / "cache"), lambda: _peer(folder))
    what = f"{IMAGES} photos to {SIZE} x {SIZE}, {PROCESSES} processes"
    return [
        Result(
            name="cached",
            what=f"{what}: samples/s, DataLoader with Pillow",
            figure="samples_per_s",
            target=">= 2",
            pairs=compared,
        ),
        Result(
            name="cold",
            what=f"{what}, first epoch with preparing: samples/s, the same",
            figure="samples_per_s",
            target="none",
            pairs=[(cold, peer) for _, peer in compared],
        ),
    ]


def make_photos(folder: Path) -> None:
    """Smooth noise, which JPEG packs about as tightly as photos."""
    chance = np.random.default_rng(0)
    for number in range(IMAGES):
        place = folder / f"class-{number % 8}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = chance.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIDE).save(place / f"{number:05d}.jpg", quality=88)


def _no_data(split: str) -> None:
    """The loader is given its dataset."""


def _cold(folder: Path) -> Measurement:
    started = time.perf_counter()
    _ours(folder, folder / "cold-cache")
    return {"samples_per_s": IMAGES / (time.perf_counter() - started)}


def _ours(folder: Path, cache: Path) -> Measurement:
    dataset: Any = photos(
        "train",
        str(folder / "photos"),
        size=SIZE,
        shift=SHIFT,
        flip=True,
        hide=HIDE,
        val_fraction=0.0,
        cache=str(cache),
    )
    task = ImageClassification(torch.nn.Identity, _no_data)
    row = Row(world_size=1, mesh=MeshShape(data=1), batch=BATCH, micro_batch=BATCH, accumulation=1, deepspeed={})
    sampler = Sampler(size=len(dataset), seed=0, row=row, data_rank=0)
    loader = Loader(Source(task=task, dataset=dataset, split="train"), Settings(processes=PROCESSES), pin=False)
    try:
        windows = loader.windows(sampler, range(len(dataset) // BATCH))
        return _rate(window.batches[0] for window in windows)
    finally:
        loader.close()


def _peer(folder: Path) -> Measurement:
    loader = torch.utils.data.DataLoader(
        PillowFolder(folder / "photos"), batch_size=BATCH, shuffle=True, num_workers=PROCESSES, drop_last=True
    )
    return _rate(iter(loader))


def _rate(batches: Iterator[Any]) -> Measurement:
    """From the second batch on: the processes' start is not what is compared."""
    next(batches)
    started, samples = time.perf_counter(), 0
    for images, _ in batches:
        samples += len(images)
        if images.dtype != torch.float32 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
            raise SystemExit(f"a batch of {images.dtype} {tuple(images.shape)} was made")
    return {"samples_per_s": samples / (time.perf_counter() - started)}

"""Photos: decoded and resized once with OpenCV, kept as bytes, given as normalised floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.arrays import Array
from orchestrator.data.labels import as_field, class_number, classes_of
from orchestrator.data.preparation import Facts, Fields, Items, Preparation, need
from orchestrator.data.records import Record, Unreadable

ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB`\x82"}
"""How files of some formats begin, and end when they are whole: OpenCV reads half a file as if it were."""
TRAILING = b"\x00\n\r "
CHUNK = 1024
Item = tuple[Tensor, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Images(Preparation):
    """Square images of one size, with a class each. Records have `file` (or `image` with its `bytes`) and `label`."""

    size: int
    """Pixels of a side."""
    channels: Literal[1, 3] = 3
    """3: red, green and blue; 1: grey."""
    fit: Literal["crop", "squash"] = "crop"
    """Images that are not square lose what is too long (crop), or their proportions (squash)."""

    def learn(self, rows: Sequence[Record]) -> Facts:
        """The classes."""
        return {"classes": classes_of(rows)}

    def preparer(self, facts: Facts) -> Callable[[Record], Fields]:
        """Decode and resize."""
        number_of = class_number(facts["classes"])

        def prepare(record: Record) -> Fields:
            label = number_of(record)
            pixels = decode(_content(record), self.channels)
            return {"image": resize(pixels, self.size, self.fit), "label": as_field(label)}

        return prepare

    def measure(self, items: Items) -> Facts:
        """Mean and standard deviation of each channel, with values from 0 to 1."""
        images = items.whole("image")
        total = np.zeros(self.channels)
        squares = np.zeros(self.channels)
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK].astype(np.float64) / 255
            total += part.sum(axis=(0, 2, 3))
            squares += np.square(part).sum(axis=(0, 2, 3))
        count = len(images) * self.size**2
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        return {"mean": mean.tolist(), "deviation": deviation.tolist()}

    def reader(self, facts: Facts) -> Callable[[Fields], Item]:
        """Channels x height x width, with mean 0 and deviation 1 over the training split; and the class."""
        deviation = np.array(facts["deviation"], dtype=np.float32)[:, None, None]
        scale = 1 / (255 * deviation)
        shift = -np.array(facts["mean"], dtype=np.float32)[:, None, None] / deviation

        def read(fields: Fields) -> Item:
            return torch.from_numpy(fields["image"] * scale + shift), int(fields["label"])

        return read


@dataclass(frozen=True, kw_only=True, slots=True)
class Randomly:
    """What training may do to an image that leaves it what it is."""

    shift: int = 0
    """Moved by up to so many pixels, in each direction; what comes in is grey."""
    flip: bool = False
    """Mirrored half of the times."""
    hide: int = 0
    """A square of this side is grey, wherever it falls."""

    def __call__(self, item: Item, chance: np.random.Generator) -> Item:
        """The image changed, and its class."""
        image, label = item
        side = image.shape[-1]
        if self.shift:
            top, left = chance.integers(0, 2 * self.shift + 1, size=2).tolist()
            image = torch.nn.functional.pad(image, [self.shift] * 4)[:, top : top + side, left : left + side]
        if self.flip and chance.random() < 0.5:
            image = image.flip(-1)
        if self.hide:
            top, left = (chance.integers(0, side + self.hide, size=2) - self.hide).tolist()
            image = image.clone()
            image[:, max(0, top) : top + self.hide, max(0, left) : left + self.hide] = 0
        return image, label


def decode(content: bytes, channels: int) -> Array:
    """Height x width x channels as bytes; an image that is not whole is unreadable."""
    cv2 = need("cv2", "images")
    # Its own threads would stand in the way of those that already read several images at once.
    cv2.setNumThreads(0)
    for begin, end in ENDS.items():
        if content.startswith(begin) and not content.rstrip(TRAILING).endswith(end):
            raise Unreadable("the file ends before the image does")
    flags = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags) if content else None
    except cv2.error as error:
        raise Unreadable(f"OpenCV cannot decode it: {error.err}") from error
    if pixels is None:
        raise Unreadable("not an image that OpenCV can decode" if content else "the file is empty")
    decoded: Array = pixels[:, :, None] if channels == 1 else pixels[:, :, ::-1]
    return decoded


def resize(pixels: Array, size: int, fit: str) -> Array:
    """Channels x size x size."""
    cv2 = need("cv2", "images")
    height, width = pixels.shape[:2]
    if fit == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    if pixels.shape[:2] != (size, size):
        how = cv2.INTER_AREA if pixels.shape[0] > size else cv2.INTER_LINEAR
        resized = cv2.resize(np.ascontiguousarray(pixels), (size, size), interpolation=how)
        pixels = resized.reshape(size, size, -1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _content(record: Record) -> bytes:
    """The encoded image: in a file, or in the record, as Hugging Face's datasets keep it."""
    if "file" in record:
        return Path(record["file"]).read_bytes()
    kept: Any = record.get("image") or record.get("img")
    if isinstance(kept, dict) and kept.get("bytes"):
        return bytes(kept["bytes"])
    if isinstance(kept, dict) and kept.get("path"):
        return Path(kept["path"]).read_bytes()
    if isinstance(kept, bytes):
        return kept
    raise Unreadable("the record has no image: neither `file` nor `image` with its bytes")

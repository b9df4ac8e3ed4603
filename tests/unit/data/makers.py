"""Miniature data of all sorts, as people keep it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import soundfile

from orchestrator.data.records import NAME, Record, Records


def photo(file: Path, colour: tuple[int, int, int] = (200, 40, 10), height: int = 12, width: int = 16) -> Path:
    """One photo of one colour (red, green, blue), with a dark left edge."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), colour[::-1], dtype=np.uint8)
    pixels[:, : width // 4] //= 2
    assert cv2.imwrite(str(file), pixels)
    return file


def photos(root: Path, count: int = 6) -> Path:
    """Red and blue photos in class folders below train and test."""
    for split, number in (("train", count), ("test", 2)):
        for k in range(number):
            photo(root / split / "red" / f"{k}.png", (200 + k, 30, 20))
            photo(root / split / "blue" / f"{k}.jpg", (20, 30, 200 + k))
    return root


def sound(file: Path, pitch: float, seconds: float = 0.3, rate: int = 8000) -> Path:
    """One tone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * rate)) / rate
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * pitch * times), rate, subtype="PCM_16")
    return file


def sounds(root: Path, takes: int = 6) -> Path:
    """Low and high tones in folders named 0 and 1, several takes of each."""
    for digit, pitch in (("0", 300.0), ("1", 1200.0)):
        for take in range(takes):
            sound(root / digit / f"{digit}_ann_{take}.wav", pitch + 10 * take, 0.2 + 0.02 * take)
    return root


def spoken(root: Path, count: int = 24) -> Path:
    """A manifest of low and high tones of different lengths, with what they "say"."""
    lines = ["file\ttext"]
    for k in range(count):
        word, pitch = (("low", 300.0), ("high", 1500.0))[k % 2]
        lines.append(f"{sound(root / f'{k}.wav', pitch + 10 * k, 0.2 + 0.01 * k).name}\t{word}")
    manifest = root / "recordings.tsv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def table(file: Path, rows: int = 60) -> Path:
    """Prices that follow from size and colour, with a gap here and there."""
    lines = ["size,colour,price"]
    for k in range(rows):
        size = "" if k == 7 else str(k % 10)
        colour = ("red", "green", "blue")[k % 3]
        lines.append(f"{size},{colour},{3 * (k % 10) + 5 * (k % 3)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def sentences(root: Path, rows: int = 40) -> Path:
    """Texts with a label, one TSV for each split, without a line of names."""
    root.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", rows), ("dev", 8), ("test", 8)):
        words = (("good", "fine", "lovely"), ("bad", "poor", "awful"))
        lines = [f"a {words[k % 2][k % 3]} film number {k}\t{1 - k % 2}" for k in range(number)]
        (root / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return root


@dataclass(frozen=True, kw_only=True, slots=True)
class InMemory:
    """Records that a program made."""

    rows: tuple[Record, ...]

    def state(self) -> str:
        """The records themselves."""
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()

    def read(self) -> Records:
        """The records, numbered."""
        return Records(rows=[{NAME: f"record {number}", **row} for number, row in enumerate(self.rows)])

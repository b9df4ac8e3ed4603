"""Recordings as log-mel features or as waveforms, with a class or the numbers of a transcript's characters."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from orchestrator.data import text
from orchestrator.data.arrays import Array
from orchestrator.data.labels import as_field, class_number, classes_of
from orchestrator.data.preparation import Facts, Fields, Items, Preparation, need
from orchestrator.data.records import Record, Unreadable
from orchestrator.errors import ConfigError

FLOOR = 1e-6
"""Power below this is silence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recordings(Preparation):
    """Base of what is made of recordings. Records have `file` (or `audio` with its `bytes`), and `label` or `text`."""

    ragged: ClassVar[frozenset[str]] = frozenset({"features", "transcript"})
    rate: int = 16_000
    """Samples per second; recordings with others are resampled."""
    longest_s: float | None = None
    """Longer recordings are unreadable; null: any length."""
    target: Literal["label", "text"] = "label"
    """A class, or a transcript."""
    label_column: str = "label"
    text_column: str = "text"

    def learn(self, rows: Sequence[Record]) -> Facts:
        """Classes, or the characters of the transcripts."""
        if self.target == "label":
            return {"classes": classes_of(rows, self.label_column)}
        texts = [str(row[self.text_column]) for row in rows if row.get(self.text_column)]
        if not texts:
            raise ConfigError(f"No record has a transcript in the column {self.text_column!r}.")
        return {"vocabulary": text.learn_vocabulary(texts, "characters", 0)}

    def preparer(self, facts: Facts) -> Callable[[Record], Fields]:
        """Read, resample, and make features."""
        target = self._target(facts)

        def prepare(record: Record) -> Fields:
            fields = target(record)
            wave, rate = read_wave(record)
            if self.longest_s is not None and len(wave) > self.longest_s * rate:
                raise Unreadable(f"{len(wave) / rate:.1f} s are longer than data.longest_s={self.longest_s:g}")
            return {"features": self.features(resample(wave, rate, self.rate)).numpy(), **fields}

        return prepare

    def features(self, wave: Tensor) -> Tensor:
        """What becomes of the sound; its first dimension is time."""
        raise NotImplementedError

    def _target(self, facts: Facts) -> Callable[[Record], Fields]:
        if self.target == "label":
            number_of = class_number(facts["classes"], self.label_column)
            return lambda record: {"label": as_field(number_of(record))}
        encode = text.encoder("characters", facts["vocabulary"])

        def transcript(record: Record) -> Fields:
            words = str(record.get(self.text_column) or "")
            if not words.strip():
                raise Unreadable("it has no transcript")
            numbers = encode(words)
            if (numbers == text.UNKNOWN).any():
                strange = sorted(set(words) - set(facts["vocabulary"]["characters"]))
                raise Unreadable(f"its transcript has characters that the training split has not: {''.join(strange)}")
            return {"transcript": numbers}

        return transcript

    def reader(self, facts: Facts) -> Callable[[Fields], tuple[Tensor, Any]]:
        """The features, standardised; and the class, or the numbers of the transcript's characters."""
        standardised = self.standardiser(facts)

        def read(fields: Fields) -> tuple[Tensor, Any]:
            features = torch.from_numpy(standardised(fields["features"]))
            if self.target == "label":
                return features, int(fields["label"])
            return features, torch.from_numpy(fields["transcript"].astype(np.int64))

        return read

    def standardiser(self, facts: Facts) -> Callable[[Array], Array]:
        """A function from prepared features to those that a model gets."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class LogMel(Recordings):
    """Frames x mel bands: the logarithm of the power in each."""

    bands: int = 64
    window_ms: float = 25.0
    hop_ms: float = 10.0

    def features(self, wave: Tensor) -> Tensor:
        """Frames x bands."""
        return log_mel(wave, self.rate, self.bands, self.window_ms, self.hop_ms)

    def measure(self, items: Items) -> Facts:
        """Mean and standard deviation of each band."""
        features = items.whole("features")
        return {
            "mean": features.mean(axis=0, dtype=np.float64).tolist(),
            "deviation": np.maximum(features.std(axis=0, dtype=np.float64), 1e-3).tolist(),
        }

    def standardiser(self, facts: Facts) -> Callable[[Array], Array]:
        """By what was measured of all training recordings."""
        mean = np.array(facts["mean"], dtype=np.float32)
        scale = 1 / np.array(facts["deviation"], dtype=np.float32)
        return lambda features: (features - mean) * scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Waveform(Recordings):
    """The samples themselves, for models that find their own features."""

    def features(self, wave: Tensor) -> Tensor:
        """Samples."""
        return wave.contiguous()

    def standardiser(self, facts: Facts) -> Callable[[Array], Array]:
        """Each recording by its own mean and loudness, as Wav2Vec2 has it."""
        return lambda wave: (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)


def read_wave(record: Record) -> tuple[Tensor, int]:
    """One channel of samples in [-1, 1], and their rate; a file that ends early is unreadable."""
    soundfile = need("soundfile", "audio")
    content = _content(record)
    _refuse_truncated(content)
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise Unreadable(f"not a recording that can be read: {error}") from error
    if not len(samples):
        raise Unreadable("the recording is empty")
    if not np.isfinite(samples).all():
        raise Unreadable("the recording has samples that are not numbers")
    return torch.from_numpy(samples.mean(axis=1)), int(rate)


def _content(record: Record) -> bytes:
    if "file" in record:
        return Path(record["file"]).read_bytes()
    kept = record.get("audio")
    if isinstance(kept, dict) and kept.get("bytes"):
        return bytes(kept["bytes"])
    if isinstance(kept, dict) and kept.get("path"):
        return Path(kept["path"]).read_bytes()
    raise Unreadable("the record has no recording: neither `file` nor `audio` with its bytes")


def _refuse_truncated(content: bytes) -> None:
    """The library takes half a WAV file for a short one."""
    if not (content.startswith(b"RIFF") and content[8:12] == b"WAVE"):
        return
    at = 12
    while at + 8 <= len(content):
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        # Recorders that cannot go back in their output leave the greatest number there is.
        if kind == b"data" and size != 0xFFFFFFFF and at + 8 + size > len(content):
            raise Unreadable(f"the file ends after {len(content) - at - 8} of {size} bytes of sound")
        if kind == b"data":
            return
        at += 8 + size + size % 2
    raise Unreadable("a WAV file without sound in it")


def resample(wave: Tensor, rate: int, wanted: int) -> Tensor:
    """The same sound at another rate: each new sample is a windowed sinc over the old ones around it."""
    if rate == wanted:
        return wave
    divisor = math.gcd(rate, wanted)
    old, new = rate // divisor, wanted // divisor
    kernels, width = _sinc(old, new)
    padded = torch.nn.functional.pad(wave[None, None], (width, width + old))
    phases = torch.nn.functional.conv1d(padded, kernels, stride=old)[0]
    return phases.T.reshape(-1)[: math.ceil(new * len(wave) / old)]


@lru_cache(maxsize=8)
def _sinc(old: int, new: int, zeros: int = 16, rolloff: float = 0.95) -> tuple[Tensor, int]:
    """One filter for each place that a new sample can have between old ones, and how far the filters reach."""
    cutoff = min(old, new) * rolloff
    width = math.ceil(zeros * old / cutoff)
    places = torch.arange(-width, width + old, dtype=torch.float64)[None] / old
    shifts = torch.arange(0, -new, -1, dtype=torch.float64)[:, None] / new
    times = ((places + shifts) * cutoff).clamp(-zeros, zeros)
    window = torch.cos(times * math.pi / zeros / 2).square()
    return (torch.sinc(times) * window * cutoff / old).float()[:, None], width


def log_mel(wave: Tensor, rate: int, bands: int, window_ms: float, hop_ms: float) -> Tensor:
    """Frames x bands: the logarithm of the power in each band."""
    length, hop = round(rate * window_ms / 1000), round(rate * hop_ms / 1000)
    size = 2 ** math.ceil(math.log2(length))
    # A recording shorter than a window is one frame with silence around it.
    wave = torch.nn.functional.pad(wave, (0, max(0, size // 2 + 1 - len(wave))))
    window = torch.hann_window(length)
    spectrum = torch.stft(wave, size, hop, length, window, center=True, pad_mode="reflect", return_complex=True)
    power = spectrum.abs().square().T
    return (power @ _mel(rate, size, bands) + FLOOR).log()


@lru_cache(maxsize=8)
def _mel(rate: int, size: int, bands: int) -> Tensor:
    """Frequencies x bands: triangles that are evenly spread on the mel scale."""
    highest = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, highest, bands + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()

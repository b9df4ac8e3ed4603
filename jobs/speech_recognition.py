"""Speech: one class for each recording (keywords), or a transcript by CTC on characters.

Train it:  orchestrator train job=keywords data.path=spoken_digits "data.test_names='*_[0-4].wav'"
           orchestrator train job=speech data.path=recordings.tsv model.tokens=30
           orchestrator train job=speech data.path=recordings.tsv model=conformer model.tokens=30
           orchestrator train job=speech data.path=recordings.tsv model=wav2vec2 model.tokens=30 data.features=waveform
           orchestrator train job=speech job.task=orchestrator.jobs.speech_recognition:BeamSearch data.path=...
           orchestrator train job=digit_strings data.path=spoken_digits "data.test_names='*_[0-4].wav'"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss
from torch.nn.utils.rnn import pad_sequence

from orchestrator import Task
from orchestrator.data import text
from orchestrator.data.audio import LogMel, Recordings, Waveform
from orchestrator.data.prepared import Prepared, PreparedDataset
from orchestrator.data.readers import files
from orchestrator.data.records import Splits
from orchestrator.errors import ConfigError
from orchestrator.jobs.image_classification import class_loss
from orchestrator.runtime.worker.evaluation.answers import of_batch

BLANK = text.UNKNOWN
"""The token for "nothing new"; transcripts have no unknown characters."""
Features = Literal["log_mel", "waveform"]
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Keywords(Task):
    """One class per recording; batches are (features, lengths, labels)."""

    def collate(self, items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Recordings filled up to the longest of the batch."""
        features, lengths = padded([item[0] for item in items])
        return features, lengths, torch.tensor([item[1] for item in items])

    def inputs(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Features and lengths."""
        return batch[:2]

    def count(self, batch: tuple[Tensor, ...]) -> int:
        """Recordings."""
        return len(batch[1])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Summed cross entropy."""
        return class_loss(model(*self.inputs(batch)), batch[2])

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Summed loss and number of recordings classified rightly."""
        logits = model(*self.inputs(batch))
        return {"loss": class_loss(logits, batch[2]), "accuracy": (logits.argmax(dim=1) == batch[2]).sum()}

    def show(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Each recording's class, and what the model takes it for."""
        return of_batch(batch[2], model(*self.inputs(batch)))


class SpeechRecognition(Task):
    """A transcript per recording; batches are (features, lengths, transcripts, transcript lengths)."""

    _decode: Any = None

    def dataset(self, split: str) -> Any:
        """The recordings of a split."""
        dataset: Any = super().dataset(split)
        if dataset is not None:
            self._decode = text.decoder("characters", dataset.facts["vocabulary"])
        return dataset

    def collate(self, items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Recordings and transcripts filled up to the longest of the batch."""
        return (*padded([item[0] for item in items]), *padded([item[1] for item in items], text.PADDING))

    def inputs(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Features and lengths."""
        return batch[:2]

    def count(self, batch: tuple[Tensor, ...]) -> int:
        """Characters."""
        return int(batch[3].sum())

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """CTC, summed over the batch."""
        return self._loss(model, model(*self.inputs(batch)), batch)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Mapping[str, Tensor | float]:
        """Summed loss; words, and how many changes make the words that were heard into those that were said."""
        logits = model(*self.inputs(batch))
        said, heard = self._texts(model, logits, batch)
        errors = sum(distance(a.split(), b.split()) for a, b in zip(heard, said, strict=True))
        loss = self._loss(model, logits, batch)
        return {"loss": loss, "word_errors": errors, "words": sum(len(b.split()) for b in said)}

    def show(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Mapping[str, list[str]]:
        """What was said, and what the model heard."""
        said, heard = self._texts(model, model(*self.inputs(batch)), batch)
        return {"truth": said, "answer": heard}

    def _texts(
        self, model: Any, logits: Tensor, batch: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[list[str], list[str]]:
        heard = [self._decode(tokens) for tokens in self.tokens(logits, model.frames(batch[1]))]
        said = [self._decode(row[:length].tolist()) for row, length in zip(batch[2], batch[3].tolist(), strict=True)]
        return said, heard

    def tokens(self, logits: Tensor, lengths: Tensor) -> list[list[int]]:
        """What was heard in each recording."""
        return greedy(logits, lengths)

    def summary(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Loss per character, and the word error rate."""
        return {"loss": sums["loss"] / count, "word_error_rate": sums["word_errors"] / max(1.0, sums["words"])}

    def _loss(self, model: Any, logits: Tensor, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        _, lengths, transcripts, transcript_lengths = batch
        log_probabilities = logits.float().log_softmax(dim=-1).transpose(0, 1)
        return ctc_loss(
            log_probabilities,
            transcripts,
            model.frames(lengths),
            transcript_lengths,
            blank=BLANK,
            reduction="sum",
            zero_infinity=True,
        )


class BeamSearch(SpeechRecognition):
    """The same, heard by beam search: often a little better than greedily, and much slower."""

    def tokens(self, logits: Tensor, lengths: Tensor) -> list[list[int]]:
        """What was heard in each recording."""
        rows = logits.float().log_softmax(dim=-1).cpu()
        return [beam(row[:length]) for row, length in zip(rows, lengths.tolist(), strict=True)]


def padded(parts: Sequence[Tensor], value: float = 0) -> tuple[Tensor, Tensor]:
    """Parts of different lengths as one tensor, and their lengths."""
    return pad_sequence(list(parts), batch_first=True, padding_value=value), torch.tensor([len(p) for p in parts])


def greedy(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """The likeliest token of each frame, without repeats and blanks."""
    heard = []
    for row, length in zip(logits.argmax(dim=-1).cpu(), lengths.tolist(), strict=True):
        tokens = torch.unique_consecutive(row[:length]).tolist()
        heard.append([token for token in tokens if token != BLANK])
    return heard


def beam(log_probabilities: Tensor, width: int = 8) -> list[int]:
    """The likeliest tokens over all ways to spread them over the frames of one recording."""
    never = -float("inf")
    # For each beginning: the logarithm of the probability that its last frame was blank, and that it was not.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, never)}
    for frame in log_probabilities.tolist():
        grown: dict[tuple[int, ...], tuple[float, float]] = {}
        likely = sorted(range(len(frame)), key=frame.__getitem__)[-width:]
        for tokens, (blank, full) in beams.items():
            either = float(np.logaddexp(blank, full))
            for token in likely:
                chance = frame[token]
                if token == BLANK:
                    _add(grown, tokens, either + chance, never)
                elif tokens and tokens[-1] == token:
                    _add(grown, tokens, never, full + chance)
                    _add(grown, (*tokens, token), never, blank + chance)
                else:
                    _add(grown, (*tokens, token), never, either + chance)
        best = sorted(grown.items(), key=lambda entry: float(np.logaddexp(*entry[1])))[-width:]
        beams = dict(best)
    return list(max(beams, key=lambda tokens: float(np.logaddexp(*beams[tokens]))))


def _add(beams: dict[tuple[int, ...], tuple[float, float]], tokens: tuple[int, ...], blank: float, full: float) -> None:
    before = beams.get(tokens, (-float("inf"), -float("inf")))
    beams[tokens] = float(np.logaddexp(before[0], blank)), float(np.logaddexp(before[1], full))


def distance(heard: Sequence[str], said: Sequence[str]) -> int:
    """Words to change, add or leave out."""
    row = list(range(len(said) + 1))
    for number, word in enumerate(heard, 1):
        corner, row[0] = row[0], number
        for place, other in enumerate(said, 1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (word != other))
    return row[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """What training may do to features: hide some time and, unless they are waveforms, some bands (SpecAugment)."""

    frames: int = 0
    bands: int = 0

    def __call__(self, item: tuple[Tensor, Any], chance: np.random.Generator) -> tuple[Tensor, Any]:
        """The features changed, and what goes with them."""
        features = item[0].clone()
        for dimension, (longest, size) in enumerate(zip((self.frames, self.bands), features.shape, strict=False)):
            length = min(int(chance.integers(0, longest + 1)), size)
            start = int(chance.integers(0, size - length + 1))
            features.narrow(dimension, start, length).zero_()
        return features, item[1]


def recordings(
    split: str,
    path: str,
    target: Literal["label", "text"] = "label",
    features: Features = "log_mel",
    rate: int = 16_000,
    bands: int = 40,
    longest_s: float | None = 20.0,
    hide_frames: int = 0,
    hide_bands: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    val_names: str | None = None,
    test_names: str | None = None,
    seed: int = 0,
    skip_unreadable: int = 0,
    cache: str | None = None,
) -> PreparedDataset | None:
    """Recordings in class folders, or listed in a manifest (file, and label or text), as features of some kind.

    `hide_frames`: of 10 ms each, `hide_bands`: so much of them may be hidden when training.
    """
    splits = Splits(
        sources=files.by_split(path, files.AUDIO),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        val_names=val_names,
        test_names=test_names,
        seed=seed,
    )
    preparation: Recordings = LogMel(rate=rate, bands=bands, longest_s=longest_s, target=target)
    if features == "waveform":
        preparation = Waveform(rate=rate, longest_s=longest_s, target=target)
        hide_frames *= rate // 100
    prepared = Prepared(
        splits=splits,
        preparation=preparation,
        augment=Hidden(frames=hide_frames, bands=hide_bands),
        cache=cache,
        skip_unreadable=skip_unreadable,
    )
    return prepared.dataset(split)


class DigitStrings(PreparedDataset):
    """Strings of spoken digits made of recordings of one digit each, with their transcripts in words."""

    def __init__(self, clips: PreparedDataset, size: int, shortest: int, longest: int, seed: int) -> None:
        names = clips.facts["classes"]
        if not set(names) <= set(map(str, range(10))):
            raise ConfigError(f"The classes are not digits: {', '.join(names[:12])}.", "Use job=keywords for them.")
        vocabulary = text.learn_vocabulary([" ".join(WORDS)], "characters", 0)
        self.facts = {**clips.facts, "vocabulary": vocabulary}
        self.problems = clips.problems
        self.augment = clips.augment
        self._arguments = (clips, size, shortest, longest, seed)
        self._clips = clips
        self._digits = [int(names[int(label)]) for label in clips.items.whole("label")]
        self._encode = text.encoder("characters", vocabulary)

    def __len__(self) -> int:
        return self._arguments[1]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        _, size, shortest, longest, seed = self._arguments
        if not 0 <= index < size:
            raise IndexError(index)
        chance = np.random.Generator(np.random.Philox(key=(seed, index)))
        chosen = chance.integers(0, len(self._clips), size=int(chance.integers(shortest, longest + 1))).tolist()
        features = torch.cat([self._clips[clip][0] for clip in chosen])
        words = " ".join(WORDS[self._digits[clip]] for clip in chosen)
        return features, torch.from_numpy(self._encode(words).astype(np.int64))

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """That of the recordings, with the vocabulary of the words."""
        own = self._clips.preprocessing
        return {**own, "parameters": {**own["parameters"], "target": "text"}, "facts": self.facts}

    def __reduce__(self) -> tuple[Any, ...]:
        return DigitStrings, self._arguments


def digit_strings(
    split: str,
    path: str,
    strings: int = 6000,
    held_out_strings: int = 600,
    shortest: int = 3,
    longest: int = 5,
    features: Features = "log_mel",
    rate: int = 8000,
    bands: int = 40,
    hide_frames: int = 12,
    hide_bands: int = 8,
    val_fraction: float = 0.1,
    val_names: str | None = None,
    test_names: str | None = None,
    seed: int = 0,
    skip_unreadable: int = 0,
    cache: str | None = None,
) -> DigitStrings | None:
    """Strings of digits, each split's from its own recordings; these lie in folders named 0 to 9."""
    clips = recordings(
        split,
        path,
        features=features,
        rate=rate,
        bands=bands,
        hide_frames=hide_frames,
        hide_bands=hide_bands,
        val_fraction=val_fraction,
        test_fraction=0.0,
        val_names=val_names,
        test_names=test_names,
        seed=seed,
        skip_unreadable=skip_unreadable,
        cache=cache,
    )
    size = strings if split == "train" else held_out_strings
    return DigitStrings(clips, size, shortest, longest, seed) if clips else None

"""Texts as token numbers: bytes, or a vocabulary of characters, words or byte pairs of the training split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.arrays import Array
from orchestrator.data.labels import as_field, class_number, classes_of
from orchestrator.data.preparation import Facts, Fields, Items, Preparation, need
from orchestrator.data.records import Record, Unreadable
from orchestrator.errors import ConfigError

Kind = Literal["bytes", "characters", "words", "bpe"]
UNKNOWN = 0
"""Number of what is not in the vocabulary; the first numbers after it are those of SPECIAL."""
PADDING = 1
END = 2
SPECIAL = ("<unknown>", "<padding>", "<end>")
WORD = re.compile(r"\w+|[^\w\s]")
"""A word, or a mark that is none."""


def learn_vocabulary(texts: Sequence[str], kind: Kind, size: int) -> Facts:
    """What encoding needs to know. `size`: of a vocabulary of words or byte pairs, the special numbers included."""
    if kind == "bytes":
        return {"size": len(SPECIAL) + 256}
    if kind == "characters":
        characters = sorted(set().union(*map(set, texts)) if texts else set())
        return {"characters": "".join(characters), "size": len(SPECIAL) + len(characters)}
    if kind == "words":
        counts = Counter(word for text in texts for word in WORD.findall(text))
        words = sorted(counts, key=lambda word: (-counts[word], word))[: size - len(SPECIAL)]
        return {"words": words, "size": len(SPECIAL) + len(words)}
    return _learn_byte_pairs(texts, size)


def _learn_byte_pairs(texts: Sequence[str], size: int) -> Facts:
    tokenizers = need("tokenizers", "text")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if size < len(SPECIAL) + len(alphabet):
        raise ConfigError(
            f"data.vocabulary={size} is too small: byte pairs begin with {len(SPECIAL) + len(alphabet)} tokens.",
            "Choose more, or data.tokens=characters.",
        )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return {"tokenizer": tokenizer.to_str(), "size": tokenizer.get_vocab_size()}


def encoder(kind: Kind, known: Facts) -> Callable[[str], Array]:
    """A function from a text to its token numbers."""
    if kind == "bytes":
        return lambda text: np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) + len(SPECIAL)
    if kind == "characters":
        numbers = {character: number for number, character in enumerate(known["characters"], len(SPECIAL))}
        return lambda text: np.array([numbers.get(character, UNKNOWN) for character in text], dtype=np.int32)
    if kind == "words":
        places = {word: number for number, word in enumerate(known["words"], len(SPECIAL))}
        return lambda text: np.array([places.get(word, UNKNOWN) for word in WORD.findall(text)], dtype=np.int32)
    tokenizer = need("tokenizers", "text").Tokenizer.from_str(known["tokenizer"])
    return lambda text: np.array(tokenizer.encode(text).ids, dtype=np.int32)


def decoder(kind: Kind, known: Facts) -> Callable[[Sequence[int]], str]:
    """The way back: a function from token numbers to a text; special numbers are left out."""
    if kind == "bytes":
        return lambda numbers: bytes(n - len(SPECIAL) for n in numbers if n >= len(SPECIAL)).decode(errors="replace")
    if kind == "characters":
        letters = known["characters"]
        return lambda numbers: "".join(letters[n - len(SPECIAL)] for n in numbers if n >= len(SPECIAL))
    if kind == "words":
        words = known["words"]
        return lambda numbers: " ".join(words[n - len(SPECIAL)] for n in numbers if n >= len(SPECIAL))
    tokenizer = need("tokenizers", "text").Tokenizer.from_str(known["tokenizer"])

    def decode(numbers: Sequence[int]) -> str:
        text: str = tokenizer.decode([n for n in numbers if n >= len(SPECIAL)])
        return text

    return decode


def _texts(rows: Sequence[Record], column: str) -> list[str]:
    return [str(row[column]) for row in rows if row.get(column)]


def _text(record: Record, column: str) -> str:
    text = str(record.get(column) or "").strip()
    if not text:
        raise Unreadable(f"it has no {column}")
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens(Preparation):
    """Texts with a class each. Records have a text and a label."""

    ragged: ClassVar[frozenset[str]] = frozenset({"tokens"})
    tokens: Kind = "bpe"
    vocabulary: int = 4096
    """Tokens of a vocabulary of words or byte pairs."""
    longest: int = 128
    """Tokens of a text beyond this are cut off."""
    text_column: str = "text"
    label_column: str = "label"

    def learn(self, rows: Sequence[Record]) -> Facts:
        """Classes and vocabulary."""
        _require_column(rows, self.text_column, "text")
        _require_column(rows, self.label_column, "label")
        texts = _texts(rows, self.text_column)
        return {
            "classes": classes_of(rows, self.label_column),
            "vocabulary": learn_vocabulary(texts, self.tokens, self.vocabulary),
        }

    def preparer(self, facts: Facts) -> Callable[[Record], Fields]:
        """Encode."""
        encode = encoder(self.tokens, facts["vocabulary"])
        number_of = class_number(facts["classes"], self.label_column)

        def prepare(record: Record) -> Fields:
            text = _text(record, self.text_column)
            return {"tokens": encode(text)[: self.longest], "label": as_field(number_of(record))}

        return prepare

    def reader(self, facts: Facts) -> Callable[[Fields], tuple[Tensor, int]]:
        """Token numbers, as many as there are, and the class."""
        return lambda fields: (torch.from_numpy(fields["tokens"].astype(np.int64)), int(fields["label"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed(Preparation):
    """Texts one after the other, cut into rows of equal length for a language model. Records have a text."""

    ragged: ClassVar[frozenset[str]] = frozenset({"tokens"})
    context: int
    """Tokens that the model sees; a row has one more, which begins the next."""
    tokens: Kind = "bpe"
    vocabulary: int = 4096
    """Tokens of a vocabulary of words or byte pairs."""
    separate: bool = False
    """Put an end token after each record: documents, as opposed to the lines of one."""
    text_column: str = "text"

    def learn(self, rows: Sequence[Record]) -> Facts:
        """The vocabulary."""
        _require_column(rows, self.text_column, "text")
        return {"vocabulary": learn_vocabulary(_texts(rows, self.text_column), self.tokens, self.vocabulary)}

    def preparer(self, facts: Facts) -> Callable[[Record], Fields]:
        """Encode."""
        encode = encoder(self.tokens, facts["vocabulary"])
        end = np.array([END] if self.separate else [], dtype=np.int32)

        def prepare(record: Record) -> Fields:
            return {"tokens": np.concatenate([encode(str(record.get(self.text_column) or "")), end])}

        return prepare

    def reader(self, facts: Facts) -> Callable[[Fields], Tensor]:
        """A row of token numbers."""
        return lambda fields: torch.from_numpy(fields["tokens"].astype(np.int64))

    def count(self, items: Items) -> int:
        """Whole rows."""
        return max(0, (len(items.whole("tokens")) - 1) // self.context)

    def fetch(self, items: Items, index: int) -> Fields:
        """A row, across the borders of records."""
        if index >= self.count(items):
            raise IndexError(index)
        start = index * self.context
        return {"tokens": items.whole("tokens")[start : start + self.context + 1]}


def _require_column(rows: Sequence[Record], column: str, what: str) -> None:
    if rows and column not in rows[0]:
        has: Any = ", ".join(key for key in rows[0] if not key.startswith("@"))
        raise ConfigError(f"The data has no column {column!r} for the {what}; it has: {has}.")

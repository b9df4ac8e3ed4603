"""Text classification: one class for each text, by a bag of tokens or a BERT with weights of its own.

Train it:  orchestrator train job=sentences data.path=sst2 'data.columns=[text,label]'
           orchestrator train job=sentences data.path=reviews.jsonl model=bert model.classes=5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from orchestrator import Measured, Task
from orchestrator.data import text
from orchestrator.data.preparation import need
from orchestrator.data.prepared import Prepared, PreparedDataset
from orchestrator.data.readers import tables
from orchestrator.data.records import Splits
from orchestrator.jobs.image_classification import class_loss
from orchestrator.runtime.worker.evaluation.answers import of_batch

Batch = tuple[Tensor, Tensor, Tensor]


class TextClassification(Task):
    """One class per text; batches are (tokens, mask, labels)."""

    def collate(self, items: Sequence[tuple[Tensor, int]]) -> Batch:
        """Texts filled up to the longest of the batch."""
        tokens = pad_sequence([item[0] for item in items], batch_first=True, padding_value=text.PADDING)
        return tokens, tokens != text.PADDING, torch.tensor([item[1] for item in items])

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens, and which of them are no padding."""
        return batch[:2]

    def count(self, batch: Batch) -> int:
        """Texts."""
        return len(batch[2])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed cross entropy."""
        return class_loss(model(*self.inputs(batch)), batch[2])

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | Measured]:
        """Summed loss and number of texts classified rightly; and the mean of all classes' F1, which is no sum."""
        logits = model(*self.inputs(batch))
        return {
            "loss": class_loss(logits, batch[2]),
            "accuracy": (logits.argmax(dim=1) == batch[2]).sum(),
            "macro_f1": macro_f1(logits, batch[2]),
        }

    def show(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Each text's class, and what the model takes it for."""
        return of_batch(batch[2], model(*self.inputs(batch)))


def macro_f1(logits: Tensor, labels: Tensor) -> Measured:
    """F1 of each class, and their mean: unlike accuracy, it says when a rare class is never found."""
    make = need("torchmetrics.classification", "jobs").MulticlassF1Score
    return Measured(partial(make, num_classes=logits.shape[1], average="macro"), logits, labels)


class BagOfTokens(nn.Module):
    """A light baseline: the sum of the tokens' embeddings decides; in training, without some of them."""

    def __init__(
        self,
        vocabulary: int = 14_000,
        classes: int = 2,
        width: int = 32,
        withheld: float = 0.4,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.withheld = withheld
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits, one per class."""
        if self.training:
            mask = mask & (torch.rand(mask.shape, device=mask.device) >= self.withheld)
        embedded = self.tokens(tokens)
        weights = mask.unsqueeze(-1).to(embedded.dtype)
        return self.head(self.dropout((embedded * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1).sqrt()))


class Bert(nn.Module):
    """A BERT with weights of its own, from transformers' config, that gives its logits alone."""

    def __init__(
        self,
        vocabulary: int = 14_000,
        classes: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        longest: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config: Any = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=longest,
            pad_token_id=text.PADDING,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=classes,
            attn_implementation="sdpa",
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits, one per class."""
        return self.bert(input_ids=tokens, attention_mask=mask.long()).logits


def sentences(
    split: str,
    path: str,
    columns: list[str] | None = None,
    text_column: str = "text",
    label_column: str = "label",
    tokens: text.Kind = "words",
    vocabulary: int = 14_000,
    longest: int = 128,
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    seed: int = 0,
    encoding: str | None = None,
    skip_unreadable: int = 0,
    cache: str | None = None,
) -> PreparedDataset | None:
    """Texts and labels of a table, of a folder with one for each split, or of a local Hugging Face dataset."""
    splits = Splits(
        sources=tables.by_split(path, columns, encoding),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    preparation = text.Tokens(
        tokens=tokens,
        vocabulary=vocabulary,
        longest=longest,
        text_column=text_column,
        label_column=label_column,
    )
    prepared = Prepared(splits=splits, preparation=preparation, cache=cache, skip_unreadable=skip_unreadable)
    return prepared.dataset(split)

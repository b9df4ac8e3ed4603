"""Causal language modelling: a small GPT that predicts the next byte of a text, or the next token of many.

Train it:  orchestrator train job=causal_lm cluster.workers=2 strategy=zero1
           orchestrator train job=causal_lm mesh.tensor=2 cluster.workers=2
           orchestrator train job=causal_lm model=transformer model.vocabulary=256 mesh.tensor=2 cluster.workers=2
           orchestrator train job=causal_lm data.path=shakespeare.txt
           orchestrator train job=language data.path=shakespeare.txt data.tokens=characters model.vocabulary=68
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from orchestrator import Task
from orchestrator.data.prepared import Prepared, PreparedDataset
from orchestrator.data.readers import tables
from orchestrator.data.records import Source, Splits
from orchestrator.data.text import Kind, Packed, decoder

LONGEST_SHOWN = 48
"""Tokens that a sample goes on for: each takes a pass through the model."""


class CausalLm(Task):
    """The next token at every place; a batch is rows of tokens, one longer than what the model sees."""

    shown = 8
    _decode: Callable[[Sequence[int]], str] = staticmethod(lambda tokens: bytes(tokens).decode(errors="replace"))

    def dataset(self, split: str) -> Any:
        """The rows of a split."""
        dataset = super().dataset(split)
        if isinstance(dataset, PreparedDataset):
            kind = dataset.preprocessing["parameters"]["tokens"]
            self._decode = decoder(kind, dataset.facts["vocabulary"])
        return dataset

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        """Rows of equal length."""
        return torch.stack(list(items))

    def inputs(self, batch: Tensor) -> Tensor:
        """All tokens but the last, which nothing is predicted from."""
        return batch[:, :-1]

    def count(self, batch: Tensor) -> int:
        """Predicted tokens."""
        return batch[:, 1:].numel()

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Cross entropy, summed over tokens."""
        logits = model(self.inputs(batch))
        return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")

    def show(self, model: nn.Module, batch: Tensor) -> Mapping[str, list[str]]:
        """How a row's first half goes on, and how the model would likeliest have it go on."""
        given = batch.shape[1] // 2
        told = batch[:, :given]
        for _ in range(min(LONGEST_SHOWN, batch.shape[1] - given)):
            told = torch.cat([told, model(told)[:, -1:].argmax(dim=-1)], dim=1)
        shown = {"given": batch[:, :given], "truth": batch[:, given : told.shape[1]], "answer": told[:, given:]}
        return {name: [self._decode(row) for row in rows.tolist()] for name, rows in shown.items()}

    def summary(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Loss per token, and the number of tokens that would be as hard to choose from."""
        loss = sums["loss"] / count
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


class Attention(nn.Module):
    """Causal self-attention, with as many heads as the projections are wide for: a worker may hold a part of them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """What each place takes from those before it."""
        query, key, value = (self._heads(layer(hidden)) for layer in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        if projected.shape[-1] % self.head_size:
            raise ValueError("mesh.tensor does not divide model.heads, so that a head would be cut in two")
        return projected.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


class Block(nn.Module):
    """Attention, then two layers at each place, each added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        # Only where all workers of a tensor-parallel group hold the same numbers: there they also drop the same.
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states of the same shape."""
        hidden = hidden + self.dropout(self.attention(self.norm1(hidden)))
        return hidden + self.dropout(self.down(gelu(self.up(self.norm2(hidden)))))


class Gpt(nn.Module):
    """A decoder-only transformer with learned positions."""

    _tp_plan = {
        "blocks.*.attention.query": "colwise",
        "blocks.*.attention.key": "colwise",
        "blocks.*.attention.value": "colwise",
        "blocks.*.attention.output": "rowwise",
        "blocks.*.up": "colwise",
        "blocks.*.down": "rowwise",
        "head": "colwise_gather_output",
    }
    """How mesh.tensor cuts the layers: by outputs (colwise), or by inputs, whose parts are summed (rowwise).

    The name and the words are those of Hugging Face transformers, whose models bring theirs along.
    """

    def __init__(
        self,
        vocabulary: int = 256,
        context: int = 64,
        width: int = 64,
        blocks: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"model.width={width} must be a multiple of model.heads={heads}")
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(_initialise)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each."""
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"{length} tokens are more than the model sees: model.context={self.context}")
        hidden = self.dropout(self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class Transformer(nn.Module):
    """GPT-2 or Llama with weights of its own, from transformers' config; or a pretrained model in a local folder."""

    def __init__(
        self,
        kind: Literal["gpt2", "llama"] = "llama",
        folder: str | None = None,
        vocabulary: int = 4096,
        context: int = 128,
        width: int = 128,
        blocks: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if folder is not None:
            from transformers import AutoModelForCausalLM

            self.model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        elif kind == "gpt2":
            self.model = _gpt2(vocabulary, context, width, blocks, heads, dropout)
        else:
            self.model = _llama(vocabulary, context, width, blocks, heads, dropout)
        # How mesh.tensor cuts it, where the model says so (Llama does, GPT-2 does not).
        self.config, self._tp_plan = self.model.config, getattr(type(self.model), "_tp_plan", None)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each."""
        return self.model(input_ids=tokens, use_cache=False).logits


def _gpt2(vocabulary: int, context: int, width: int, blocks: int, heads: int, dropout: float) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config: Any = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=blocks,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config)


def _llama(vocabulary: int, context: int, width: int, blocks: int, heads: int, dropout: float) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config: Any = LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=context,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        attention_dropout=dropout,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Rows:
    """A text's bytes in rows of `context` + 1; each begins with the byte that ends the one before."""

    def __init__(self, tokens: Tensor, context: int) -> None:
        self._tokens = tokens
        self._context = context

    def __len__(self) -> int:
        return max(0, (len(self._tokens) - 1) // self._context)

    def __getitem__(self, index: int) -> Tensor:
        start = index * self._context
        return self._tokens[start : start + self._context + 1].long()


def text(
    split: str,
    path: str | None = None,
    context: int = 64,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> Rows:
    """A file's bytes, or about 100 kB of made-up sentences: the beginning to train on, then val, the end for test."""
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise ValueError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} must be 0 or more, "
            "and leave something to train on"
        )
    content = Path(path).expanduser().read_bytes() if path else made_up_text(seed).encode()
    tokens = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    train = round(len(tokens) * (1 - val_fraction - test_fraction))
    val = train + round(len(tokens) * val_fraction)
    return Rows({"train": tokens[:train], "val": tokens[train:val], "test": tokens[val:]}[split], context)


def packed(
    split: str,
    path: str,
    context: int = 128,
    tokens: Kind = "bpe",
    vocabulary: int = 4096,
    text_column: str = "text",
    val_fraction: float = 0.1,
    test_fraction: float = 0.0,
    encoding: str | None = None,
    skip_unreadable: int = 0,
    cache: str | None = None,
) -> PreparedDataset | None:
    """Texts in rows of `context` + 1 tokens: a text file, or a table or Hugging Face dataset of documents.

    Of a text file the beginning is for training, then comes test, and the end is val.
    """
    file = Path(path).expanduser()
    lines = file.is_file() and file.suffix.lower() not in tables.READERS
    sources: dict[str, Source] = (
        {"train": tables.Lines(paths=(str(file),), encoding=encoding)}
        if lines
        else tables.by_split(path, encoding=encoding)
    )
    prepared = Prepared(
        splits=Splits(sources=sources, val_fraction=val_fraction, test_fraction=test_fraction, shuffle=not lines),
        preparation=Packed(
            context=context, tokens=tokens, vocabulary=vocabulary, separate=not lines, text_column=text_column
        ),
        cache=cache,
        skip_unreadable=skip_unreadable,
    )
    return prepared.dataset(split)


def made_up_text(seed: int, sentences: int = 3000) -> str:
    """Sentences with something to learn: words, their order, singular and plural, and sums that come out right."""
    chance = random.Random(seed)
    lines = []
    for _ in range(sentences):
        first, second = chance.randint(1, 20), chance.randint(1, 20)
        who = chance.choice(("miller", "baker", "farmer", "smith", "weaver"))
        what = chance.choice(("apple", "loaf", "egg", "pot", "nail", "bolt"))
        some = f"{first} {what if first == 1 else _plural(what)}"
        lines.append(f"The {who} had {some} and got {second} more, which makes {first + second}.")
    return "\n".join(lines)


def _plural(noun: str) -> str:
    return "loaves" if noun == "loaf" else noun + "s"

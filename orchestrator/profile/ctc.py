"""CTC on fake tensors, for which torch has no shapes: it reads them off the lengths, and fake ones hold no numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses import fake_impls

aten = torch.ops.aten


def teach_shapes() -> None:
    """Have fake tensors know CTC and its gradient; to be called again does no harm."""
    for operation, shapes in ((aten._ctc_loss.Tensor, _forward), (aten._ctc_loss_backward.Tensor, _backward)):
        if operation not in fake_impls.op_implementations_dict:
            fake_impls.register_op_impl(operation)(shapes)


def _forward(mode: Any, operation: Any, log_probabilities: Tensor, targets: Tensor, *_: Any, **__: Any) -> Any:
    """A loss for each item, and what the gradient is made of. Transcripts are as long as what they are filled up to."""
    with mode:
        frames, items, _tokens = log_probabilities.shape
        return log_probabilities.new_empty(items), log_probabilities.new_empty(items, frames, 2 * targets.shape[-1] + 1)


def _backward(mode: Any, operation: Any, gradient: Tensor, log_probabilities: Tensor, *_: Any, **__: Any) -> Any:
    with mode:
        return torch.empty_like(log_probabilities)

"""The fullest moment of code that runs on fake tensors, found by following every storage from birth to death."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the bytes of all storages that operations bring to life; `peak` is the most at one time.

    Of what operations allocate and free inside themselves, only the copies that convolutions make are counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """`known` tensors were there before and count nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(
            tensor.untyped_storage() for tensor in known
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self._live + workspace(func, args, result))
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, size).atexit = False

    def _forget(self, size: int) -> None:
        self._live -= size


def workspace(func: Any, args: Any, result: Any) -> int:
    """Bytes that an operation held beside its results at its fullest moment: a convolution's copies.

    oneDNN, on CPUs, computes in a layout of its own. cuDNN's workspace is of the same order, and depends on the GPU.
    """
    if func is torch.ops.aten.convolution.default:
        inputs, weight = args[:2]
        return max(_size(inputs) + _size(weight), _size(result))
    if func is torch.ops.aten.convolution_backward.default:
        gradient, inputs = args[:2]
        return _size(gradient) + _size(inputs)
    return 0


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

"""Torch's compiler, imported only where something is compiled.

Every optimizer imports torch._dynamo, to tell it what it must leave alone; that takes about as long as to import torch.
While nothing is compiled an empty module stands in its place, and gives way to the real one as soon as somebody asks
for more than that.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"
LEFT_ALONE = "__dynamo_disable"
"""Where torch keeps what the compiler made of a function that it must leave alone."""


class _StandIn(ModuleType):
    """What is called on every step, and nothing else."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(NAME, None, is_package=True)
        self.functions: list[Any] = []

    def graph_break(self, msg: str = "") -> None:
        """Nothing is compiled that could be interrupted."""

    def disable(self, fn: Any = None, recursive: bool = True, *, wrapping: bool = True, **more: Any) -> Any:
        """What torch's own functions ask for is given back when the compiler comes; decorators need the real one."""
        if wrapping:
            return give_way().disable(fn, recursive, **more)
        self.functions.append(fn)
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(give_way(), name)


class _Existing(importlib.abc.Loader):
    """Hands out a module that there is already."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """It has been."""


class _Parts(importlib.abc.MetaPathFinder):
    """Whoever imports a part of the compiler gets all of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The part's own spec; for one that came with the whole, that very module."""
        if not fullname.startswith(f"{NAME}.") or not isinstance(sys.modules.get(NAME), _StandIn):
            return None
        give_way()
        known = sys.modules.get(fullname)
        return (
            ModuleSpec(fullname, _Existing(), is_package=hasattr(known, "__path__"))
            if known
            else importlib.util.find_spec(fullname)
        )


_parts = _Parts()


def give_way() -> ModuleType:
    """Remove the stand-in, and import the compiler."""
    remove()
    return importlib.import_module(NAME)


def remove() -> None:
    """Remove the stand-in, if there is one, and what it left."""
    stand_in = sys.modules.get(NAME)
    if not isinstance(stand_in, _StandIn):
        return
    for function in stand_in.functions:
        delattr(function, LEFT_ALONE)
    del sys.modules[NAME]
    if torch.__dict__.get("_dynamo") is stand_in:
        delattr(torch, "_dynamo")


@contextlib.contextmanager
def out_of_the_way() -> Iterator[None]:
    """While it lasts nobody imports the compiler without need. One that is there already stays."""
    if NAME in sys.modules:
        yield
        return
    stand_in = _StandIn()
    sys.modules[NAME] = stand_in
    setattr(torch, "_dynamo", stand_in)  # noqa: B010  its type is another one
    sys.meta_path.insert(0, _parts)
    try:
        yield
    finally:
        sys.meta_path.remove(_parts)
        remove()

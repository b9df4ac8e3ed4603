"""Processes that tests look for."""

from __future__ import annotations

import contextlib

import psutil


def children(root: int, *marks: str) -> list[psutil.Process]:
    """Processes below another one with one of these in their command lines; none of those that have ended."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
        for child in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(mark in " ".join(child.cmdline()) for mark in marks):
                    found.append(child)
    return found

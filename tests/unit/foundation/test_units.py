"""Amounts of memory."""

from __future__ import annotations

import pytest

from orchestrator.config.schema import Cluster
from orchestrator.errors import ConfigError
from orchestrator.foundation.units import optional_bytes, show_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, None), (7, 7), ("7", 7), ("8GiB", 8 << 30), ("1.5 mib", 3 << 19), ("2GB", 2 * 10**9), ("5 B", 5)],
)
def test_amounts(text: object, expected: int | None) -> None:
    assert optional_bytes("key", text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "0", "8 GiBs", True, "8G", "nan", [1]])
def test_what_is_no_amount(text: object) -> None:
    with pytest.raises(ConfigError, match=r"key=.* is not an amount of memory"):
        optional_bytes("key", text)


def test_shown() -> None:
    assert (show_bytes(8 << 30), show_bytes(1 << 20)) == ("8 GiB", "1 MiB")


def test_several_gpus_are_whole() -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_worker=1.5 is out of range: above 1 use whole numbers"):
        Cluster(gpus_per_worker=1.5)

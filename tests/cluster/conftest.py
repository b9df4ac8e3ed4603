"""Hosts for tests. Where they can be made, a test that is skipped has failed: nobody reads the list of skipped tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster import namespaces
from tests.cluster.hosts import Hosts

forbidden = functools.cache(namespaces.forbidden)


@pytest.fixture(scope="session")
def allowed() -> None:
    """Skip where this process may make no hosts; any other trouble is a failure."""
    if reason := forbidden():
        pytest.skip(f"no hosts here: {reason}")


@pytest.fixture
def make_hosts(allowed: None) -> Iterator[Callable[..., Hosts]]:
    """Hosts for one test: `make_hosts(3, shared=[folder])`. They end with it."""
    with ExitStack() as stack:
        yield lambda count=2, **options: stack.enter_context(Hosts(count, **options))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test of this folder into a failed one where hosts can be made."""
    report = yield
    if not hasattr(report, "wasxfail"):
        _fail_if_skipped(item, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that is skipped."""
    report = yield
    _fail_if_skipped(collector, report)
    return report


def _fail_if_skipped(node: pytest.Item | pytest.Collector, report: pytest.TestReport | pytest.CollectReport) -> None:
    ours = Path(__file__).parent in node.path.parents
    if ours and report.skipped and not forbidden():
        report.outcome = "failed"
        report.longrepr = f"skipped, although hosts can be made here: {report.longrepr}"

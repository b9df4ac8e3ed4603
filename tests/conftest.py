"""Options of the test run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests import sample

SLOWEST_FILES = 15


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be rewritten, and matrices be run whole."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing with them")
    parser.addoption("--all", action="store_true", help="run all cases of matrices, not this commit's sample of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take this commit's sample of matrices. What is named on the command line by its test is always run."""
    if config.getoption("--all") or any("::" in argument for argument in config.args):
        return
    cases = {item.nodeid: mark.args[0] for item in items if (mark := item.get_closest_marker("matrix"))}
    out = sample.left_out(cases, sample.commit())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in out])
    items[:] = [item for item in items if item.nodeid not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time went, file by file: what a long run asks one to look at first."""
    spent: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                spent[report.nodeid.partition("::")[0]] += report.duration  # type: ignore[assignment]  # seconds
    if terminalreporter.config.getoption("durations") is not None:
        terminalreporter.section("slowest files")
        for file, seconds in spent.most_common(SLOWEST_FILES):
            terminalreporter.line(f"{seconds:7.1f}s {file}")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Model profiles of tests do not go into the person's cache, and tests do not use the person's cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ORCHESTRATOR_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def forgotten_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Modules that a test imports from a project of its own are forgotten: the next test's may have the same name."""
    yield
    base = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        # Not by getattr: some modules of torch answer to any name.
        own = getattr(module, "__dict__", {})
        places = [own.get("__file__"), *(own.get("__path__") or ())]
        if any(str(place).startswith(base) for place in places):
            del sys.modules[name]


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written rather than compared with."""
    return bool(request.config.getoption("--update-golden"))

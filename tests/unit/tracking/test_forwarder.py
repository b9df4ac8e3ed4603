"""The thread that sends; its steps are played here without one, where time matters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from orchestrator.errors import StorageError
from orchestrator.tracking.backlog import Point
from orchestrator.tracking.forwarder import Forwarder, Rejected


def points(count: int, first: int = 0) -> list[Point]:
    return [Point("loss", float(number), number, number) for number in range(first, first + count)]


class Source:
    """Chunks of points, given out as a Backlog does."""

    def __init__(self) -> None:
        self.chunks: list[list[Point]] = []
        self.superseded = False
        self.at_end = False
        self.committed = 0
        self.rejected = 0
        self.saved = 0

    def next(self) -> list[Point]:
        self.at_end = not self.chunks
        return self.chunks[0] if self.chunks else []

    def commit(self, rejected: int = 0) -> None:
        self.committed += len(self.chunks.pop(0)) if self.chunks else 0
        self.rejected += rejected

    def save(self) -> None:
        self.saved += 1


class Server:
    """Takes batches; fails as long as `failure` is set; waits as long as `open` is not."""

    def __init__(self) -> None:
        self.batches: list[list[Point]] = []
        self.failure: Exception | None = None
        self.refuses: Callable[[Point], bool] = lambda point: False
        self.open = threading.Event()
        self.open.set()
        self.tries = 0

    def __call__(self, batch: Sequence[Point]) -> None:
        self.tries += 1
        self.open.wait(10)
        if self.failure:
            raise self.failure
        if any(self.refuses(point) for point in batch):
            raise Rejected("invalid value")
        self.batches.append(list(batch))

    @property
    def received(self) -> list[Point]:
        return [point for batch in self.batches for point in batch]


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def forwarder(source: Source, server: Server) -> Iterator[Any]:
    made = []

    def make(**options: Any) -> Forwarder:
        forwarder = Forwarder(source, server, **{"period_s": 0.02, "backoff_s": (0.01, 0.05), **options})
        forwarder.start()
        made.append(forwarder)
        return forwarder

    yield make
    server.open.set()
    server.failure = None
    for forwarder in made:
        forwarder.close(2)
        forwarder._thread.join(2)


def test_everything_arrives_once_and_in_order(source: Source, server: Server, forwarder: Any) -> None:
    source.chunks = [points(1700), points(30, 1700), points(2000, 1730)]
    sending = forwarder()
    assert sending.flush(5)
    assert server.received == points(3730)
    assert [len(batch) for batch in server.batches] == [1000, 700, 30, 1000, 1000]
    assert (sending.sent, source.committed, source.saved) == (3730, 3730, 1)


def test_points_that_come_later_are_found(source: Source, server: Server, forwarder: Any) -> None:
    forwarder()
    source.chunks.append(points(3))
    deadline = time.monotonic() + 5
    while not server.received and time.monotonic() < deadline:
        time.sleep(0.005)
    assert server.received == points(3)


def test_rests_grow_while_the_server_is_away_and_begin_anew_after(source: Source, server: Server) -> None:
    stepping = Forwarder(source, server, period_s=1.0)
    source.chunks = [points(1), points(1, 1)]
    server.failure = ConnectionError("the server does not answer")
    assert [stepping.step() for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert stepping.problem == "the server does not answer"
    assert source.committed == 0
    server.failure = None
    assert [stepping.step() for _ in range(3)] == [0, 0, 1]
    assert stepping.problem == ""
    assert server.received == points(2)
    source.chunks = [points(1, 2)]
    server.failure = ConnectionError("away")
    assert stepping.step() == 1


def test_a_part_that_is_stored_is_not_sent_again(source: Source, server: Server) -> None:
    stepping = Forwarder(source, server, batch=10)
    source.chunks = [points(25)]

    def away_after_the_first(batch: Sequence[Point]) -> None:
        if server.batches and server.tries < 4:
            server.tries += 1
            raise ConnectionError("away")
        server(batch)

    stepping._send = away_after_the_first
    for _ in range(5):
        stepping.step()
    assert server.received == points(25)
    assert source.committed == 25


def test_trouble_with_storage_is_trouble_like_any_other(source: Source, server: Server) -> None:
    stepping = Forwarder(source, server, period_s=1.0)
    source.chunks = [points(2)]
    commit = source.commit

    def full(rejected: int = 0) -> None:
        commit(rejected)
        raise StorageError("No space left.")

    source.commit = full  # type: ignore[method-assign]
    assert stepping.step() == 1
    assert stepping.problem == "No space left."
    source.commit = commit  # type: ignore[method-assign]
    assert stepping.step() == 1
    assert server.received == points(2)
    assert stepping.problem == ""


def test_a_flush_does_not_wait_out_a_long_rest(source: Source, server: Server, forwarder: Any) -> None:
    server.failure = ConnectionError("away")
    source.chunks = [points(1)]
    sending = forwarder(backoff_s=(60.0, 60.0))
    while not server.tries:
        time.sleep(0.01)
    time.sleep(0.05)
    server.failure = None
    assert sending.flush(2)


def test_closing_is_bounded_when_the_server_hangs(source: Source, server: Server, forwarder: Any) -> None:
    server.open.clear()
    source.chunks = [points(7)]
    sending = forwarder()
    begun = time.monotonic()
    assert not sending.close(0.2)
    assert time.monotonic() - begun < 1.5


def test_of_a_refused_batch_only_the_points_at_fault_are_left_out(source: Source, server: Server) -> None:
    stepping = Forwarder(source, server)
    source.chunks = [points(1000), points(5, 1000)]
    server.refuses = lambda point: point.step in (3, 700)
    stepping.step()
    stepping.step()
    assert server.received == [point for point in points(1005) if point.step not in (3, 700)]
    assert (stepping.rejected, source.rejected, stepping.refusal) == (2, 2, "invalid value")
    assert stepping.problem == ""
    assert server.tries < 60


def test_an_exception_nobody_foresaw_does_not_end_the_thread(source: Source, server: Server, forwarder: Any) -> None:
    server.failure = ZeroDivisionError("bug")
    source.chunks = [points(1)]
    sending = forwarder()
    while not server.tries:
        time.sleep(0.01)
    server.failure = None
    assert sending.flush(5)


def test_nothing_is_sent_for_a_later_attempt(source: Source, server: Server, forwarder: Any) -> None:
    source.superseded = True
    begun = time.monotonic()
    assert not forwarder().flush(5)
    assert time.monotonic() - begun < 1

"""The queue between events and the tracking server."""

from __future__ import annotations

import threading
import time

import pytest

from orchestrator.tracking.outbox import Outbox, Point, Rejected


def points(count, first=0):
    return [Point("loss", float(number), number, number) for number in range(first, first + count)]


class Server:
    """Takes batches; fails as long as `failure` is set; waits as long as `open` is not."""

    def __init__(self):
        self.batches = []
        self.failure = None
        self.open = threading.Event()
        self.open.set()
        self.tries = 0

    def __call__(self, batch):
        self.tries += 1
        self.open.wait(10)
        if self.failure:
            raise self.failure
        self.batches.append(list(batch))

    @property
    def received(self):
        return [point for batch in self.batches for point in batch]


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def outbox(server):
    made = []

    def make(**options):
        box = Outbox(server, **{"period_s": 0.02, "backoff_s": (0.01, 0.05), **options})
        box.start()
        made.append(box)
        return box

    yield make
    server.open.set()
    server.failure = None
    for box in made:
        box.close(2)
        box._thread.join(2)


def test_everything_arrives_once_and_in_order(server, outbox):
    box = outbox()
    for start in range(0, 5000, 50):
        box.put(points(50, start))
    assert box.close(5) == 0
    assert server.received == points(5000)


def test_batches_are_no_larger_than_allowed(server, outbox):
    box = outbox(batch=1000)
    box.put(points(2500))
    assert box.flush(5)
    assert [len(batch) for batch in server.batches] == [1000, 1000, 500]


def test_points_of_one_period_go_together(server, outbox):
    box = outbox(period_s=0.3)
    for number in range(10):
        box.put(points(1, number))
        time.sleep(0.005)
    deadline = time.monotonic() + 5
    while not server.received and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [len(batch) for batch in server.batches] == [10]


def test_put_does_not_wait_for_a_server_that_hangs(server, outbox):
    server.open.clear()
    box = outbox()
    box.put(points(10))
    begun = time.monotonic()
    for start in range(1000):
        box.put(points(10, start * 10))
    assert time.monotonic() - begun < 1


def test_what_could_not_be_sent_is_sent_later(server, outbox):
    server.failure = ConnectionError("the server does not answer")
    box = outbox()
    box.put(points(30))
    deadline = time.monotonic() + 5
    while server.tries < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert box.problem == "the server does not answer"
    assert box.unsent == 30
    server.failure = None
    assert box.flush(5)
    assert server.received == points(30)
    assert box.problem == ""


def test_a_flush_does_not_wait_out_a_long_pause(server, outbox):
    server.failure = ConnectionError("away")
    box = outbox(backoff_s=(60.0, 60.0))
    box.put(points(1))
    while not server.tries:
        time.sleep(0.01)
    time.sleep(0.05)
    server.failure = None
    assert box.flush(2)


def test_closing_is_bounded_when_the_server_hangs(server, outbox):
    server.open.clear()
    box = outbox()
    box.put(points(7))
    begun = time.monotonic()
    assert box.close(0.2) == 7
    assert time.monotonic() - begun < 1.5


def test_the_oldest_are_given_up_when_too_many_wait_and_are_counted(server, outbox):
    server.failure = ConnectionError("away")
    box = outbox(limit=100)
    box.put(points(250))
    deadline = time.monotonic() + 5
    while server.tries < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    server.failure = None
    assert box.flush(5)
    assert box.dropped == 150
    assert server.received == points(100, 150)


def test_a_refused_batch_does_not_hold_up_those_after_it(server, outbox):
    server.failure = Rejected("invalid name")
    box = outbox()
    box.put(points(3))
    assert box.flush(5)
    server.failure = None
    box.put(points(2, 3))
    assert box.flush(5)
    assert (box.dropped, server.received) == (3, points(2, 3))


def test_an_exception_nobody_foresaw_does_not_end_the_thread(server, outbox):
    server.failure = ZeroDivisionError("bug")
    box = outbox()
    box.put(points(1))
    while not server.tries:
        time.sleep(0.01)
    server.failure = None
    assert box.flush(5)

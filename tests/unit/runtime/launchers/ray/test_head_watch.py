"""When Ray counts as gone."""

from __future__ import annotations

import socket

from orchestrator.runtime.launchers.ray.head_watch import HeadWatch


def test_told_once_nobody_has_answered_for_long_enough() -> None:
    head, node = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    told: list[str] = []
    now = [0.0]
    doors = {"head": head.getsockname(), "node": node.getsockname()}
    watch = HeadWatch(doors, 3.0, told.append, clock=lambda: now[0])
    for now[0] in (10.0, 20.0):
        watch.look()
    node.close()
    for now[0] in (21.0, 22.9):
        watch.look()
    assert told == []
    now[0] = 23.0
    watch.look()
    assert told == [f"Ray on this machine does not answer any more at 127.0.0.1:{doors['node'][1]}."]
    watch.check()
    assert len(told) == 2
    head.close()


def test_asked_for_a_reason_it_tells_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        door = head.getsockname()
        told: list[str] = []
        watch = HeadWatch({"head": door}, 3.0, told.append)
        watch.check()
        assert told == []
    watch.check()
    assert told == [f"The head of Ray does not answer any more at 127.0.0.1:{door[1]}."]

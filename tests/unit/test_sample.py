"""The sample of matrices that a test run takes."""

from __future__ import annotations

from tests.sample import left_out

CASES = {f"tests/a.py::test_kill[{number}]": 4 for number in range(10)} | {"tests/b.py::test_alone": 5}


def taken(seed: str) -> set[str]:
    return set(CASES) - left_out(CASES, seed)


def test_a_share_of_each_file_rounded_up() -> None:
    for seed in ("1", "2", "3"):
        assert len([case for case in taken(seed) if case.startswith("tests/a.py")]) == 3
        assert "tests/b.py::test_alone" in taken(seed)


def test_the_same_commit_takes_the_same_and_some_commits_take_all() -> None:
    assert taken("1") == taken("1")
    assert set().union(*(taken(str(seed)) for seed in range(40))) == set(CASES)

"""Each rule of the house finds what breaks it, and nothing else, in small packages that are written for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tools import house as measures
from tests.tools import mentions, rules
from tests.tools.graph import House, circles, described_circles, runtime_graph, type_only_circles

LAYERS = [{"low"}, {"high"}, {"high.roof"}]


def built(root: Path, **files: str) -> House:
    """The package `acme`: `low__a="..."` is written to acme/low/a.py."""
    for name, text in {"__init__": '"""A package."""\n', **files}.items():
        path = root / "acme" / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        init = path.parent / "__init__.py"
        if not init.exists():
            init.write_text("", encoding="utf-8")
    return House(root, "acme")


def init(root: Path, folder: str, text: str) -> None:
    (root / "acme" / folder / "__init__.py").write_text(text, encoding="utf-8")


def test_a_circle_through_an_import_in_a_function(tmp_path: Path) -> None:
    house = built(
        tmp_path,
        a="from acme.b import B\n",
        b="from acme import c\n\nclass B: ...\n",
        c="def late():\n    import acme.a\n",
        d="import acme.a\n",
    )
    assert described_circles(house) == [
        "acme.a -> acme.b -> acme.c -> acme.a\n"
        "    acme/a.py:1 imports acme.b\n"
        "    acme/b.py:1 imports acme.c\n"
        "    acme/c.py:2 imports acme.a"
    ]


def test_a_circle_through_a_re_export(tmp_path: Path) -> None:
    house = built(
        tmp_path, room__inner="def late():\n    from acme.other import x\n", other="from acme.room import Thing\n"
    )
    init(tmp_path, "room", "from acme.room.inner import Thing as Thing\n")
    assert circles(runtime_graph(house)) == [["acme.other", "acme.room", "acme.room.inner"]]


def test_a_circle_through_a_lazy_re_export(tmp_path: Path) -> None:
    lazy = '_LATER = {"Thing": "acme.room.inner:Thing"}\n\ndef __getattr__(name): ...\n'
    house = built(
        tmp_path, room__inner="import acme.other\n\nclass Thing: ...\n", other="from acme.room import Thing\n"
    )
    init(tmp_path, "room", lazy)
    assert [each.splitlines()[0] for each in described_circles(house)] == [
        "acme.other -> acme.room.inner -> acme.other"
    ]


def test_an_init_that_collects_its_own_files_is_no_circle(tmp_path: Path) -> None:
    house = built(tmp_path, room__a="from acme.room.b import b\n", room__b="b = 1\n", user="import acme.room.b\n")
    init(tmp_path, "room", "from acme.room.a import b\n")
    assert circles(runtime_graph(house)) == []
    assert ("acme.user", "acme.room") in measures.pairs(house), "importing a submodule runs the package's own file"


def test_an_init_with_only_a_docstring_is_not_pointed_at(tmp_path: Path) -> None:
    house = built(tmp_path, room__a="", user="import acme.room.a\n")
    init(tmp_path, "room", '"""A room."""\n\nfrom __future__ import annotations\n')
    assert measures.pairs(house) == {("acme.user", "acme.room.a")}


def test_circles_of_types_are_counted_apart(tmp_path: Path) -> None:
    types = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import acme.b\n"
    house = built(tmp_path, a=types, b="import acme.a\n")
    assert (circles(runtime_graph(house)), type_only_circles(house)) == ([], [["acme.a", "acme.b"]])
    house = built(tmp_path, a=f"{types}else:\n    import acme.b\n")
    assert circles(runtime_graph(house)) == [["acme.a", "acme.b"]], "else is what happens when the program runs"


def test_circles_of_any_length_and_number() -> None:
    ring = {str(number): {str((number + 1) % 5000)} for number in range(5000)}
    assert [len(members) for members in circles(ring)] == [5000]
    pairs = {"a": {"b", "c"}, "b": {"a"}, "c": {"d"}, "d": {"c"}, "e": {"e", "a"}}
    assert circles(pairs) == [["a", "b"], ["c", "d"]]


def test_relative_imports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("acme.a, line 1: write imports out in full")):
        _ = built(tmp_path, a="from . import b\n").arrows


def test_arrows_that_point_up(tmp_path: Path) -> None:
    house = built(
        tmp_path,
        low__a="def late():\n    import acme.high.a\n",
        high__a="import acme.low.a\nfrom acme.high.roof import tile\n",
        high__roof__tile="import acme.high.a, acme.low.a\n",
    )
    assert rules.upward_arrows(house, LAYERS) == [
        "acme/high/a.py:2 imports acme.high.roof.tile: high.roof is above high in LAYERS",
        "acme/low/a.py:2 imports acme.high.a: high is above low in LAYERS",
    ]


def test_files_without_a_room_and_rooms_without_files(tmp_path: Path) -> None:
    house = built(tmp_path, low__a="", shed__a="")
    assert rules.unplaced(house, LAYERS) == [
        "acme/shed/a.py is in no room: give shed.a (or a package around it) a place in LAYERS"
    ]
    assert rules.absent_rooms(house, LAYERS) == [
        f"{name} is in LAYERS, but not in the package" for name in ("high", "high.roof")
    ]


def test_folders_with_too_many_files(tmp_path: Path) -> None:
    names = [f"f{number:02}" for number in range(15)]
    house = built(tmp_path, **{f"{room}__{name}": "" for room in ("low", "high__verbs") for name in names}, low2__a="")
    assert rules.crowded_folders(house, 14, {"high/verbs"}) == [
        f"acme/low/ has 15 files, at most 14 are allowed: {', '.join(names)}"
    ]
    assert rules.crowded_folders(house, 15) == []


def test_heavy_libraries_at_the_top_of_light_rooms(tmp_path: Path) -> None:
    late = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import torch\n\ndef late():\n    import torch\n"
    house = built(
        tmp_path,
        low__a="import os\ntry:\n    from torch.nn import Linear\nfinally: ...\n",
        low__b=late,
        high__a="import torch\n",
    )
    assert rules.heavy_at_top(house, {"low"}, {"torch"}, {}) == [
        "acme/low/a.py:3 imports torch at its top: import it where it is used"
    ]
    assert rules.heavy_at_top(house, {"low"}, {"torch"}, {"low": {"torch"}}) == []


def test_a_library_that_an_entry_loads(tmp_path: Path) -> None:
    house = built(
        tmp_path,
        entry="import acme.low.a\n\ndef late():\n    import acme.free\n",
        low__a="def late():\n    from ray import get\n",
        free="import ray\n",
    )
    assert rules.imports_of_library(house, "acme.entry", "ray") == [
        "acme/low/a.py:2 imports ray, and is loaded by acme.entry -> acme.low.a"
    ]
    assert rules.imports_of_library(house, "acme.gone", "ray") == [
        "acme.gone is not there, so nothing of it can be checked"
    ]


def test_public_names_that_are_packages(tmp_path: Path) -> None:
    house = built(tmp_path, __init__='__all__ = ["plan", "submit", "Task"]\n', plan__make="", submit="")
    assert [each.split()[0] for each in rules.hidden_names(house)] == ["plan", "submit"]


TARGETS = '''
from os import path

class Desk:
    """Takes what is handed in."""

    size: int = 1

    def __init__(self):
        self.owner = path

    def sign(self): ...

class Oak(Desk): ...

if path:
    CONDITIONAL = 1
'''


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("acme.low", None),
        ("acme.low.desk:Desk", None),
        ("acme.low.desk.Desk.sign", None),
        ("acme.low.desk.Desk.owner", None),
        ("acme.low.desk.Oak.inherited", None),
        ("acme.low.desk.CONDITIONAL and acme.low.desk.path.join", None),
        ("acme.front and acme.front.sign, acme.__version__", None),
        ("tool.acme.gone, acme.json, ~/.acme.gone, acme. Gone, acme-acme.gone", None),
        ("from acme.low import desk; desk.sign()", None),
        ("acme.run_id", None),
        ("acme.gone", "acme.gone, but there is no acme.gone"),
        ("python -m acme.low.gone NAME", "acme.low.gone, but there is no acme.low.gone"),
        ("acme.low.desk:Chair", "acme.low.desk.Chair, but acme/low/desk.py has no Chair"),
        ("acme.low.desk.Desk.leg", "acme.low.desk.Desk.leg, but Desk in acme/low/desk.py has no leg"),
        ("acme.front.leg", "acme.front.leg, but Desk in acme/low/desk.py has no leg"),
        ("from acme.low import desk, gone as g", "acme.low.gone, but there is no acme.low.gone"),
    ],
)
def test_modules_that_are_named(tmp_path: Path, text: str, lacks: str | None) -> None:
    house = built(tmp_path, low__desk=TARGETS, __init__="from acme.low.desk import Desk as front\n")
    (tmp_path / "README.md").write_text(f"# Title\n\nSee {text}.\n", encoding="utf-8")
    (tmp_path / "acme/quoted.py").write_text(f"x = 1\ny = {text!r}\n", encoding="utf-8")
    (tmp_path / "acme/spoken.py").write_text(f"x = 1\ny = x  # {text}\n", encoding="utf-8")
    found = mentions.missing_modules(house, {"acme.run_id"})
    files = ["README.md:3", "acme/quoted.py:2", "acme/spoken.py:2"]
    assert found == ([f"{place} names {lacks}" for place in files] if lacks else [])


def test_imports_in_functions_that_nobody_calls(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/a.py").write_text("def f():\n    from acme.low.desk import Desk, Chair\n", encoding="utf-8")
    found = mentions.missing_modules(built(tmp_path, low__desk=TARGETS))
    assert found == ["benchmarks/a.py:2 names acme.low.desk.Chair, but acme/low/desk.py has no Chair"]


def test_where_strings_and_templates_are_read(tmp_path: Path) -> None:
    house = built(tmp_path, low__a='"""Doc.\n\nSee acme.one.\n"""\nx = f"{y} acme.two {y}"\n')
    for name in (
        "conf/data/a.yaml",
        ".ci/run",
        "Makefile",
        "pyproject.toml",
        "docs/a.md",
        "tests/a.py",
        "acme/low/b.template",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('"acme.gone"\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("acme.gone became acme.low\n", encoding="utf-8")
    places = [line.split()[0] for line in mentions.missing_modules(house)]
    assert places == [
        *(".ci/run:1", "Makefile:1", "acme/low/a.py:3", "acme/low/a.py:5", "acme/low/b.template:1"),
        *("conf/data/a.yaml:1", "docs/a.md:1", "pyproject.toml:1", "tests/a.py:1"),
    ]


def test_files_that_are_named(tmp_path: Path) -> None:
    there = "acme/low/a.py, acme/low/, acme/*/a.py, /home/acme/gone/, acme/gone/{name}, acme/gone/NAME"
    house = built(tmp_path, low__a=f"# {there}\n# acme/low/gone.py\nx = 'acme/gone/'\n")
    assert mentions.missing_files(house) == [
        "acme/low/a.py:2 names acme/low/gone.py, which is not there",
        "acme/low/a.py:3 names acme/gone/, which is not there",
    ]
    assert mentions.missing_files(house, {"acme/gone/", "acme/low/gone.py"}) == []


def test_measures(tmp_path: Path) -> None:
    code = '''"""Doc."""
from dataclasses import dataclass

@dataclass
class Box:
    """Doc."""
    _a: int
    """Doc."""
    b: int

    def fill(self):
        self._a, (self._c, other._d) = 1, (2, 3)

        self._e += 1
        return self._f
'''
    house = built(tmp_path, low__a=code, high__a="from acme.low.a import Box\n\nclass Box: ...\n")
    high, low = (row for row in measures.folders(house) if row.name in ("high", "low"))
    assert (low.files, low.statements, low.arrows_in, low.arrows_out) == (2, 8, 1, 0)
    assert (low.longest, low.most_fields) == ((5, "Box.fill"), (3, "Box"))
    assert (high.statements, high.arrows_in, high.arrows_out) == (3, 0, 1)
    assert measures.classes_defined_twice(house) == {"Box": ["acme/high/a.py:3", "acme/low/a.py:5"]}
    assert measures.long_files(house, 10) == [(15, "acme/low/a.py")]
    assert max(map(len, measures.report(house).splitlines())) <= 110

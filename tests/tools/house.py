"""Measures the package folder by folder: `python -m tests.tools.house`, from the root of the repository.

Statements are what size is counted in: all `ast.stmt` nodes but docstrings and the strings below attributes, so that
neither line breaks nor explanations make a file larger.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tools import rules
from tests.tools.graph import House, circles, is_docstring, runtime_graph, type_only_circles

MOST_LINES = 400
MOST_FILES = 14
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Folder:
    """One row of the table."""

    name: str
    files: int
    statements: int
    arrows_in: int
    arrows_out: int
    circles: int
    longest: tuple[int, str]
    """Lines and name of the longest function."""
    most_fields: tuple[int, str]
    """Private fields and name of the class that has the most."""


def folders(house: House) -> list[Folder]:
    """Each folder with Python files of its own; what is in folders below it is not counted with it."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for module, path in house.modules.items():
        inside = path.parent.relative_to(house.root / house.package)
        by_folder[str(inside) if inside.parts else house.package].append(module)
    edges = pairs(house)
    found = circles(runtime_graph(house))
    return [
        _folder(house, name, set(modules), edges, [each for each in found if not set(each).isdisjoint(modules)])
        for name, modules in sorted(by_folder.items())
    ]


def _folder(
    house: House, name: str, modules: set[str], edges: set[tuple[str, str]], touching: list[list[str]]
) -> Folder:
    trees = [house.trees[module] for module in sorted(modules)]
    return Folder(
        name=name,
        files=len(modules),
        statements=sum(statements(tree) for tree in trees),
        arrows_in=sum(source not in modules and target in modules for source, target in edges),
        arrows_out=sum(source in modules and target not in modules for source, target in edges),
        circles=len(touching),
        longest=max((each for tree in trees for each in functions(tree)), default=(0, "")),
        most_fields=max((each for tree in trees for each in private_fields(tree)), default=(0, "")),
    )


def pairs(house: House) -> set[tuple[str, str]]:
    """Who imports whom when the program runs, each pair of files once."""
    return {(arrow.importer, arrow.imported) for arrow in house.arrows if not arrow.for_types}


def statements(tree: ast.AST) -> int:
    """How many statements there are, strings that only explain left out."""
    return sum(isinstance(node, ast.stmt) and not is_docstring(node) for node in ast.walk(tree))


def functions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines and name of each function, from `def` to its last line; methods with their class's name."""
    for owner in ast.walk(tree):
        prefix = f"{owner.name}." if isinstance(owner, ast.ClassDef) else ""
        for node in ast.iter_child_nodes(owner):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{prefix}{node.name}"


def private_fields(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """For each class, how many fields `self._x` it gives a value anywhere, or declares; and its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield len(_assigned(node) | _declared(node)), node.name


def _assigned(node: ast.AST) -> set[str]:
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            continue  # its `self` is another
        if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store) and _is_private(child.attr):
            found |= {child.attr} if ast.unparse(child.value) == "self" else set()
        found |= _assigned(child)
    return found


def _declared(node: ast.ClassDef) -> set[str]:
    """Fields of a dataclass that begin with an underscore."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return set()
    fields = (child.target for child in node.body if isinstance(child, ast.AnnAssign))
    return {field.id for field in fields if isinstance(field, ast.Name) and _is_private(field.id)}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def classes_defined_twice(house: House) -> dict[str, list[str]]:
    """Names that more than one class of the package has, with where each of them is."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, tree in house.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{house.file(module)}:{node.lineno}")
    return {name: places for name, places in sorted(found.items()) if len(places) > 1}


def long_files(house: House, most: int = MOST_LINES) -> list[tuple[int, str]]:
    """Files of more lines than that, the longest first."""
    lengths = [(len(path.read_text(encoding="utf-8").splitlines()), house.file(m)) for m, path in house.modules.items()]
    return sorted((each for each in lengths if each[0] > most), reverse=True)


def table(rows: list[Folder]) -> list[str]:
    """The rows, aligned, with heads above and totals below."""
    width = max([len(row.name) for row in rows] + [len("folder")])
    line = f"{{:<{width}}} {{:>5}} {{:>6}} {{:>5}} {{:>5}} {{:>5}}  {{:>3}} {{:<29}}  {{:>2}} {{}}"
    lines = [line.format("folder", "files", "stmts", "in", "out", "circ", "", "longest function", "", "private fields")]
    for row in rows:
        (length, function), (fields, name) = row.longest, row.most_fields
        lines.append(
            line.format(
                *(row.name, row.files, row.statements, row.arrows_in, row.arrows_out, row.circles),
                *(length or "", _short(function, 29), fields or "", _short(name, 20) if fields else ""),
            ).rstrip()
        )
    return lines


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def totals(house: House, rows: list[Folder]) -> list[str]:
    """The sums; arrows are those between folders, and all."""
    edges = pairs(house)
    of_types = {(a.importer, a.imported) for a in house.arrows if a.for_types} - edges
    across = sum(row.arrows_out for row in rows)
    return [
        f"{len(rows)} folders, {sum(row.files for row in rows)} files, {sum(row.statements for row in rows)} statements",
        f"{len(edges)} arrows between files, {across} of them between folders; {len(of_types)} more for types only",
        f"{len(circles(runtime_graph(house)))} circles; {len(type_only_circles(house))} more through imports for types",
    ]


def report(house: House) -> str:
    """All that `main` prints."""
    rows = folders(house)
    twice = [f"  {name}: {', '.join(places)}" for name, places in classes_defined_twice(house).items()]
    long = [f"  {lines} {file}" for lines, file in long_files(house)]
    crowded = [f"  {line}" for line in _counts(house)]
    return "\n".join(
        [
            *table(rows),
            "",
            *totals(house, rows),
            *_section("class names defined twice", twice),
            *_section(f"files over {MOST_LINES} lines", long),
            *_section(f"folders over {MOST_FILES} files", crowded),
        ]
    )


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}: {len(lines)}", *lines]


def _counts(house: House) -> list[str]:
    return [line.partition(",")[0] for line in rules.crowded_folders(house, MOST_FILES)]


def main() -> int:
    """Print the report on the folder given, or on this repository."""
    print(report(House(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

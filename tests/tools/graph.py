"""The import graph of a package, read from its source without running it.

Nodes are files. An arrow is an import that can happen while the program runs, at the top of a file or inside a function.
Imports under `if TYPE_CHECKING:` are kept apart, and are no part of a circle: Python never follows them, so they
cannot break a start-up, and a type may well know its maker's type. They are reported as "type-only circles".

An import of a package's submodule runs the `__init__.py` of every package above it, so it points at those as well, unless
they hold only a docstring. A file's own packages are left out: they have begun before its first line.
"""

from __future__ import annotations

import ast
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Import:
    """One import statement's mention of one name; `name` is None for `import module`."""

    importer: str
    module: str
    name: str | None
    line: int
    at_top: bool = True
    for_types: bool = False


@dataclass(frozen=True)
class Arrow:
    """An import that leads from one file of the package to another."""

    importer: str
    imported: str
    line: int
    at_top: bool = True
    for_types: bool = False


class House:
    """A package below a root folder; everything is read when it is asked for, and once."""

    def __init__(self, root: Path, package: str = "orchestrator", beside: Mapping[str, str] | None = None) -> None:
        """`beside`: folders of the root whose files are imported as part of a package, by that package's name."""
        self.root = root
        self.package = package
        self.beside = dict(beside or {})

    @cached_property
    def modules(self) -> dict[str, Path]:
        """All files of the package by dotted name; an `__init__.py` has the name of its folder."""
        own = {self._dotted(path): path for path in sorted((self.root / self.package).rglob("*.py"))}
        more = {
            f"{package}.{path.stem}": path
            for package, folder in self.beside.items()
            for path in sorted((self.root / folder).glob("*.py"))
        }
        return own | more

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """The syntax tree of each file."""
        return {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in self.modules.items()}

    @cached_property
    def imports(self) -> list[Import]:
        """All imports of all files, of other packages as well."""
        return [each for module, tree in self.trees.items() for each in imports_of(tree, module)]

    @cached_property
    def arrows(self) -> list[Arrow]:
        """All imports from one file of the package to another, those in functions and for types included."""
        found = (
            Arrow(each.importer, target, each.line, each.at_top, each.for_types)
            for each in self.imports
            for target in self._targets(each)
            if target != each.importer
        )
        return list(dict.fromkeys(found))

    def file(self, module: str) -> str:
        """A module's path relative to the root, as messages show it."""
        return str(self.modules[module].relative_to(self.root))

    def is_package(self, module: str) -> bool:
        """Whether a module is an `__init__.py`."""
        return self.modules[module].name == "__init__.py"

    def has_content(self, module: str) -> bool:
        """Whether a file holds more than a docstring and `from __future__` imports."""
        return not all(_is_idle(statement) for statement in self.trees[module].body)

    @cached_property
    def exports(self) -> dict[str, dict[str, tuple[str, str | None]]]:
        """For each module, the names it has from other modules: where each comes from, and by which name.

        Also imports for types, and tables of `"name": "module:name"` where a `__getattr__` answers from them: for who
        imports the name, a lazy re-export leads to the same file as an early one.
        """
        return {module: _exports(tree, module) for module, tree in self.trees.items()}

    def _dotted(self, path: Path) -> str:
        return ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    def _targets(self, each: Import) -> Iterator[str]:
        module = each.module
        if module.split(".")[0] != self.package:
            return
        if (
            each.name is not None
            and f"{module}.{each.name}" in self.modules
            and not self._re_exports(module, each.name)
        ):
            yield f"{module}.{each.name}"
            yield from self._packages_run(f"{module}.{each.name}", each.importer)
            return
        yield from self._packages_run(module, each.importer)
        if module in self.modules and (not self.is_package(module) or self.has_content(module)):
            yield module
        if each.name is not None:
            yield from self._definers(module, each.name)

    def _re_exports(self, module: str, name: str) -> bool:
        return name in self.exports.get(module, {})

    def _packages_run(self, module: str, importer: str) -> Iterator[str]:
        for parent in parents(module):
            ours = importer == parent or importer.startswith(f"{parent}.")
            if not ours and parent in self.modules and self.has_content(parent):
                yield parent

    def _definers(self, module: str, name: str | None) -> Iterator[str]:
        """Follow a name through packages that pass it on, to the file that defines it."""
        seen = {(module, name)}
        while module in self.modules and self.is_package(module) and name is not None:
            origin = self.exports[module].get(name)
            if origin is None or origin in seen:
                return
            seen.add(origin)
            module, name = origin
            if name is not None and f"{module}.{name}" in self.modules and not self._re_exports(module, name):
                module, name = f"{module}.{name}", None
            if module in self.modules:
                yield module


def parents(module: str) -> list[str]:
    """The packages a module lies in, the outermost first."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def imports_of(tree: ast.Module, module: str) -> Iterator[Import]:
    """All imports of one file. Raises ValueError for a relative one, since every name is to be found by a search."""
    for node, at_top, for_types in _import_nodes(tree, at_top=True, for_types=False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, None, node.lineno, at_top, for_types)
        elif node.level or node.module is None:
            raise ValueError(f"{module}, line {node.lineno}: write imports out in full")
        else:
            for alias in node.names:
                yield Import(module, node.module, alias.name, node.lineno, at_top, for_types)


def _import_nodes(
    node: ast.AST, *, at_top: bool, for_types: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_top, for_types
        elif isinstance(child, ast.If) and _asks_for_types(child.test):
            yield from _import_nodes(ast.Module(child.body, []), at_top=at_top, for_types=True)
            yield from _import_nodes(ast.Module(child.orelse, []), at_top=at_top, for_types=for_types)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _import_nodes(child, at_top=at_top and not inside, for_types=for_types)


def _asks_for_types(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _is_idle(statement: ast.stmt) -> bool:
    return is_docstring(statement) or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")


def is_docstring(node: ast.AST) -> bool:
    """Whether a statement is only a string: a docstring, or the same below an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _exports(tree: ast.Module, module: str) -> dict[str, tuple[str, str | None]]:
    found: dict[str, tuple[str, str | None]] = {}
    for node, at_top, _ in _import_nodes(tree, at_top=True, for_types=False):
        if isinstance(node, ast.ImportFrom) and at_top and node.module and not node.level:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import) and at_top:
            found |= {alias.asname: (alias.name, None) for alias in node.names if alias.asname}
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        found |= {name: origin for name, origin in lazy_names(tree).items() if name not in found}
    return {name: origin for name, origin in found.items() if origin != (module, name)}


def lazy_names(tree: ast.Module) -> dict[str, tuple[str, str | None]]:
    """Entries `"name": "module:attribute"` of the tables at the top of a file."""
    found: dict[str, tuple[str, str | None]] = {}
    for node in tree.body:
        table = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if not isinstance(table, ast.Dict):
            continue
        for key, value in zip(table.keys, table.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                module, colon, attribute = value.value.partition(":")
                if colon:
                    found[str(key.value)] = (module, attribute)
    return found


def graph_of(house: House, arrows: Iterable[Arrow]) -> Graph:
    """Which files each file points at."""
    graph: Graph = {module: set() for module in house.modules}
    for arrow in arrows:
        graph[arrow.importer].add(arrow.imported)
    return graph


def runtime_graph(house: House) -> Graph:
    """Imports that can happen while the program runs."""
    return graph_of(house, (arrow for arrow in house.arrows if not arrow.for_types))


def circles(graph: Graph) -> list[list[str]]:
    """Files that reach each other: strongly connected components of more than one file, each sorted.

    Tarjan's algorithm without recursion, whose depth would be that of the longest chain of imports.
    """
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []
    for start in sorted(graph):
        if start in order:
            continue
        work = [(start, iter(sorted(graph[start])))]
        order[start] = lowest[start] = len(order)
        stack.append(start)
        on_stack.add(start)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in order:
                    order[target] = lowest[target] = len(order)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(sorted(graph[target]))))
                    break
                if target in on_stack:
                    lowest[node] = min(lowest[node], order[target])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[node])
                if lowest[node] == order[node]:
                    members = stack[stack.index(node) :]
                    del stack[-len(members) :]
                    on_stack.difference_update(members)
                    found.append(sorted(members))
    return sorted(members for members in found if len(members) > 1)


def type_only_circles(house: House) -> list[list[str]]:
    """Circles that exist only because of imports under TYPE_CHECKING."""
    real = circles(runtime_graph(house))
    return [members for members in circles(graph_of(house, house.arrows)) if members not in real]


def shortest_circle(graph: Graph, start: str, members: Iterable[str]) -> list[str]:
    """The shortest way from a file back to itself, as the files on it; the first is not repeated at the end."""
    allowed = set(members)
    came_from: dict[str, str] = {}
    todo = deque([start])
    while todo:
        node = todo.popleft()
        for target in sorted(graph[node] & allowed):
            if target == start:
                way = [node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if target not in came_from:
                came_from[target] = node
                todo.append(target)
    raise ValueError(f"{start} is on no circle")


def described_circles(house: House, arrows: Iterable[Arrow] | None = None) -> list[str]:
    """Each circle as `a -> b -> a` with the imports that make it; a large one as short ones that touch all its files."""
    used = [arrow for arrow in house.arrows if not arrow.for_types] if arrows is None else list(arrows)
    graph = graph_of(house, used)
    by_pair: dict[tuple[str, str], list[Arrow]] = defaultdict(list)
    for arrow in used:
        by_pair[arrow.importer, arrow.imported].append(arrow)
    found = []
    for members in circles(graph):
        left = set(members)
        while left:
            way = shortest_circle(graph, min(left), members)
            left -= set(way)
            pairs = list(zip(way, [*way[1:], way[0]], strict=True))
            lines = [f"    {_where(house, by_pair[pair])} imports {pair[1]}" for pair in pairs]
            found.append("\n".join([" -> ".join([*way, way[0]]), *lines]))
    return found


def _where(house: House, arrows: list[Arrow]) -> str:
    lines = ", ".join(str(line) for line in sorted({arrow.line for arrow in arrows}))
    return f"{house.file(arrows[0].importer)}:{lines}"

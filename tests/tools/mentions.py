"""Modules and files that are named in strings, comments and documents: no import tells when one of them has moved.

Read are all Python files (imports, strings, docstrings and comments) and the texts around them. A name is followed as
far as the source tells: to a module, then to what is bound in it, then to a class's methods and fields.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from tests.tools.graph import House, lazy_names

PYTHON_FOLDERS = ("jobs", "hydra_plugins", "tests", "benchmarks", "docs")
TEXTS = ("*.md", "*.yaml", ".*.yaml", "docs/*.md", "conf/**/*.yaml", "pyproject.toml", "Makefile", ".ci/*")
HISTORY = {"CHANGELOG.md"}
"""What was true when it was written, and is not rewritten."""

FILE_ENDINGS = {"json", "log", "md", "py", "toml", "txt", "yaml", "yml"}
"""`package.json` is the name of a file."""
DUNDERS = re.compile(r"__\w+__")


@dataclass(frozen=True)
class Mention:
    """A name found in a file."""

    file: str
    line: int
    name: str


@lru_cache(maxsize=4)
def sources(house: House) -> dict[str, tuple[str, ast.Module]]:
    """Text and syntax tree of all Python files, the package's and those around it, by path."""
    around = [path for folder in PYTHON_FOLDERS for path in sorted((house.root / folder).rglob("*.py"))]
    paths = {**dict.fromkeys(around), **{path: house.trees[module] for module, path in house.modules.items()}}
    found = {}
    for path, tree in paths.items():
        text = path.read_text(encoding="utf-8")
        found[_shown(house, path)] = (text, tree or ast.parse(text))
    return found


@lru_cache(maxsize=4)
def texts(house: House) -> tuple[tuple[str, int, str], ...]:
    """All that names the package: file, number of the first line, and text. Of Python files, each string and comment."""
    found: list[tuple[str, int, str]] = []
    for file, (text, tree) in sources(house).items():
        found += [(file, line, each) for line, each in _strings_and_comments(text, tree, house.package)]
    inside = [path for path in (house.root / house.package).rglob("*") if path.suffix != ".py" and path.is_file()]
    around = [path for pattern in TEXTS for path in house.root.glob(pattern) if path.is_file()]
    for path in sorted({*inside, *around}):
        if path.name not in HISTORY and "__pycache__" not in path.parts:
            found.append((_shown(house, path), 1, path.read_text(encoding="utf-8", errors="ignore")))
    return tuple(found)


def _shown(house: House, path: Path) -> str:
    return str(path.relative_to(house.root))


def _strings_and_comments(source: str, tree: ast.Module, word: str) -> Iterator[tuple[int, str]]:
    if any("#" in line and word in line for line in source.splitlines()):  # telling comments from strings is slow
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and word in token.string:
                yield token.start[0], token.string
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and word in node.value:
            yield node.lineno, node.value


def named_modules(house: House) -> list[Mention]:
    """Dotted names that begin with the package's, in texts; `package.module:name` counts as `package.module.name`."""
    dotted = re.compile(rf"(?<![\w./$~-]){house.package}(?:\.[A-Za-z_]\w*)+(?::[A-Za-z_]\w*)?")
    code = re.compile(rf"\bfrom ({house.package}(?:\.\w+)*) import (\w+(?: as \w+)?(?:, \w+(?: as \w+)?)*)")
    found = []
    for file, first, text in texts(house):
        for match in dotted.finditer(text):
            found.append(Mention(file, first + text.count("\n", 0, match.start()), match[0].replace(":", ".")))
        for match in code.finditer(text):
            line = first + text.count("\n", 0, match.start())
            found += [Mention(file, line, f"{match[1]}.{each.split()[0]}") for each in match[2].split(", ")]
    return found


def imported_names(house: House) -> list[Mention]:
    """Names of the package that any Python file imports, also in functions that no test calls."""
    found = []
    for file, (_, tree) in sources(house).items():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module if alias.name == "*" else f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in names if name.split(".")[0] == house.package]
            found += [Mention(file, getattr(node, "lineno", 0), name) for name in ours]
    return found


def missing_modules(house: House, not_modules: Collection[str] = ()) -> list[str]:
    """Named modules, and attributes of them, that do not exist. `not_modules` are names of other things."""
    wrong = []
    for mention in [*named_modules(house), *imported_names(house)]:
        lacks = None if mention.name in not_modules else lacking(house, mention.name)
        if lacks and not _is_file_name(mention.name):
            wrong.append(f"{mention.file}:{mention.line} names {mention.name}, but {lacks}")
    return sorted(set(wrong))


def _is_file_name(name: str) -> bool:
    return name.count(".") == 1 and name.rpartition(".")[2] in FILE_ENDINGS


def lacking(house: House, name: str) -> str | None:
    """What keeps a dotted name from being found, in words; None if it can be found."""
    parts = name.split(".")
    count = next((n for n in range(len(parts), 0, -1) if _is_module(house, ".".join(parts[:n]))), 0)
    module, rest = ".".join(parts[:count]), parts[count:]
    if not module:
        return f"there is no package {parts[0]}"
    if module not in house.modules:  # a folder of files that are not Python, or a namespace package
        return f"there is no {module}.{rest[0]}" if rest else None
    return _lacking_in(house, module, rest) if rest else None


def _is_module(house: House, name: str) -> bool:
    return name in house.modules or any(each.startswith(f"{name}.") for each in house.modules)


def _lacking_in(house: House, module: str, rest: list[str], hops: int = 8) -> str | None:
    first, *more = rest
    origin = house.exports[module].get(first)
    if origin is not None:
        target = ".".join(part for part in (*origin, *more) if part)
        if origin[0].split(".")[0] != house.package or not hops:
            return None  # what other libraries have is for them to say
        below = next((n for n in range(target.count(".") + 1, 0, -1) if _head(target, n) in house.modules), 0)
        left = target.split(".")[below:]
        if not below:
            return f"{house.file(module)} has it from {origin[0]}, which is not there"
        return _lacking_in(house, _head(target, below), left, hops - 1) if left else None
    if DUNDERS.fullmatch(first) or first in bound(house.trees[module]):
        return _lacking_in_class(house, module, first, more) if more else None
    if house.is_package(module):
        return f"there is no {module}.{first}"
    return f"{house.file(module)} has no {first}"


def _head(name: str, count: int) -> str:
    return ".".join(name.split(".")[:count])


def _lacking_in_class(house: House, module: str, name: str, rest: list[str]) -> str | None:
    node = next((n for n in house.trees[module].body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None or node.bases or rest[0] in members(node) or DUNDERS.fullmatch(rest[0]):
        return None  # what a variable holds, or a class inherits, cannot be read off
    return f"{name} in {house.file(module)} has no {rest[0]}"


@cache
def bound(tree: ast.Module) -> frozenset[str]:
    """Names that a file binds at its top, under conditions as well, and those its `__getattr__` answers to."""
    names = set(lazy_names(tree)) | _bound_by(tree.body)
    return frozenset(names)


def members(node: ast.ClassDef) -> set[str]:
    """Names in the body of a class, and those its methods give `self`."""
    own = {
        target.attr
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and ast.unparse(target.value) == "self"
    }
    return own | _bound_by(node.body)


def _bound_by(body: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            continue
        for part in ("body", "orelse", "finalbody"):
            names |= _bound_by(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            names |= _bound_by(handler.body)
        names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return names


def named_files(house: House) -> list[Mention]:
    """Paths of the package's Python files, `package/room/file.py`, and of its folders, `package/room/`, in texts."""
    path = re.compile(rf"(?<![\w./$~}}-]){house.package}/(?:[\w*-]+/)*(?:[\w*-]+\.py\b|(?<=/)(?![\w.*{{<]))")
    return [
        Mention(file, first + text.count("\n", 0, match.start()), match[0])
        for file, first, text in texts(house)
        for match in path.finditer(text)
    ]


def missing_files(house: House, not_files: Collection[str] = ()) -> list[str]:
    """Named paths that lead nowhere; one with `*` has to fit something."""
    return sorted(
        {
            f"{each.file}:{each.line} names {each.name}, which is not there"
            for each in named_files(house)
            if each.name not in not_files and not any(house.root.glob(each.name.rstrip("/")))
        }
    )

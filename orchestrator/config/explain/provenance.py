"""Where a setting was set: the override as it was typed, or file and line. Read only when there is an error to show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from orchestrator.config.explain.keys import normal


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigFile:
    """One YAML file that took part in the composition."""

    name: str
    """As the defaults list names it: `optimizer/adamw`."""
    package: str
    """The dotted key its content is placed at; empty for the root."""
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """One override of a key."""

    key: str
    text: str
    """As it was typed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a file sets a key, and to what."""

    file: ConfigFile
    line: int
    value: str | None
    """The value as written, for a single one."""

    def __str__(self) -> str:
        return f"{shown(self.file.path)}:{self.line}"


@dataclass(frozen=True)
class Origins:
    """All that took part in a composition, weakest first."""

    find_files: Callable[[], Sequence[ConfigFile]] = list
    """Called when there is an error to explain, and not before."""
    given: Sequence[Given] = ()

    def where(self, key: str) -> str:
        """` (in conf/x.yaml:3)` or ` (on the command line: lr=1)`, ready to be put after the message; or nothing."""
        key = normal(key)
        override = self._override(key)
        if override:
            return command_line(override.text)
        place = self.place(key)
        return f" (in {place})" if place else ""

    def value(self, key: str) -> str | None:
        """What the key was set to, as written."""
        key = normal(key)
        override = self._override(key)
        if override:
            return override.text.partition("=")[2] if override.key == key else None
        place = self.place(key)
        return place.value if place else None

    def place(self, key: str) -> Place | None:
        """The strongest file that sets the key."""
        key = normal(key)
        below = (place for other, place in self._places.items() if other.startswith(key + "."))
        return self._places.get(key) or next(below, None)

    def only(self, name: str) -> Origins:
        """The same, for one file alone."""
        return Origins(find_files=lambda: [file for file in self._files if file.name == name])

    def _override(self, key: str) -> Given | None:
        for override in reversed(self.given):
            if override.key == key or key.startswith(override.key + ".") or override.key.startswith(key + "."):
                return override
        return None

    @property
    def places(self) -> Mapping[str, Place]:
        """Every key that files set, with the strongest file that does."""
        return self._places

    @cached_property
    def _files(self) -> Sequence[ConfigFile]:
        return self.find_files()

    @cached_property
    def _places(self) -> dict[str, Place]:
        places: dict[str, Place] = {}
        for file in self._files:
            places.update(_read(file))
        return places


def command_line(text: str) -> str:
    """How a message names an override."""
    return f" (on the command line: {text})"


def shown(path: Path) -> str:
    """A path as people know it: relative to where they are, if it is below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def default_line(path: Path, group: str, option: str) -> int | None:
    """The line of a file's defaults list that names this option of this group."""
    root = _compose(path)
    for key, node in _items(root):
        if key == "defaults" and isinstance(node, yaml.SequenceNode):
            for entry in node.value:
                if (group, option) in _choices(entry):
                    return int(entry.start_mark.line) + 1
    return None


def _choices(entry: yaml.Node) -> list[tuple[str, str]]:
    """`override /optimizer@x: sgd` and `/optimizer/sgd` as (optimizer, sgd)."""
    if isinstance(entry, yaml.ScalarNode):
        group, _, option = str(entry.value).strip("/").rpartition("/")
        return [(group, option)]
    return [(key.split()[-1].strip("/").partition("@")[0], str(node.value)) for key, node in _items(entry)]


def _read(file: ConfigFile) -> Iterator[tuple[str, Place]]:
    root = _compose(file.path)
    if isinstance(root, yaml.ScalarNode):
        # OmegaConf takes a text alone for a key without a value.
        yield f"{file.package}.{root.value}".strip("."), Place(file=file, line=1, value=None)
    if isinstance(root, yaml.SequenceNode):
        yield file.package, Place(file=file, line=1, value="[...]")
    yield from _walk(file, root, file.package)


def _compose(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        # This is only ever asked in order to improve another message, which then stays as it is.
        return None


def _walk(file: ConfigFile, node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, Place]]:
    for key, child in _items(node):
        full = f"{prefix}.{key}" if prefix else key
        value = child.value if isinstance(child, yaml.ScalarNode) else None
        value = "[...]" if isinstance(child, yaml.SequenceNode) else value
        yield full, Place(file=file, line=_line(node, key), value=value)
        yield from _walk(file, child, full)


def _items(node: yaml.Node | None) -> Iterable[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield str(key.value), child
    elif isinstance(node, yaml.SequenceNode):
        for number, child in enumerate(node.value):
            yield str(number), child


def _line(node: yaml.Node | None, key: str) -> int:
    if isinstance(node, yaml.MappingNode):
        return next(int(name.start_mark.line) + 1 for name, _ in node.value if str(name.value) == key)
    if isinstance(node, yaml.SequenceNode):
        return int(node.value[int(key)].start_mark.line) + 1
    return 1

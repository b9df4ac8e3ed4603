"""Targets: the code that a config names. Only exact exports run, and only after the whole tree has been checked.

`check` looks at text alone and is safe on any machine; `bind` imports, and instantiates nothing.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator import paths
from orchestrator.config.targets import arguments, imports
from orchestrator.config.targets import exports as export_list
from orchestrator.errors import TargetError, did_you_mean, nearest

TARGET = "_target_"
REFUSED = ("_partial_", "_args_", "_recursive_", "_convert_")
"""Hydra's other instantiation keys: each would be a second way to say what runs."""

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_TEXT = re.compile(rf"(?P<module>{_NAME}):(?P<qualname>{_NAME})|(?P<dotted>{_NAME}\.[A-Za-z_]\w*)")

Where = Callable[[str], str]
"""From a dotted key to ` (in file:line)`, or nothing."""


def nowhere(key: str) -> str:
    """For when it is not known where settings come from."""
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One target in a config tree."""

    key: str
    """Where in the tree: `model._target_`."""
    text: str
    module: str
    qualname: str

    def __str__(self) -> str:
        return f"{self.key}={self.text}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A checked call that has not been made."""

    call: Callable[..., Any]
    arguments: Mapping[str, Any]
    """Plain values, and further nodes in them."""

    def build(self, **supplied: Any) -> Any:
        """Make the call, inner nodes first; each time anew."""
        return self.call(**{name: _built(value) for name, value in self.arguments.items()}, **supplied)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """All that a config names, imported and checked."""

    task_class: type[Any]
    model_node: Node
    data_node: Node

    def model(self) -> Any:
        """A new model."""
        return self.model_node.build()

    def data(self, split: str) -> Any:
        """The dataset of a split."""
        return self.data_node.build(split=split)

    def task(self, data: Callable[[str], Any] | None = None) -> Any:
        """The Task, with factories for model and data; `data`: one that is used in place of the config's."""
        return self.task_class(model=self.model, data=data or self.data)


# --- by text ---------------------------------------------------------------------------------------------------------


def check(tree: Mapping[str, Any], exports: Collection[str], where: Where = nowhere) -> None:
    """Refuse targets that are not exports, as far as their text tells; imports nothing."""
    for group in ("model", "data"):
        _refuse_special_keys(tree.get(group), group, where)
        if not (tree.get(group) or {}).get(TARGET):
            hint = f"Choose an option ({group}=...), or set {group}.{TARGET}=module:Name."
            raise TargetError(f"{group}.{TARGET} is not set{where(group)}.", hint)
    collect(tree, exports, where)


def collect(tree: Mapping[str, Any], exports: Collection[str], where: Where = nowhere) -> dict[str, Target]:
    """All targets of the tree by their keys; the first that may not run ends it."""
    return {key: _parse(key, text, exports, where) for key, text in list(_texts(tree, ""))}


def _texts(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            full = f"{prefix}{key}"
            if key == TARGET or full == "job.task":
                yield full, value
            else:
                yield from _texts(value, f"{full}.")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _texts(value, f"{prefix}{number}.")


def _parse(key: str, text: Any, exports: Collection[str], where: Where) -> Target:
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise TargetError(f"{key}={text} is not a target{where(key)}.", "Write it as module:Name.")
    splits = [(match["module"], match["qualname"])] if match["module"] else list(_splits(match["dotted"]))
    modules = _modules(exports)
    names = {export.rpartition(":")[2].rpartition(".")[2] for export in exports}
    for module, qualname in splits:
        if module in modules and qualname.rpartition(".")[2] in names:
            return Target(key=key, text=text, module=module, qualname=qualname)
    raise forbidden(f"{key}={text}", text, exports, where(key))


def _splits(dotted: str) -> Iterator[tuple[str, str]]:
    """`a.b.C` as a.b and C, then as a and b.C: the longest module first."""
    parts = dotted.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end]), ".".join(parts[end:])


def _modules(exports: Collection[str]) -> set[str]:
    """The modules of exports and the packages they are in: all that may be imported for a target's sake."""
    modules: set[str] = set()
    for export in exports:
        parts = export.partition(":")[0].split(".")
        modules.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return modules


def forbidden(what: str, text: str, exports: Collection[str], where: str) -> TargetError:
    """The error for a target that is no export."""
    if ":" not in text:
        text = ":".join(text.rsplit(".", 1))
    close = nearest(text, sorted(exports))[:3]
    near = f"Nearest: {', '.join(close)}. " if close else ""
    hint = f'{near}To allow code of your own, list it in pyproject.toml: [tool.orchestrator] exports = ["{text}"].'
    return TargetError(f"{what} is not an allowed target{where}.", hint)


def _refuse_special_keys(node: Any, prefix: str, where: Where) -> None:
    for key, value in _children(node):
        full = f"{prefix}.{key}"
        if key in REFUSED:
            hint = f"Beside {TARGET}, write the callable's arguments by name."
            raise TargetError(f"{full} is not supported{where(full)}.", hint)
        _refuse_special_keys(value, full, where)


def _children(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return [(str(key), value) for key, value in node.items()]
    if isinstance(node, list | tuple):
        return [(str(number), value) for number, value in enumerate(node)]
    return []


# --- by import -------------------------------------------------------------------------------------------------------


def bind(
    tree: Mapping[str, Any],
    exports: Collection[str] | None = None,
    project: Path | None = None,
    where: Where = nowhere,
) -> Bound:
    """Import all targets of the tree and check their arguments. Nothing is called before everything is right."""
    project = project or paths.project_dir()
    exports = export_list.allowed(project) if exports is None else exports
    check(tree, exports, where)
    _make_importable(project)
    objects = {key: _resolve(target, exports, project, where) for key, target in collect(tree, exports, where).items()}
    return Bound(
        task_class=_task_class(tree, objects, where),
        model_node=_node(tree["model"], "model", objects, where),
        data_node=_node(tree["data"], "data", objects, where, supplied=("split",)),
    )


def _make_importable(project: Path) -> None:
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))


def _resolve(target: Target, exports: Collection[str], project: Path, where: Where) -> Any:
    module = imports.load_module(target.module, str(target), project, where(target.key))
    found = _walk(module, target, exports, where)
    name = identity(found)
    if name not in exports or _at(name) != found:
        what = f"{target} resolves to {name}, which" if name and name != target.text else str(target)
        raise forbidden(what, name or target.text, exports, where(target.key))
    return found


def _walk(module: ModuleType, target: Target, exports: Collection[str], where: Where) -> Any:
    """Follow the name through modules and classes only, so that nothing but attribute look-up happens."""
    node: Any = module
    for part in target.qualname.split("."):
        if not isinstance(node, ModuleType | type):
            raise forbidden(str(target), target.text, exports, where(target.key))
        if not hasattr(node, part):
            known = [name for name in vars(node) if not name.startswith("_")]
            owner = getattr(node, "__name__", target.module)
            raise TargetError(f"{target}: {owner} has no {part}{where(target.key)}.", did_you_mean(part, known))
        node = getattr(node, part)
    return node


def identity(found: Any) -> str:
    """`module:Qualname` of where an object was defined; empty if it does not say."""
    owner = getattr(found, "__self__", None) if inspect.ismethod(found) else None
    if isinstance(owner, type):
        # A class method belongs to the class it is reached by, not to the one that defines it.
        return f"{owner.__module__}:{owner.__qualname__}.{found.__name__}"
    module, qualname = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return f"{module}:{qualname}" if isinstance(module, str) and isinstance(qualname, str) else ""


def _at(name: str) -> Any:
    """What stands at an identity: an object may claim another's name."""
    module, _, qualname = name.partition(":")
    node: Any = sys.modules.get(module)
    for part in qualname.split("."):
        node = getattr(node, part, None)
    return node


def _task_class(tree: Mapping[str, Any], objects: Mapping[str, Any], where: Where) -> type[Any]:
    key = "job.task"
    found = objects.get(key)
    if not isinstance(found, type) or not callable(getattr(found, "loss", None)):
        hint = "A Task is a class with a method loss(model, batch): see orchestrator.task."
        raise TargetError(f"{key}={(tree.get('job') or {}).get('task')} is not a Task{where(key)}.", hint)
    return found


def _node(
    tree: Mapping[str, Any], key: str, objects: Mapping[str, Any], where: Where, supplied: Collection[str] = ()
) -> Node:
    call = objects[f"{key}.{TARGET}"]
    if not callable(call):
        raise TargetError(f"{key}.{TARGET}={tree[TARGET]} cannot be called{where(f'{key}.{TARGET}')}.")
    values = {name: _nodes(value, f"{key}.{name}", objects, where) for name, value in tree.items() if name != TARGET}
    checked = arguments.check(call, values, at=arguments.At(key, str(tree[TARGET]), where), supplied=supplied)
    return Node(call=call, arguments=checked)


def _nodes(value: Any, key: str, objects: Mapping[str, Any], where: Where) -> Any:
    if isinstance(value, Mapping):
        if TARGET in value:
            return _node(value, key, objects, where)
        return {name: _nodes(inner, f"{key}.{name}", objects, where) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_nodes(inner, f"{key}.{number}", objects, where) for number, inner in enumerate(value)]
    return value


def _built(value: Any) -> Any:
    """Values with their nodes built; containers are new ones, so that no two objects share them."""
    if isinstance(value, Node):
        return value.build()
    if isinstance(value, dict):
        return {name: _built(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_built(inner) for inner in value)
    return value

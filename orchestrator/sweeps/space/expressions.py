"""Conditions in a search space: `optimizer.name == 'sgd' and batch * model.width <= 4096`. Nothing else can be said."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from orchestrator.errors import ConfigError

Lookup = Callable[[str], Any]
"""From a dotted key to its value; KeyError when there is none."""

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
CONSTANTS = {"true": True, "false": False, "null": None}
HINT = "Use keys, numbers, texts, lists, + - * / // %, comparisons, `in`, and, or, not."


class Expression:
    """One condition, read and checked once."""

    def __init__(self, text: str, where: str) -> None:
        """`where`: how messages name the place it stands at."""
        self.text = text
        self._where = where
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ConfigError(f"{where}: {text!r} is not a condition: {error.msg}.", HINT) from error
        self.keys = tuple(dict.fromkeys(self._names(self._tree)))
        """The dotted keys that it speaks of."""

    def holds(self, lookup: Lookup) -> bool:
        """Whether it is true of these values."""
        try:
            return bool(self._value(self._tree, lookup))
        except KeyError as error:
            raise ConfigError(f"{self._where}: {self.text!r} speaks of {error.args[0]}, which is not there.") from error
        except (TypeError, ZeroDivisionError) as error:
            raise ConfigError(f"{self._where}: {self.text!r} cannot be worked out: {error}.") from error

    def _names(self, node: ast.AST) -> list[str]:
        """All keys below a node; refuses what is no condition."""
        if isinstance(node, ast.Name | ast.Attribute):
            key = self._key(node)
            return [] if key in CONSTANTS else [key]
        if not isinstance(node, _KNOWN):
            raise ConfigError(f"{self._where}: {ast.unparse(node)!r} has no place in a condition.", HINT)
        return [name for child in ast.iter_child_nodes(node) for name in self._names(child)]

    def _key(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._key(node.value)}.{node.attr}"
        raise ConfigError(f"{self._where}: {ast.unparse(node)!r} is not a key.", HINT)

    def _value(self, node: ast.AST, lookup: Lookup) -> Any:
        if isinstance(node, ast.Name | ast.Attribute):
            key = self._key(node)
            return CONSTANTS[key] if key in CONSTANTS else lookup(key)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.List | ast.Tuple):
            return [self._value(item, lookup) for item in node.elts]
        if isinstance(node, ast.BinOp):
            return _BINARY[type(node.op)](self._value(node.left, lookup), self._value(node.right, lookup))
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, lookup)
            return not value if isinstance(node.op, ast.Not) else -value
        if isinstance(node, ast.BoolOp):
            found = (bool(self._value(item, lookup)) for item in node.values)
            return all(found) if isinstance(node.op, ast.And) else any(found)
        return self._comparison(node, lookup)

    def _comparison(self, node: ast.AST, lookup: Lookup) -> bool:
        if not isinstance(node, ast.Compare):
            raise TypeError(f"{ast.unparse(node)} has no value")
        left = self._value(node.left, lookup)
        for compare, other in zip(node.ops, node.comparators, strict=True):
            right = self._value(other, lookup)
            if not _COMPARE[type(compare)](left, right):
                return False
            left = right
        return True


_KNOWN = (
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Load,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.Not,
    ast.USub,
    ast.And,
    ast.Or,
    *_BINARY,
    *_COMPARE,
)

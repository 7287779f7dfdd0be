"""Behaviour half: which trajectories an expression chooses, such as ``success and length < 9``.

The expression is parsed and walked; nothing is evaluated by Python, and whatever is not listed
here is refused. Columns: ``task``, ``family``, ``behaviour``, ``source`` (texts); ``success``,
``faulted``, ``truncated``, ``outcome``, ``train`` (yes or no); ``total_return``, ``length``
(steps), ``attempt`` (from 0), ``age`` (days since it was recorded; no comparison but ``!=`` holds
where that is unknown), ``policy_version`` (none = -1) and ``staleness`` (policy versions behind the
store's newest; none = infinite). Operators: comparisons, ``in`` a list, ``and``, ``or``, ``not``,
``+ - * /``, and ``like(family, "babyai/*")``.
"""

from __future__ import annotations

import ast
import fnmatch
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from retro_lightning.replay.index import Mask, StoreIndex

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LONGEST = 1000
_DAY = 86400.0


@dataclass(frozen=True)
class _Texts:
    """A text column: codes into names."""

    codes: np.ndarray
    names: tuple[str, ...]

    def where(self, holds: Callable[[str], bool]) -> Mask:
        chosen = np.array([holds(name) for name in self.names], dtype=np.bool_)
        return chosen[self.codes] if len(chosen) else np.zeros(len(self.codes), np.bool_)


def choose(expression: str, index: StoreIndex, now: float | None = None) -> Mask:
    """Mask over the index of the rows for which the expression holds.

    Args:
        expression: The expression.
        index: The index.
        now: Time from which ages are counted, in seconds since 1970; None = the present.

    Raises:
        ValueError: If the expression is none of this language; the message says where.
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"the expression is longer than {_LONGEST} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the expression {expression!r} cannot be read: {error}") from None
    columns = _columns(index, time.time() if now is None else now)
    with np.errstate(all="ignore"):
        result = _value(tree.body, columns)
    if isinstance(result, bool | np.bool_):
        return np.full(len(index), bool(result))
    if not isinstance(result, np.ndarray) or result.dtype != np.bool_:
        raise ValueError(f"the expression {expression!r} is no yes or no: compare with something")
    return result


def _columns(index: StoreIndex, now: float) -> dict[str, Any]:
    version = index.policy_version
    staleness = np.where(version >= 0, version.max(initial=-1) - version, np.inf)
    return {
        "task": _Texts(index.task_id, index.task_ids),
        "family": _Texts(index.family, index.families),
        "behaviour": _Texts(index.behaviour, index.behaviours),
        "source": _Texts(index.source, index.sources),
        "success": index.success,
        "faulted": index.faulted,
        "truncated": index.truncated,
        "outcome": (index.length == 0) & ~index.faulted,
        "train": index.is_train,
        "total_return": index.returns,
        "length": index.length,
        "attempt": index.attempt,
        "age": (now - index.recorded_at) / _DAY,
        "policy_version": version,
        "staleness": staleness,
    }


def _value(node: ast.expr, columns: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str()):
            return node.value
        case ast.Name():
            if node.id not in columns:
                raise ValueError(f"there is no column {node.id!r}; known: {', '.join(columns)}")
            return columns[node.id]
        case ast.List() | ast.Tuple() | ast.Set():
            return [_constant(part) for part in node.elts]
        case ast.BoolOp():
            masks = [_mask(_value(part, columns), part) for part in node.values]
            joined = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return joined.reduce(np.broadcast_arrays(*masks))
        case ast.UnaryOp(op=ast.Not()):
            return ~_mask(_value(node.operand, columns), node.operand)
        case ast.UnaryOp(op=ast.USub()):
            return -_number(_value(node.operand, columns), node)
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            sides = (_number(_value(side, columns), side) for side in (node.left, node.right))
            return _ARITHMETIC[type(node.op)](*sides)
        case ast.Compare():
            return _comparison(node, columns)
        case ast.Call(func=ast.Name(id="like"), args=[column, ast.Constant(value=str(pattern))]):
            texts = _value(column, columns)
            if isinstance(texts, _Texts) and not node.keywords:
                return texts.where(lambda name: fnmatch.fnmatchcase(name, pattern))
    raise ValueError(f"{ast.unparse(node)!r} is not allowed here; see docs/replay.md")


def _comparison(node: ast.Compare, columns: dict[str, Any]) -> Any:
    left, result = _value(node.left, columns), None
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, columns)
        one = _compared(left, op, right, node)
        result = one if result is None else np.logical_and(result, one)
        left = right
    return result


def _compared(left: Any, op: ast.cmpop, right: Any, node: ast.Compare) -> Any:
    if isinstance(right, _Texts) and isinstance(op, ast.Eq | ast.NotEq):
        left, right = right, left
    if isinstance(op, ast.In | ast.NotIn) and isinstance(right, list):
        known = set(right)
        if isinstance(left, _Texts):
            found = left.where(lambda name: name in known)
        else:
            wanted = [value for value in known if not isinstance(value, str)]
            found = np.isin(left, wanted)
        return found if isinstance(op, ast.In) else ~found
    if isinstance(left, _Texts) and isinstance(right, str) and type(op) in _COMPARE:
        return left.where(lambda name: _COMPARE[type(op)](name, right))
    if type(op) in _COMPARE:
        return _COMPARE[type(op)](_number(left, node), _number(right, node))
    raise ValueError(f"{ast.unparse(node)!r}: these cannot be compared")


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(_constant(node.operand), node)
    raise ValueError(f"{ast.unparse(node)!r}: a list may hold texts and numbers only")


def _number(value: Any, node: ast.expr) -> Any:
    if isinstance(value, np.ndarray | bool | int | float | np.number):
        return np.asarray(value, dtype=np.float64)
    raise ValueError(f"{ast.unparse(node)!r}: a number is needed here")


def _mask(value: Any, node: ast.expr) -> Any:
    if isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == np.bool_:
        return np.asarray(value)
    raise ValueError(f"{ast.unparse(node)!r} is no yes or no: compare it with something")

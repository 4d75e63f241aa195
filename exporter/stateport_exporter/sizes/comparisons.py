# SPDX-License-Identifier: Apache-2.0
"""The sizes that a network compares, and where: seen by a run on tensors of symbolic sizes.

A run at a few sizes does not show the sizes at which forward would take another way. But it chooses
every way by a comparison, and on symbolic sizes PyTorch knows each comparison as an expression, as
`time > 1000` or `Eq(Mod(time, 977), 0)`. From the expression follow the sizes at which it turns.
The step numbers of loops over `range` and `enumerate` are symbolic as well.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import FrameType
from typing import Any, Final

import numpy as np
import sympy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import recording, sym_node, symbolic_shapes
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils import _pytree as pytree

from stateport.picking import map_values

from ..capture.recorders import opaque_layers
from ..memory.kept import authored, constants_in, names_in, replaced_builtins, slots
from ..network.blame import Line, author_line, is_authors
from ..network.example import Example
from ..network.isolation import evaluation_twin, quiet, unchanged_globals

Array = NDArray[Any]

#: Up to this size every size is examined; beyond it only powers of two.
_DENSE: Final = 1 << 14
_GRID: Final[Array] = np.concatenate(
    [np.arange(1, _DENSE + 1), 2 ** np.arange(15, 41, dtype=np.int64)]
)
#: A number from here on in the author's code counts no steps.
_MOST_STEPS: Final = 1 << 20
#: The number of items of a container that are examined.
_MOST_ITEMS: Final = 64
_RELATIONS: Final = (sympy.core.relational.Relational, sympy.logic.boolalg.BooleanFunction)
#: The axis whose sizes are step numbers.
STEP: Final = "step"
#: The files in which PyTorch has the operators of symbolic sizes.
_OPERATORS: Final = frozenset(
    module.__file__ for module in (torch, sym_node, symbolic_shapes, recording)
)


@dataclass(frozen=True)
class Comparison:
    """A comparison of sizes, and the author's line that makes it.

    Attributes:
        expression: a relation in sympy.
        axes: the symbols in it -> the axes that they are the sizes of.
        line: the author's line.
        direct: whether the author's code itself compares, not PyTorch on its behalf.
    """

    expression: Any
    axes: Mapping[Any, str]
    line: Line | None
    direct: bool

    def holds(self, sizes: Mapping[str, Any]) -> Any:
        """Whether it holds at these sizes, each a number or an array.

        Raises:
            KeyError: the expression has an operation that is not known here.
        """
        with np.errstate(all="ignore"):
            values = {symbol: sizes[axis] for symbol, axis in self.axes.items()}
            return _value(self.expression, values)


@dataclass(frozen=True)
class Turn:
    """The smallest sizes at which a comparison has another outcome than at all tried sizes."""

    axis: str
    sizes: Mapping[str, int]
    line: Line | None
    direct: bool

    @property
    def size(self) -> int:
        """The size of the axis along which it turns."""
        return self.sizes[self.axis]


def turns(
    comparison: Comparison, tried: Mapping[str, Sequence[int]], multiple: int = 1
) -> Iterator[Turn]:
    """Where a comparison turns along each of its axes.

    Args:
        comparison: the comparison.
        tried: the sizes of each axis that are tried anyway.
        multiple: the number of steps of which time can only be a multiple.
    """
    axes = {*comparison.axes.values()}

    for axis in sorted(axes):
        for fixed in _fixed_sizes(axes - {axis}, tried):
            size = _first_turn(comparison, fixed, axis, tried[axis], multiple)
            if size is not None:
                yield Turn(axis, {**fixed, axis: size}, comparison.line, comparison.direct)


def _fixed_sizes(
    axes: Iterable[str], tried: Mapping[str, Sequence[int]]
) -> Iterator[dict[str, int]]:
    """Sizes of some axes, so that each tried size of each axis occurs."""
    count = max((len(tried[axis]) for axis in axes), default=1)
    for number in range(count):
        sizes = {}
        for axis in axes:
            sizes[axis] = tried[axis][number % len(tried[axis])]
        yield sizes


def _first_turn(
    comparison: Comparison,
    fixed: Mapping[str, int],
    axis: str,
    tried: Sequence[int],
    multiple: int,
) -> int | None:
    """The first size at which the outcome is another than at all tried sizes, if there is one."""
    grid = _GRID * multiple if axis == "time" else _GRID
    try:
        tried_outcomes = {bool(comparison.holds({**fixed, axis: size})) for size in tried}
        outcomes = np.broadcast_to(comparison.holds({**fixed, axis: grid}), grid.shape)
    except KeyError:  # an operation of PyTorch's that is not known here
        return None

    turned = np.flatnonzero(outcomes.astype(bool) != next(iter(tried_outcomes)))
    if len(tried_outcomes) > 1 or not len(turned):
        return None

    first = turned[0]
    after = int(grid[first])
    if first < _DENSE:
        return after

    def is_turned(size: int) -> bool:
        return bool(comparison.holds({**fixed, axis: size})) not in tried_outcomes

    return bisect(int(grid[first - 1]), after, is_turned)


def bisect(before: int, after: int, holds: Callable[[int], bool]) -> int:
    """The first number for which something holds: above `before`, where it does not yet.

    It holds for `after`, and changes once between both.
    """
    while after - before > 1:
        middle = (before + after) // 2
        if holds(middle):
            after = middle
        else:
            before = middle
    return after


def compared(
    network: nn.Module, method: str, example: Example, sizes: Mapping[str, int]
) -> list[Comparison]:
    """The comparisons of sizes that a network makes when it runs at these sizes.

    They end where forward does what tensors of symbolic sizes do not support.
    """
    arguments = example.make(sizes)
    leaves, structure = pytree.tree_flatten((arguments.args, arguments.kwargs))
    recorder = _RecordingShapes()
    with unchanged_globals(0), quiet(), torch.no_grad():
        twin = evaluation_twin(network)
        with (
            FakeTensorMode(shape_env=recorder, allow_non_fake_inputs=True),
            enable_python_dispatcher(),
            contextlib.suppress(Exception, SystemExit),  # another run shows whether forward fails
            replaced_builtins(twin, _counting_functions(recorder)),
            opaque_layers(twin),
        ):
            symbolic = {name: recorder.size(name, sizes[name]) for name in sizes}
            args, kwargs = pytree.tree_unflatten(_fake(leaves, example, symbolic), structure)
            getattr(twin, method)(*args, **kwargs)

    return [*recorder.comparisons.values()]


def largest_mentioned(network: nn.Module) -> int:
    """The largest number in the author's code, as a constant, an attribute or a global.

    Lengths of lists and of tables count too. Code may count steps up to it without a comparison
    that is seen.
    """
    functions = authored(network).functions

    codes = []
    for function in functions:
        if function.__name__ != "__init__":
            codes.append(function.__code__)

    names = frozenset[str]().union(*map(names_in, codes))

    values = list(chain.from_iterable(map(constants_in, codes)))
    values += [slot.value for slot in slots(network).values() if slot.key in names]
    return max(map(_number, values), default=0)


def _number(value: Any) -> int:
    """A number of steps that a value may stand for; 0 if there is none."""
    if isinstance(value, int | float):
        if abs(value) < _MOST_STEPS:
            return int(value)
        return 0
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return max(value.shape, default=0)
    if isinstance(value, list | tuple | set | dict):
        items = [*value][:_MOST_ITEMS]
        return max([len(value), *map(_number, items)])

    return 0


def _fake(
    leaves: Sequence[Any], example: Example, sizes: Mapping[str, torch.SymInt]
) -> Iterator[Any]:
    """The leaves of the arguments, with empty tensors of symbolic sizes in place of tensors."""
    shapes = iter(example.leaves)

    for leaf in leaves:
        if isinstance(leaf, Tensor):
            shape: Iterable[Any] = next(shapes).shape
            shape_there = [sizes.get(axis, axis) for axis in shape]
            yield torch.empty(shape_there, dtype=leaf.dtype)
        else:
            yield leaf


class _RecordingShapes(ShapeEnv):
    """Records every question about a size, and answers it for the sizes of this run.

    PyTorch's class would fix a size that a loop runs over, and forget the questions after that.
    """

    def __init__(self) -> None:
        super().__init__(specialize_zero_one=False, duck_shape=False)
        self.hints: dict[Any, Any] = {}
        self.axes: dict[Any, str] = {}
        self.comparisons: dict[Any, Comparison] = {}

    def size(self, axis: str, size: int) -> Any:
        """A symbolic size of an axis."""
        source = ConstantSource(f"{axis}{len(self.hints)}")
        symbol = self.create_symbol(
            size, source=source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None
        )
        self.hints[symbol], self.axes[symbol] = size, axis
        return self.create_symintnode(symbol, hint=size, source=source)

    def evaluate_expr(self, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        """The answer to a relation, or the value of an expression that is used as a number."""
        symbols = orig_expr.free_symbols
        if not symbols <= self.hints.keys():
            return super().evaluate_expr(orig_expr, *args, **kwargs)

        if symbols:
            self._record(orig_expr)
        return sympy.sympify(orig_expr.xreplace(self.hints))

    def _record(self, expression: Any) -> None:
        line, direct = author_line(), _is_direct()
        for relation in _relations(expression):
            axes = {symbol: self.axes[symbol] for symbol in relation.free_symbols}
            # Every step has another symbol, but its comparisons are the same.
            axis_symbols = map_values(sympy.Symbol, axes)
            key = relation.xreplace(axis_symbols)
            self.comparisons.setdefault((key, line), Comparison(relation, axes, line, direct))


def _relations(expression: Any) -> Iterator[Any]:
    """The relations in an expression: itself, and those that choose a maximum or minimum."""
    if isinstance(expression, _RELATIONS):
        yield expression

    for part in sympy.preorder_traversal(expression):
        if type(part).__name__ in ("Max", "Min"):
            first, *operands = part.args
            for operand in operands:
                yield sympy.Le(first, operand, evaluate=False)


def _is_direct() -> bool:
    """Whether the author's code itself compares, only through the operators of a size."""
    # The caller of `evaluate_expr`, which calls `_record`, which calls this.
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code.co_filename in _OPERATORS:
        frame = frame.f_back
    return frame is not None and is_authors(frame.f_code.co_filename)


def _counting_functions(recorder: _RecordingShapes) -> dict[str, Callable[..., Any]]:
    """`range`, `enumerate` and `len` that give symbolic numbers."""

    def symbolic(number: int) -> Any:
        if number >= 0:
            return recorder.size(STEP, number)
        return number

    def count(*bounds: Any) -> Iterator[Any]:
        return map(symbolic, range(*map(operator.index, bounds)))

    def count_items(items: Iterable[Any], start: int = 0) -> Iterator[Any]:
        return ((symbolic(number), item) for number, item in enumerate(items, start))

    def length(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
        return len(value)

    return {"range": count, "enumerate": count_items, "len": length}


def _value(expression: Any, values: Mapping[Any, Any]) -> Any:
    """The value of an expression for these values of its symbols.

    Raises:
        KeyError: it has an operation that is not known here.
    """
    if expression in values:
        return values[expression]

    if not expression.args:
        if expression in (sympy.true, sympy.false):
            return bool(expression)
        return float(expression)

    operands = [_value(operand, values) for operand in expression.args]
    return _OPERATIONS[type(expression).__name__](*operands)


def _every(operation: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *operands: functools.reduce(operation, operands)


#: The operations in expressions of sizes, by the names of their classes in sympy and PyTorch.
_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "Add": _every(operator.add),
    "Mul": _every(operator.mul),
    "Max": _every(np.maximum),
    "Min": _every(np.minimum),
    "And": _every(np.logical_and),
    "Or": _every(np.logical_or),
    "Not": np.logical_not,
    "Equality": np.equal,
    "Unequality": np.not_equal,
    "StrictGreaterThan": np.greater,
    "GreaterThan": np.greater_equal,
    "StrictLessThan": np.less,
    "LessThan": np.less_equal,
    "CeilDiv": lambda a, b: -np.floor_divide(-a, b),
    **dict.fromkeys(("Pow", "PowByNatural", "FloatPow"), np.power),
    **dict.fromkeys(("Mod", "PythonMod"), np.mod),
    **dict.fromkeys(("FloorDiv", "CleanDiv"), np.floor_divide),
    **dict.fromkeys(("IntTrueDiv", "FloatTrueDiv"), np.true_divide),
    **dict.fromkeys(("ToFloat", "Identity"), np.positive),
    **dict.fromkeys(("TruncToInt", "TruncToFloat"), np.trunc),
    "FloorToInt": np.floor,
    "CeilToInt": np.ceil,
    "RoundToInt": np.round,
    "Abs": np.abs,
    "Where": np.where,
    "OpaqueUnaryFn_sqrt": np.sqrt,
    "OpaqueUnaryFn_log2": np.log2,
}

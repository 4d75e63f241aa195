"""Which sizes a network compares with what, and where: seen by a run on tensors of symbolic sizes.

What is run at a few sizes says nothing of sizes at which forward would take another way. But every
way is taken by a comparison, and on symbolic sizes PyTorch knows each one as an expression, as
`time > 1000` or `Eq(Mod(time, 977), 0)`. Such an expression tells at which sizes it turns. The
numbers of steps in loops over `range` and `enumerate` are symbolic as well.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

from ..capture.recorders import opaque_layers
from ..memory.kept import authored, constants_in, names_in, slots
from ..network.blame import Line, author_line, is_authors
from ..network.example import Example
from ..network.isolation import evaluation_twin, quiet, unchanged_globals

Array = NDArray[Any]

#: Up to here every size is looked at; beyond it powers of two.
_DENSE: Final = 1 << 14
_GRID: Final[Array] = np.concatenate(
    [np.arange(1, _DENSE + 1), 2 ** np.arange(15, 41, dtype=np.int64)]
)
#: A larger number in the author's code counts no steps; and so many items of a list are looked at.
_MOST_STEPS, _MOST_ITEMS = 1 << 20, 64
#: The axis that the numbers of steps are sizes of.
STEP: Final = "step"
#: Where PyTorch has the operators of symbolic sizes.
_OPERATORS: Final = frozenset(
    module.__file__ for module in (torch, sym_node, symbolic_shapes, recording)
)


@dataclass(frozen=True)
class Comparison:
    """A comparison of sizes, and the author's line that makes it.

    `axes` are those that its symbols are the sizes of. `direct` says that the author's code itself
    makes it, and not PyTorch on its behalf.
    """

    expression: Any
    axes: Mapping[Any, str]
    line: Line | None
    direct: bool

    def holds(self, sizes: Mapping[str, Any]) -> Any:
        """What it says at these sizes, each a number or an array; KeyError where nobody knows."""
        with np.errstate(all="ignore"):
            values = {symbol: sizes[axis] for symbol, axis in self.axes.items()}
            return _value(self.expression, values)


@dataclass(frozen=True)
class Turn:
    """The smallest sizes at which a comparison says what it says at none that are tried."""

    axis: str
    sizes: Mapping[str, int]
    line: Line | None
    direct: bool

    @property
    def size(self) -> int:
        """The size of the axis that turns."""
        return self.sizes[self.axis]


def turns(
    comparison: Comparison, tried: Mapping[str, Sequence[int]], multiple: int = 1
) -> Iterator[Turn]:
    """Where it turns along each of its axes; `tried` has the sizes of each that are tried.

    Of time, multiples of a number of steps are looked at alone.
    """
    for axis in sorted({*comparison.axes.values()}):
        others = {*comparison.axes.values()} - {axis}
        for number in range(max((len(tried[name]) for name in others), default=1)):
            fixed = {name: tried[name][number % len(tried[name])] for name in others}
            size = _turn(comparison, fixed, axis, tried[axis], multiple)
            if size is not None:
                yield Turn(axis, {**fixed, axis: size}, comparison.line, comparison.direct)


def _turn(
    comparison: Comparison,
    fixed: Mapping[str, int],
    axis: str,
    tried: Sequence[int],
    multiple: int,
) -> int | None:
    """The first size at which it comes out as at no size that is tried, if there is one."""
    grid = _GRID * multiple if axis == "time" else _GRID
    try:
        seen = {bool(comparison.holds({**fixed, axis: size})) for size in tried}
        outcomes = np.broadcast_to(comparison.holds({**fixed, axis: grid}), grid.shape)
    except KeyError:  # an operation of PyTorch's that is not known here
        return None
    others = np.flatnonzero(outcomes.astype(bool) != next(iter(seen)))
    if len(seen) > 1 or not len(others):
        return None
    after, before = int(grid[others[0]]), int(grid[max(others[0] - 1, 0)])
    while others[0] >= _DENSE and after - before > 1:
        middle = (before + after) // 2
        turned = bool(comparison.holds({**fixed, axis: middle})) not in seen
        before, after = (before, middle) if turned else (middle, after)
    return after


def compared(
    network: nn.Module, method: str, example: Example, sizes: Mapping[str, int]
) -> list[Comparison]:
    """The comparisons of sizes that a network makes on its way at these sizes.

    What it does that cannot be run so ends the list.
    """
    arguments = example.make(sizes)
    leaves, structure = pytree.tree_flatten((arguments.args, arguments.kwargs))
    asking = _Asking()
    with unchanged_globals(0), quiet(), torch.no_grad():
        twin = evaluation_twin(network)
        with (
            FakeTensorMode(shape_env=asking, allow_non_fake_inputs=True),
            enable_python_dispatcher(),
            contextlib.suppress(Exception, SystemExit),  # it is run as it is elsewhere
            _counted(twin, asking),
            opaque_layers(twin),
        ):
            symbolic = {name: asking.size(name, sizes[name]) for name in sizes}
            args, kwargs = pytree.tree_unflatten(_fake(leaves, example, symbolic), structure)
            getattr(twin, method)(*args, **kwargs)
    return [*asking.asked.values()]


def largest_mentioned(network: nn.Module) -> int:
    """The largest number that the author's code mentions, itself or by an attribute or global.

    Lengths of lists and of tables are among them. Steps may be counted up to it unseen.
    """
    functions = [one for one in authored(network).functions if one.__name__ != "__init__"]
    values = [value for one in functions for value in constants_in(one.__code__)]
    names = {name for one in functions for name in names_in(one.__code__)}
    values += [slot.value for slot in slots(network).values() if slot.key in names]
    return max((_number(value) for value in values), default=0)


def _number(value: Any) -> int:
    if isinstance(value, int | float):
        return int(value) if abs(value) < _MOST_STEPS else 0
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return max(value.shape, default=0)
    if isinstance(value, list | tuple | set | dict):
        return max([len(value), *(_number(each) for each in [*value][:_MOST_ITEMS])])
    return 0


def _fake(
    leaves: Sequence[Any], example: Example, sizes: Mapping[str, torch.SymInt]
) -> Iterator[Any]:
    shapes = iter(example.leaves)
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            shape: Iterable[Any] = next(shapes).shape
            yield torch.empty([sizes.get(axis, axis) for axis in shape], dtype=leaf.dtype)
        else:
            yield leaf


class _Asking(ShapeEnv):
    """Keeps every question about a size, and answers it as at the sizes at hand.

    PyTorch's own would fix a size that a loop runs over, and forget the questions behind that.
    """

    def __init__(self) -> None:
        super().__init__(specialize_zero_one=False, duck_shape=False)
        self.hints: dict[Any, Any] = {}
        self.axes: dict[Any, str] = {}
        self.asked: dict[Any, Comparison] = {}

    def size(self, axis: str, size: int) -> Any:
        """A symbolic size of an axis."""
        source = ConstantSource(f"{axis}{len(self.hints)}")
        symbol = self.create_symbol(
            size, source=source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None
        )
        self.hints[symbol], self.axes[symbol] = size, axis
        return self.create_symintnode(symbol, hint=size, source=source)

    def evaluate_expr(self, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        """What is asked: a relation, or a number that is wanted as it is."""
        symbols = orig_expr.free_symbols
        if not symbols <= self.hints.keys():
            return super().evaluate_expr(orig_expr, *args, **kwargs)
        if symbols:
            self._note(orig_expr)
        return sympy.sympify(orig_expr.xreplace(self.hints))

    def _note(self, expression: Any) -> None:
        relations = [expression] if _is_relation(expression) else []
        for part in sympy.preorder_traversal(expression):
            if type(part).__name__ in ("Max", "Min"):
                relations += [
                    sympy.Le(part.args[0], other, evaluate=False) for other in part.args[1:]
                ]
        line, direct = author_line(), _is_direct()
        for relation in relations:
            axes = {symbol: self.axes[symbol] for symbol in relation.free_symbols}
            key = relation.xreplace({symbol: sympy.Symbol(axis) for symbol, axis in axes.items()})
            self.asked.setdefault((key, line), Comparison(relation, axes, line, direct))


def _is_relation(expression: Any) -> bool:
    kinds = (sympy.core.relational.Relational, sympy.logic.boolalg.BooleanFunction)
    return isinstance(expression, kinds)


def _is_direct() -> bool:
    """Whether the author's code itself asks, through nothing but the operators of a size."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and frame.f_code.co_filename in _OPERATORS:
        frame = frame.f_back
    return frame is not None and is_authors(frame.f_code.co_filename)


@contextlib.contextmanager
def _counted(network: nn.Module, asking: _Asking) -> Iterator[None]:
    """`range`, `enumerate` and `len` give symbolic numbers wherever the author calls them."""

    def symbolic(number: int) -> Any:
        return asking.size(STEP, number) if number >= 0 else number

    def count(*bounds: Any) -> Iterator[Any]:
        return map(symbolic, range(*map(operator.index, bounds)))

    def count_items(items: Iterable[Any], start: int = 0) -> Iterator[Any]:
        return ((symbolic(number), item) for number, item in enumerate(items, start))

    def length(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) and value.ndim else len(value)

    counting = {"range": count, "enumerate": count_items, "len": length}
    replaced: list[tuple[dict[str, Any], str]] = []
    try:
        for function in authored(network).functions:
            for name, other in counting.items():
                names = function.__globals__
                if name in names_in(function.__code__) and name not in names:
                    names[name] = other
                    replaced.append((names, name))
        yield
    finally:
        for names, name in replaced:
            del names[name]


def _value(expression: Any, values: Mapping[Any, Any]) -> Any:
    """What an expression is for these values of its symbols; KeyError where nobody knows."""
    if expression in values:
        return values[expression]
    if not expression.args:
        return bool(expression) if expression in (sympy.true, sympy.false) else float(expression)
    operands = [_value(operand, values) for operand in expression.args]
    return _OPERATIONS[type(expression).__name__](*operands)


def _every(operation: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *operands: functools.reduce(operation, operands)


#: What PyTorch writes sizes with: sympy's operations and its own, by the names of their classes.
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

"""Running a network on tensors of symbolic sizes, to see which sizes it compares, and where."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Final

import numpy as np
import sympy
import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import recording, sym_node, symbolic_shapes
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils import _pytree as pytree

from ..blame import author_line, is_authors
from ..example import Example
from ..guard import evaluation_twin, quiet, unchanged_globals
from ..recording import recorded_layers
from .comparisons import Comparison, comparison_of
from .counting import counted
from .foreseen import GRID, Watch

#: Where PyTorch has the operators of symbolic sizes.
_OPERATORS: Final = frozenset(
    module.__file__ for module in (torch, sym_node, symbolic_shapes, recording)
)


class _Recording(ShapeEnv):
    """Keeps every question about a size, and answers it as at the sizes at hand.

    PyTorch's own would fix a size that a loop runs over, and forget the questions behind that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hints: dict[Any, Any] = {}
        self.axes: dict[Any, str] = {}
        self.asked: dict[Any, Comparison] = {}

    def axis(self, name: str, size: int) -> Any:
        """A symbolic size."""
        source = ConstantSource(name)
        symbol = self.create_symbol(
            size, source=source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None
        )
        self.hints[symbol], self.axes[symbol] = size, name
        return self.create_symintnode(symbol, hint=size, source=source)

    def evaluate_expr(self, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        """What is asked: a relation, or a number that is wanted as it is."""
        if not orig_expr.free_symbols <= self.hints.keys():
            return super().evaluate_expr(orig_expr, *args, **kwargs)
        answer = sympy.sympify(orig_expr.xreplace(self.hints))
        line = author_line()
        comparison = comparison_of(orig_expr, answer, self.axes, line, direct=_is_direct())
        if comparison is not None:
            self.asked.setdefault((orig_expr, line), comparison)
        return answer


def _is_direct() -> bool:
    """Whether the author's code itself asks, through nothing but the operators of a size."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename in _OPERATORS:
        frame = frame.f_back
    return frame is not None and is_authors(frame.f_code.co_filename)


def compared(
    network: nn.Module, method: str, example: Example, sizes: Mapping[str, int]
) -> list[Comparison]:
    """The comparisons of sizes that the network makes on its way at these sizes.

    Steps of a loop over `range` or `enumerate` count among them. What a network does that cannot be
    run so ends the list.
    """
    arguments = example.make(sizes)
    leaves, structure = pytree.tree_flatten((arguments.args, arguments.kwargs))
    twin = evaluation_twin(network)
    asking, watch = _Recording(), Watch()
    with (
        unchanged_globals(0),
        quiet(),
        torch.no_grad(),
        FakeTensorMode(shape_env=asking, allow_non_fake_inputs=True),
        enable_python_dispatcher(),
        contextlib.suppress(Exception, SystemExit),  # it was run as it is before
        counted(twin, watch),
        recorded_layers(twin),
    ):
        axes = {name: asking.axis(name, size) for name, size in {**example.sizes, **sizes}.items()}
        given = _symbolic(leaves, example, axes)
        args, kwargs = pytree.tree_unflatten(given, structure)
        getattr(twin, method)(*args, **kwargs)
    return [*asking.asked.values(), *_steps(watch, example)]


def _symbolic(leaves: Sequence[Any], example: Example, axes: Mapping[str, Any]) -> Iterator[Any]:
    shapes = iter(example.leaves)
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            shape = next(shapes).shape
            sizes = [axes[axis] if isinstance(axis, str) else axis for axis in shape]
            yield torch.empty(sizes, dtype=leaf.dtype)
        else:
            yield leaf


def _steps(watch: Watch, example: Example) -> Iterator[Comparison]:
    """What is decided by the number of a step: some step of as many as time is does so."""
    if "time" not in example.axes:
        return
    for decision in watch.decisions:
        points = np.logical_or.accumulate(decision.outcomes != decision.outcomes[0])

        def holds(sizes: Mapping[str, Any], points: Any = points) -> Any:
            # Counted from 0, the last of so many steps; whatever it decides stays decided.
            index = (GRID.searchsorted(sizes["time"]) - 2).clip(0, len(GRID) - 1)
            return points[index]

        yield Comparison(frozenset({"time"}), holds, decision.line, direct=True)

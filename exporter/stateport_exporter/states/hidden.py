"""Lifting: the states that a network hides become explicit inputs and outputs.

A recurrent layer that is called without a state, or with one that forward builds itself, starts
every call anew. Its state is lifted: it becomes an argument of the network, and what forward built
becomes the value that a sequence starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from stateport.contract import Axis

from ..capture.capture import Captured
from ..errors import ExportError
from ..layers import Recurrent, find
from ..network.example import Example, Leaf
from ..network.explicit import Calls, Explicit, States
from ..network.isolation import unchanged_globals
from .convolutions import ConvolutionContexts
from .layer_states import check_sequence_axis, hidden_states
from .row_lengths import sorts_itself


@dataclass(frozen=True)
class Hidden:
    """The states of one call of a recurrent layer that the network makes itself.

    `name` is the layer's; `leaves` are the arguments that the states become; `initial` the values
    that forward makes, with a batch axis of size 1, or None for zeros.
    """

    call: int
    name: str
    leaves: tuple[Leaf, ...]
    initial: tuple[NDArray[Any] | None, ...]


def find_hidden(explicit: Explicit, example: Example, captured: Captured) -> list[Hidden]:
    """The states to lift in a graph that was captured without lifting.

    Raises:
        ExportError: a state differs from row to row of a batch, or has an axis of its own.
    """
    graph = captured.model.graph
    layers = find(graph)
    check_sequence_axis(layers)
    hidden = [one for one in hidden_states(graph, layers) if not sorts_itself(one)]
    if not hidden:
        return []
    first, other = _firsts(explicit, example, 0), _firsts(explicit, example, 1)
    found = [_hidden(layer, first[layer.call], example) for layer in hidden]
    for layer, one in zip(hidden, found, strict=True):
        if not _same_start(one, _hidden(layer, other[layer.call], example)):
            raise ExportError(
                f"The first state of {layer.path or layer.kind!r} is not the same in every call: "
                "it changes with the size of the input, or by chance. Take it as an argument."
            )
    return found


def _firsts(explicit: Explicit, example: Example, more: int) -> list[States]:
    """The first states that the network makes, at the sizes that it is traced at or larger."""
    sizes = {axis: size + more for axis, size in example.sizes.items()}
    with unchanged_globals(seed=more), torch.no_grad(), Calls({}) as calls:
        explicit(*example.make(sizes, seed=more))
    firsts: list[States] = calls.firsts
    return firsts


def _same_start(a: Hidden, b: Hidden) -> bool:
    return all(
        (x is None and y is None) or (x is not None and y is not None and np.array_equal(x, y))
        for x, y in zip(a.initial, b.initial, strict=True)
    )


def make_explicit(
    explicit: Explicit, example: Example, hidden: Sequence[Hidden], found: ConvolutionContexts
) -> tuple[Explicit, Example]:
    """The network and its example with hidden states, and those of contexts, as arguments."""
    calls = [one.call for one in hidden]
    lifted = Explicit(explicit.network, explicit.method, calls, found.contexts)
    leaves = [*(one.leaves for one in hidden), *((leaf,) for leaf in found.leaves)]
    return lifted.eval(), example.with_lifted(leaves)


def _hidden(layer: Recurrent, values: Sequence[torch.Tensor], example: Example) -> Hidden:
    leaves, initial = [], []
    for (letter, first, _), value in zip(layer.states, values, strict=True):
        leaf = Leaf(
            ("state", f"{layer.call}", letter),
            str(value.dtype).removeprefix("torch."),
            _axes(layer, first, value.ndim, example),
        )
        leaves.append(leaf)
        initial.append(_initial(layer, leaf, value.numpy()))
    return Hidden(layer.call, layer.path or layer.kind, tuple(leaves), tuple(initial))


def _axes(layer: Recurrent, first: ir.Value, rank: int, example: Example) -> tuple[Axis, ...]:
    """A first state's axes; a cell's has no layers in front, which its node in the graph has."""
    assert first.shape is not None
    dims = list(first.shape)[-rank:]
    shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in dims)
    for axis in shape:
        if isinstance(axis, str) and (axis not in example.axes or axis == "time"):
            raise ExportError(
                f"The first state of {layer.path or layer.kind!r} has the shape {list(shape)}: its "
                f"axis {axis!r} is none that a state can keep from call to call. Recurrent layers "
                "must run over time, one row per sequence."
            )
    return shape


def _initial(layer: Recurrent, leaf: Leaf, value: NDArray[Any]) -> NDArray[Any] | None:
    if not value.any():
        return None
    for position, axis in enumerate(leaf.shape):
        if isinstance(axis, str):
            first = value.take([0], position)
            if not (value == first).all():
                raise ExportError(
                    f"The first state of {layer.path or layer.kind!r} differs along the axis "
                    f"{axis!r}. Take it as an argument of forward."
                )
            value = first
    return np.array(value)

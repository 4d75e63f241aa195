# SPDX-License-Identifier: Apache-2.0
"""Lifting: the states that a network hides become explicit inputs and outputs.

A recurrent layer that is called without a state, or with one that forward builds itself, starts
from the same state in every call. Its state is lifted: it becomes an argument of the network, and
what forward built becomes the value that a sequence starts from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Final

import onnx_ir as ir
import torch
from numpy.typing import NDArray

from stateport.contract import Axis
from stateport.picking import only

from ..capture.capture import Captured
from ..errors import ExportError
from ..graph.dataflow import shape_of
from ..layers import Recurrent, find
from ..network.example import Example, Leaf
from ..network.explicit import Calls, Explicit, Fold, States
from ..network.isolation import unchanged_globals
from ..network.trial import check_any_length
from .convolutions import ConvolutionContexts
from .layer_states import hidden_states, reads_arguments
from .row_lengths import sorts_itself
from .sequence_axis import check_sequence_axis, runs_within_steps
from .start_values import are_same, differing_axis, one_row

#: The rows of a state that has several for each row of the batch.
_PRODUCT: Final = re.compile(r"\d+\*batch|batch\*\d+")


#: (batch, time) at which a first state has to be what it is at usual ones, time in multiples.
_OTHER_SIZES: Final = ((1, 1), (1, 2), (2, 8), (5, 21), (9, 40), (65, 9), (2, 130), (1, 600))
#: More steps of all rows than these take too long: a codec takes multiples of thousands of samples.
_MOST_STEPS: Final = 100_000


@dataclass(frozen=True)
class Hidden:
    """The states of one call of a recurrent layer that the network makes itself.

    Attributes:
        call: the number of the call, in the order of forward.
        positions: which of the call's states they are.
        name: the layer's path or kind.
        leaves: the arguments that the states become.
        initial: the values that forward makes, with a batch axis of size 1; None for zeros.
        fold: how the rows of the batch are among those of the states, where they are there several
            times, as for each band of a dual-path network; else None.
    """

    call: int
    positions: tuple[int, ...]
    name: str
    leaves: tuple[Leaf, ...]
    initial: tuple[NDArray[Any] | None, ...]
    fold: Fold | None = None


def find_hidden(explicit: Explicit, example: Example, captured: Captured) -> list[Hidden]:
    """The states to lift in a graph that was captured without lifting.

    Raises:
        ExportError: a state differs from row to row of a batch, or has an axis that no state can
            have.
    """
    graph = captured.model.graph
    layers = find(graph)
    check_sequence_axis(layers)

    hidden = []
    for layer in filter(_may_be_lifted, layers):
        if not reads_arguments(graph, layer):
            continue
        positions = hidden_states(graph, layer)
        if positions:
            hidden.append((layer, positions))

    if not hidden:
        return []

    usual = _first_states(explicit, example, 0)
    others = [_first_states(explicit, example, 1)]
    others += _first_states_at_others(explicit, example, len(usual))

    states = []
    for layer, positions in hidden:
        # Of a layer with an argument for a state, the rows are those of the argument.
        is_whole = len(positions) == len(layer.states)
        fold = _fold_of(layer, usual[layer.call], explicit, example) if is_whole else None
        state = _hidden_of(layer, positions, usual[layer.call], example, fold)
        states.append(state)
        for firsts in others:
            other = _hidden_of(layer, positions, firsts[layer.call], example, fold)
            if not _same_start(state, other):
                raise ExportError(
                    f"The first state of {_layer_name(layer)!r} is not the same in every call: "
                    "it changes with the size of the input, or by chance. Take it as an argument."
                )
    return states


def _may_be_lifted(layer: Recurrent) -> bool:
    return not sorts_itself(layer) and not runs_within_steps(layer)


def make_explicit(
    explicit: Explicit, example: Example, hidden: Sequence[Hidden], contexts: ConvolutionContexts
) -> tuple[Explicit, Example]:
    """The network and its example, with hidden states and those of contexts as arguments."""
    calls = [each.call for each in hidden]
    parts = {each.call: each.positions for each in hidden}

    folds = {}
    for each in hidden:
        if each.fold is not None:
            folds[each.call] = each.fold

    lifted = Explicit(explicit.network, explicit.method, calls, contexts.contexts, folds, parts)

    leaves = [each.leaves for each in hidden]
    leaves += [(leaf,) for leaf in contexts.leaves]
    return lifted.eval(), example.with_lifted(leaves)


def _first_states(explicit: Explicit, example: Example, more: int) -> list[States]:
    """The first states that the network makes, by call, with every axis longer by `more`."""
    sizes = {axis: size + more for axis, size in example.sizes.items()}
    sizes["time"] += more * (example.time_multiple - 1)
    try:
        return _firsts_at(explicit, example, sizes, more)
    except Exception:  # the user's forward may raise anything
        check_any_length(explicit, example)
        raise


def _firsts_at(
    explicit: Explicit, example: Example, sizes: Mapping[str, int], seed: int
) -> list[States]:
    """The first states that the network makes in a call with these sizes."""
    with unchanged_globals(seed=seed), torch.no_grad(), Calls({}) as calls:
        explicit(*example.make(sizes, seed=seed))
    firsts: list[States] = calls.firsts
    return firsts


def _first_states_at_others(
    explicit: Explicit, example: Example, count: int
) -> Iterator[list[States]]:
    """The first states at small and large sizes, where the network makes `count` calls.

    Forward may ask how many rows or steps there are, and start from another state then.
    """
    for batch, steps in _OTHER_SIZES:
        time = steps * example.time_multiple
        if batch * time > _MOST_STEPS:
            continue

        sizes = {"batch": batch, "time": time}
        sizes = {axis: sizes.get(axis, size) for axis, size in example.sizes.items()}
        try:
            firsts = _firsts_at(explicit, example, sizes, 0)
        except Exception:  # noqa: S112  # it may not take this size
            continue
        if len(firsts) == count:
            yield firsts


def _fold_of(layer: Recurrent, values: States, explicit: Explicit, example: Example) -> Fold | None:
    """How the rows of the batch are among the rows of a layer's states, as in "4*batch".

    Another first row of the arguments changes the rows that belong to it. None where the rows of
    the states are those of the batch, or where this shows nothing.
    """
    products = set()
    for (_, first, _), value in zip(layer.states, values, strict=True):
        products.add(_only_product(shape_of(first)[-value.ndim :]))
    product = products.pop()
    if product is None or products:
        return None

    axis, size = product
    factor = int(size.replace("batch", "").strip("*"))
    batch = example.sizes["batch"]
    changed = _rows_of_first(layer, explicit, example, axis)
    if changed and changed <= set(range(factor)):
        return Fold(axis, factor, batch_first=True)
    if changed and changed <= set(range(0, factor * batch, batch)):
        return Fold(axis, factor, batch_first=False)
    return None


def _only_product(shape: Sequence[Axis]) -> tuple[int, str] | None:
    """The axis that is a multiple of the batch, with its size; None unless there is exactly one."""
    found = []
    for axis, size in enumerate(map(str, shape)):
        if _PRODUCT.fullmatch(size):
            found.append((axis, size))
    return only(found)


def _rows_of_first(layer: Recurrent, explicit: Explicit, example: Example, axis: int) -> set[int]:
    """The rows of a layer's last states that change with the first row of the arguments."""
    usual = example.make(example.sizes)
    other = example.make(example.sizes, seed=1)
    changed = example.make(example.sizes)
    tensors = zip(example.leaves, example.tensors(changed), example.tensors(other), strict=True)
    for leaf, (_, tensor), (_, values) in tensors:
        if "batch" in leaf.shape:
            position = leaf.shape.index("batch")
            tensor.select(position, 0).copy_(values.select(position, 0))

    lasts = []
    for arguments in (usual, changed):
        with unchanged_globals(seed=0), torch.no_grad(), Calls({}) as calls:
            explicit(*arguments)
        lasts.append(calls.lasts[layer.call][0].movedim(axis, 0).flatten(1))
    before, after = lasts
    return set((before != after).any(1).nonzero().flatten().tolist())


def _hidden_of(
    layer: Recurrent,
    positions: Sequence[int],
    values: Sequence[torch.Tensor],
    example: Example,
    fold: Fold | None,
) -> Hidden:
    """Some states of a layer, from the first ones (`values`) that forward made in one run."""
    leaves, initial = [], []
    for position in positions:
        (letter, first, _), value = layer.states[position], values[position]
        dtype = str(value.dtype).removeprefix("torch.")
        shape = _state_axes(layer, first, value.ndim, example, fold)
        value = value if fold is None else fold.split(value)
        leaves.append(Leaf(("state", f"{layer.call}", letter), dtype, shape))
        initial.append(_initial_value(layer, shape, value.numpy()))
    name = _layer_name(layer)
    return Hidden(layer.call, tuple(positions), name, tuple(leaves), tuple(initial), fold)


def _state_axes(
    layer: Recurrent, first: ir.Value, rank: int, example: Example, fold: Fold | None
) -> tuple[Axis, ...]:
    """A first state's axes; a cell's has no layers in front, which its node in the graph has."""
    shape = shape_of(first)[-rank:]
    if fold is not None:
        rows: tuple[Axis, ...] = ("batch", fold.factor)
        rows = rows if fold.batch_first else rows[::-1]
        shape = (*shape[: fold.axis], *rows, *shape[fold.axis + 1 :])
    for axis in shape:
        if isinstance(axis, int):
            continue
        if axis == "time" or axis not in example.axes:
            raise ExportError(
                f"The first state of {_layer_name(layer)!r} has the shape {list(shape)}: its "
                f"axis {axis!r} is none that a state can keep from call to call. Recurrent layers "
                "must run over time, one row per sequence, or a fixed number of rows of its own, "
                "such as bands."
            )
    return shape


def _initial_value(
    layer: Recurrent, shape: Sequence[Axis], value: NDArray[Any]
) -> NDArray[Any] | None:
    """The value with its dynamic axes cut to size 1; None for zeros."""
    if not value.any():
        return None

    axis = differing_axis(value, shape)
    if axis is not None:
        raise ExportError(
            f"The first state of {_layer_name(layer)!r} differs along the axis "
            f"{axis!r}. Take it as an argument of forward."
        )
    return one_row(value, shape)


def _same_start(hidden: Hidden, reference: Hidden) -> bool:
    """Whether two runs made the same first states."""
    pairs = zip(hidden.initial, reference.initial, strict=True)
    return all(starmap(_same_value, pairs))


def _same_value(value: NDArray[Any] | None, expected: NDArray[Any] | None) -> bool:
    if value is None or expected is None:
        return value is None and expected is None
    return value.shape == expected.shape and are_same(value, expected)


def _layer_name(layer: Recurrent) -> str:
    return layer.path or layer.kind.lower()

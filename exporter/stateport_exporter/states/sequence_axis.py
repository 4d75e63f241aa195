# SPDX-License-Identifier: Apache-2.0
"""The axis that a recurrent layer runs over: time, a single step, or something within a step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import filterfalse

from ..errors import ExportError
from ..graph.dataflow import axes
from ..layers import LOOP, Recurrent


def layers_over_time(layers: Iterable[Recurrent]) -> list[Recurrent]:
    """The layers that run over the sequence itself, and not within each of its steps."""
    return [*filterfalse(runs_within_steps, layers)]


def runs_within_steps(layer: Recurrent) -> bool:
    """Whether a layer runs over another axis than time, with a row for each step of time.

    Dual-path networks have such layers, over the frequencies of each frame for example. They see
    one step each, so that they have nothing to carry to the next call. A loop over a fixed number
    of elements is a running maximum or the like along the features.
    """
    names = axes(layer.x)
    if layer.node.op_type == LOOP and names[layer.time].isdigit():
        return True
    if len(names) < 3:
        return False

    # A layer over the rows of a batch is a mistake: batch_first is wrong.
    sequence = names[layer.time]
    if _is_second_axis(layer, sequence):
        return True
    if _names_axis(sequence, "time") or _names_axis(sequence, "batch"):
        return False

    rows = {0, 1} - {layer.time}
    return any(_names_axis(names[axis], "time") for axis in rows)


def check_sequence_axis(layers: Iterable[Recurrent]) -> None:
    """Checks that layers run over an axis that is called "time", or over a single step.

    Raises:
        ExportError: the axis has another name, so chunks of it would go unchecked.
    """
    for layer in layers:
        if runs_within_steps(layer):
            continue

        names = axes(layer.x)
        axis = names[layer.time] if names else "time"
        # Anything else is a size, or computed from time. What has the batch in it is a mistake.
        named = _names_in(axis) & _axes_of_inputs(layer)
        if axis.isidentifier() and axis != "time":
            named = {axis}
        if named and ("time" not in named or "batch" in named):
            name = min(named - {"time"})
            raise ExportError(
                f"{capitalized(layer)} runs over the axis {axis!r}. Call the axis that it runs "
                f"over 'time' in the example, not {name!r}; if that is the rows of a batch, "
                "batch_first is wrong."
            )


def capitalized(layer: Recurrent) -> str:
    """What a layer is called at the beginning of a sentence."""
    text = str(layer)
    return text[0].upper() + text[1:]


def _is_second_axis(layer: Recurrent, sequence: str) -> bool:
    """Whether a layer runs over another axis than time, in a graph that has time as well.

    An encoder runs over frames where a decoder runs over time. Its input is whole in every call.
    """
    known = _axes_of_inputs(layer)
    named = known & _names_in(sequence)
    return "time" in known and bool(named) and not named & {"time", "batch"}


def _axes_of_inputs(layer: Recurrent) -> set[str]:
    """The dynamic axes of the inputs of a layer's graph."""
    graph = layer.node.graph
    if graph is None:
        return set()

    names: set[str] = set()
    for value in graph.inputs:
        names.update(filter(str.isidentifier, axes(value)))
    return names


def _names_in(size: str) -> set[str]:
    """What a size is computed from: `samples` in `samples//4`."""
    return set(re.findall(r"[^\W\d]\w*", size))


def _names_axis(size: str, axis: str) -> bool:
    """Whether a size is an axis, or computed from it."""
    return re.search(rf"\b{axis}\b", size) is not None

# SPDX-License-Identifier: Apache-2.0
"""Which axis of a graph's inputs is the batch and which is time, from the graph's operators."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

from stateport.picking import among, instances_of

from ..graph.dataflow import all_values, dims_of, forget_shapes, map_dims, name_of_dim
from ..graph.inferred_shapes import infer_shapes
from .measured_axes import MEANINGS, measured_meanings
from .recurrent_operators import is_recurrent


def find_axes(model: ir.Model) -> dict[str, str]:
    """Renames axes of the inputs to "batch" and "time", in place.

    Axes without a name get one. Shape inference carries the names to the recurrent operators, which
    define what their axes are. Where it loses a name, or names are left over, the graph is run.

    Returns:
        The names that are in use now, each with itself: {"time": "time"}.
    """
    for value in model.graph.inputs:
        _name_axes(value)
    _infer_inner_shapes(model)

    recurrent = _recurrent_axes(model.graph)
    names = [*dict.fromkeys(_symbolic_names(model.graph.inputs))]
    meanings = {axis: recurrent[axis] for axis in among(recurrent, names)}
    # Inference may lose names, and two names may be of one size, or have one meaning.
    if sorted(meanings.values()) != sorted(MEANINGS) or len(names) > len(meanings):
        meanings = measured_meanings(model, names) or meanings

    _rename_axes(model, meanings)
    return {meaning: meaning for meaning in meanings.values()}


def _name_axes(value: ir.Value) -> None:
    """Gives names to the axes of a value that have neither a size nor a name."""
    if value.shape is None:
        return

    dims = []
    for axis, dim in enumerate(value.shape):
        size = _known_size(dim)
        dims.append(f"{value.name} axis {axis}" if size is None else size)
    value.shape = ir.Shape(dims)


def _known_size(dim: int | ir.SymbolicDim) -> int | str | None:
    """The size or name of a dimension; None for those that mean any size: 0, -1, "" and "?"."""
    size = dim if isinstance(dim, int) else dim.value
    if isinstance(size, int):
        return size if size > 0 else None
    return None if size in ("", "?") else size


def _infer_inner_shapes(model: ir.Model) -> None:
    """Infers the shapes of all values between inputs and outputs, from those of the inputs."""
    forget_shapes(ir.traversal.RecursiveGraphIterator(model.graph))
    infer_shapes(model)


def _recurrent_axes(graph: ir.Graph) -> dict[str, str]:
    """The names of the axes of recurrent operators' sequences: {"s27": "time"}.

    If two operators disagree about a name, the first one counts.
    """
    meanings: dict[str, str] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if not is_recurrent(node):
            continue
        x = node.inputs[0]
        if x is None or x.shape is None or len(x.shape) != 3:
            continue

        for dim, meaning in zip(x.shape, MEANINGS, strict=False):
            name = name_of_dim(dim)
            if name is not None:
                meanings.setdefault(name, meaning)
    return meanings


def _symbolic_names(values: Iterable[ir.Value]) -> Iterable[str]:
    for value in values:
        for dim in instances_of(ir.SymbolicDim, dims_of(value)):
            yield str(dim.value)


def _rename_axes(model: ir.Model, meanings: dict[str, str]) -> None:
    """Renames axes, also where they are part of an expression: "s27 + 1" becomes "time + 1"."""
    if not meanings:
        return

    # The longest name first, so that no name hides a longer one that it begins.
    names = "|".join(map(re.escape, sorted(meanings, key=len, reverse=True)))
    pattern = re.compile(rf"(?<!\w)({names})(?!\w)")

    def renamed(dim: int | ir.SymbolicDim) -> int | str | ir.SymbolicDim:
        if isinstance(dim, int) or dim.value is None:
            return dim
        return pattern.sub(lambda match: meanings[match[1]], str(dim.value))

    map_dims(renamed, all_values(model.graph))

# SPDX-License-Identifier: Apache-2.0
"""A batch that constants of the file fix, although the file leaves its size open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stateport.axes import of_one_row
from stateport.picking import sure

from ..graph.dataflow import all_values, map_dims
from .constants import constant_of, tensor_of
from .recurrent_operators import (
    INITIAL_STATES,
    directions_of,
    hidden_size,
    operand,
    recurrent_nodes,
    row_lengths,
)

Array = NDArray[Any]


def fix_batch(model: ir.Model) -> None:
    """Gives the axis "batch" its size, in place, where the rows of the file's constants differ.

    First states that differ by row, and lengths of rows, belong to a batch of one size: no state
    for another size can be made of them.
    """
    sizes = {size for node, _ in recurrent_nodes(model.graph) for size in _fixed_rows(node)}
    if len(sizes) != 1:  # none; or the operators have different rows, which are no batch
        return

    (size,) = sizes
    map_dims(lambda dim: size if str(dim) == "batch" else dim, all_values(model.graph))


def _fixed_rows(node: ir.Node) -> Iterator[int]:
    """The numbers of rows that an operator's constants fix."""
    lengths = row_lengths(node)
    tensor = tensor_of(lengths)
    if tensor is not None:
        yield tensor.size

    width = hidden_size(node)
    for position in INITIAL_STATES[node.op_type]:
        value = operand(node, position)
        constant = None if value is None else constant_of(value)
        if constant is None or width is None:
            continue

        rows = rows_of(constant, directions_of(node), width)
        if rows is not None and rows.shape[1] > 1:
            yield rows.shape[1]


def rows_of(constant: Array, directions: int, width: int) -> Array | None:
    """A constant first state as (directions, rows, width), with one row where all rows are equal.

    Args:
        constant: the constant, as `constant_of` gives it.
        directions: 2 for an operator that runs both ways.
        width: the hidden size of the operator.

    Returns:
        The rows; None where the constant has no such shape.
    """
    if constant.ndim == 0:
        return np.full((directions, 1, width), constant)
    if constant.size == 0 or constant.size % (directions * width):
        return None

    rows = constant.reshape(directions, -1, width)
    is_repeated = bool((rows == rows[:, :1]).all())
    return rows[:, :1] if is_repeated else rows


def initial_value(constant: Array, shape: Sequence[int | str], dtype: ir.DataType) -> Array:
    """The first value of a state, from a constant of `constant_of`.

    Args:
        constant: the constant.
        shape: (directions, batch, hidden) of the state, with the iterations of loops in front.
        dtype: the dtype of the state.

    Returns:
        The first value of this shape; of a batch of one where the batch has no size.
    """
    sizes = of_one_row(shape)
    # `_plan_lifting` leaves operators without such rows alone.
    rows = sure(rows_of(constant, sizes[-3], sizes[-1]))

    # All iterations of a loop start from the same state.
    return np.broadcast_to(rows, sizes).astype(dtype.numpy())

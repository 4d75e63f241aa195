# SPDX-License-Identifier: Apache-2.0
"""Results that keep the number of steps of the trace, although nothing in the graph says why.

PyTorch's exporter fixes a size silently where forward computes with it outside of PyTorch, as in
`range(math.ceil(math.log2(x.shape[1])))`: the input may then have any size, and the result has one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stateport.picking import instances_of

from ..graph.dataflow import dims_of
from ..network.example import Example
from ..network.explicit import Explicit
from ..network.trial import results_at
from .capture import Captured
from .refusals import FixedTimeError, fixed_size_in_words


def check_results_take_time(explicit: Explicit, example: Example, captured: Captured) -> None:
    """Checks that results whose size follows from the number of steps do so in the graph too.

    Raises:
        FixedTimeError: one has a fixed size in the graph.
    """
    suspected = [*_fixed_dims(example, captured)]
    if not suspected:
        return

    time = example.sizes["time"]
    usual = _result_shapes(explicit, example, time)
    longer = _result_shapes(explicit, example, time + example.time_multiple)
    if usual is None or longer is None:
        return
    for number, axis in suspected:
        if usual[number][axis] != longer[number][axis]:
            name = type(explicit.network).__qualname__
            raise FixedTimeError(fixed_size_in_words(name, "time", time))


def _fixed_dims(example: Example, captured: Captured) -> Iterator[tuple[int, int]]:
    """The results, and their axes, that have as many elements as there are steps in the trace."""
    if "time" not in example.axes:
        return
    results = captured.model.graph.outputs[: len(captured.output_paths)]
    for number, result in enumerate(results):
        for axis, dim in enumerate(dims_of(result)):
            if dim == example.sizes["time"]:
                yield number, axis


def _result_shapes(explicit: Explicit, example: Example, time: int) -> list[torch.Size] | None:
    """The shapes of the results for so many steps; None if the network fails."""
    returned = results_at(explicit, example, {"time": time})
    if returned is None:
        return None
    results, _ = returned
    return [result.shape for result in instances_of(Tensor, pytree.tree_leaves(results))]

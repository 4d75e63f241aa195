# SPDX-License-Identifier: Apache-2.0
"""The sizes at which a network may do something else than at those that it was traced at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..sizes.beyond import Beyond, check_loops, look_beyond
from ..sizes.comparisons import Comparison, compared
from ..sizes.tables import ends_of_tables
from .building import BuiltNetwork
from .tracing import TracedNetwork


def look_at_other_sizes(traced: TracedNetwork, built: BuiltNetwork) -> Beyond:
    """The other sizes at which to record answers, and the largest sizes that a call may have.

    Raises:
        ExportError: too many sizes would have to be tried; or a network whose loops are rolled up
            differs from its author's there.
    """
    loops = Beyond()
    network: nn.Module = traced.twin
    method = traced.method
    if traced.rolled is not None:
        loops = check_loops(traced.twin, traced.method, traced.rolled, traced.sample)
        network, method = traced.rolled, "forward"

    def comparisons_at(sizes: Mapping[str, int]) -> Sequence[Comparison]:
        return compared(network, method, traced.sample, sizes)

    guards = [
        Comparison(relation, axes, None, direct=False) for relation, axes in built.captured.guards
    ]
    ends = ends_of_tables(network, method, traced.sample)
    beyond = look_beyond(built.network, built.contract, [*ends, *guards], comparisons_at)

    beyond.streams_end = loops.streams_end
    for axis, largest in (*loops.limits.items(), *built.contract.limits):
        beyond.limit(axis, largest)
    return beyond

# SPDX-License-Identifier: Apache-2.0
"""Checks whether results depend on values that a network leaves outside of itself.

Every run of the exporter starts from the attributes and buffers of the network as its author left
them. Globals, attributes of classes and variables of closures are shared by all copies instead: the
first run fills them, and every later check would find them filled. So this check comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ExportError
from ..network.example import Arguments, Example
from ..network.isolation import quiet, unchanged_globals
from ..network.trees import copied_leaves
from .check import are_same
from .kept import contents, shared_names, unchanged_shared


def check_outside(explicit: nn.Module, network: nn.Module, example: Example) -> None:
    """Refuses a network one of whose calls changes the results of the next by shared values.

    A cache that every call fills with the same values does no harm.

    Args:
        explicit: the network as an `Explicit` one, which puts attributes back after every run.
        network: the author's network.
        example: its example.

    Raises:
        ExportError: with the names of the values.
    """
    first, *later = _some_calls(example)

    with unchanged_shared(network):
        before = contents(network)
        _results(explicit, first)
        changed = _changed_names(network, before)
        if not changed:
            return
        after = [_results(explicit, arguments) for arguments in later]

    for arguments, results in zip(later, after, strict=True):
        with unchanged_shared(network):
            alone = _results(explicit, arguments)
        if not _are_equal(alone, results):
            raise ExportError(
                f"The results depend on {', '.join(sorted(changed)[:3])}, which an earlier call "
                "changes outside of the network. An ONNX file would lose that: take it as an "
                "argument of forward and return the next one, or leave it out."
            )


def _some_calls(example: Example) -> list[Arguments]:
    """Arguments of the usual size, then others of that size, of a longer and of a shorter one."""
    sizes = example.sizes
    calls = [example.make(sizes), example.make(sizes, seed=1)]
    if "time" in example.axes:
        calls.append(example.make({**sizes, "time": 2 * sizes["time"] + 1}, seed=2))
    if "batch" in example.axes:
        calls.append(example.make({**sizes, "batch": sizes["batch"] + 1}, seed=3))
    return calls


def _changed_names(network: nn.Module, before: dict[str, Any]) -> set[str]:
    """The shared values of the author's code whose content is not what it was."""
    after = contents(network)
    shared = shared_names(network)
    return {name for name in shared if before.get(name) != after.get(name)}


def _results(explicit: nn.Module, arguments: Arguments) -> Sequence[Any] | None:
    """Copies of the leaves of the results; None where the network fails."""
    with quiet(), unchanged_globals(seed=0), torch.no_grad():
        try:
            results, _ = explicit(*arguments)
        except (Exception, SystemExit):  # the user's forward may raise anything
            return None

    return copied_leaves(results)


def _are_equal(first: Sequence[Any] | None, second: Sequence[Any] | None) -> bool:
    if first is None or second is None:
        return first is second
    return are_same(first, second)

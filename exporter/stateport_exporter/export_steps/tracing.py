# SPDX-License-Identifier: Apache-2.0
"""The author's network, captured as a graph, and the states that it makes itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from ..capture.capture import Captured, capture, check_runs
from ..capture.refusals import FixedTimeError
from ..errors import ExportError
from ..graph.opset import NEWEST_CAPTURED
from ..loops import RolledNetwork, roll_loops
from ..memory.outside import check_outside
from ..network.chance import check_no_chance
from ..network.example import Example
from ..network.explicit import Explicit
from ..network.trace_length import (
    at_given_length,
    SHORT,
    first_taken,
    given_by_example,
    long_enough,
    longer_lengths,
)
from ..network.trial import needed_multiple, runs_at
from ..states.hidden import Hidden, find_hidden
from ..states.row_lengths import with_row_lengths


@dataclass(frozen=True)
class TracedNetwork:
    """A network as its author wrote it, captured as a graph.

    Attributes:
        twin: the author's network, in evaluation mode.
        method: the method that is exported.
        explicit: the network that was captured: the author's, or `rolled`.
        sample: the arguments, at sizes that the network takes.
        captured: the graph, with recurrent layers kept whole.
        hidden: the states that the network makes itself, and that are to be lifted.
        rolled: the network with its loops over time rolled up; None where it has no such loops.
    """

    twin: nn.Module
    method: str
    explicit: Explicit
    sample: Example
    captured: Captured
    hidden: Sequence[Hidden]
    rolled: RolledNetwork | None


def trace_network(
    twin: nn.Module,
    method: str,
    example: Example,
    opset: int,
    *,
    lift: bool,
    trace_time: int | None = None,
) -> TracedNetwork:
    """Captures a network, and finds the states that it makes itself, if they are to be lifted.

    `trace_time` is the number of time steps to trace at. By default it follows from the network.

    Raises:
        ExportError: the network fails, or cannot be captured.
    """
    explicit: Explicit = Explicit(twin, method).eval()
    rolled = None
    opset = min(opset, NEWEST_CAPTURED)
    check_outside(explicit, twin, example)

    try:
        if trace_time is None:
            sample, captured = _capture_at_some_length(explicit, example, opset)
        else:
            sample = at_given_length(example, trace_time)
            captured = capture(explicit, sample, opset)
    except FixedTimeError as error:
        check_no_chance(explicit, example)
        # A Python loop over time fixes its length. Rolled up, it is a layer like any other.
        rolled = roll_loops(twin, method, example, error)
        explicit = Explicit(rolled).eval()
        sample, captured = example, capture(explicit, example, opset)
    except ExportError:
        check_no_chance(explicit, example)
        raise

    check_no_chance(explicit, sample)
    sample = with_row_lengths(explicit, sample, captured)
    check_runs(explicit, sample)
    hidden = find_hidden(explicit, sample, captured) if lift else []
    return TracedNetwork(twin, method, explicit, sample, captured, hidden, rolled)


def _capture_at_some_length(
    explicit: Explicit, example: Example, opset: int
) -> tuple[Example, Captured]:
    """Captures a network at the usual length, or at the example's own, or at one that it needs.

    The usual length comes first: what a network keeps outside of itself is then as its author left
    it, and not as other runs did.
    """
    captured: Captured | ExportError
    try:
        captured = capture(explicit, example, opset)
    except ExportError as error:
        captured = error

    for longer_example in _longer_examples(explicit, example, captured):
        # Where this fails too, the first error is the one to show.
        with contextlib.suppress(ExportError):
            return _at_multiples(explicit, longer_example, opset)

    if isinstance(captured, ExportError):
        raise captured
    if is_for_short_alone(captured):
        return _beyond_short(explicit, example, captured, opset)
    return _at_multiples(explicit, example, opset, captured)


def is_for_short_alone(captured: Captured) -> bool:
    """Whether a graph was made for short sequences alone, as a branch for these in forward is."""
    _, longest = captured.ranges.get("time", (1, None))
    return longest is not None and longest < SHORT


def _beyond_short(
    explicit: Explicit, example: Example, captured: Captured, opset: int
) -> tuple[Example, Captured]:
    """Captures a network at the first length beyond what it does with short sequences alone.

    Raises:
        FixedTimeError: it has a loop over time there.
    """
    for candidate in longer_lengths(explicit, example):
        try:
            longer_example, longer = _at_multiples(explicit, candidate, opset)
        except FixedTimeError:
            raise
        except ExportError:
            continue
        if not is_for_short_alone(longer):
            return longer_example, longer
    return example, captured


def _at_multiples(
    explicit: Explicit, example: Example, opset: int, captured: Captured | None = None
) -> tuple[Example, Captured]:
    """The graph of a network at a length; if it takes multiples of a length alone, of several.

    `captured` is the graph, if it was captured at this length already.
    """
    if captured is None:
        captured = capture(explicit, example, opset)
    if "time" not in example.axes or runs_at(explicit, example, {"time": _next_length(example)}):
        return example, captured

    multiple = needed_multiple(explicit, example)
    if multiple is None or example.sizes["time"] % multiple:
        return example, captured

    time = example.sizes["time"]
    example = example.with_multiple(multiple)
    if example.sizes["time"] != time:
        captured = capture(explicit, example, opset)
    return example, captured


def _next_length(example: Example) -> int:
    return example.sizes["time"] + 1


def _longer_examples(
    explicit: Explicit, example: Example, captured: Captured | ExportError
) -> Iterator[Example]:
    """The example's length; one with enough steps behind every stride; one that runs at all."""
    candidate = given_by_example(example, may_be_loop=isinstance(captured, FixedTimeError))
    if candidate is not None:
        yield candidate

    candidate = long_enough(explicit, example)
    if candidate is not None:
        yield candidate

    failed = isinstance(captured, ExportError) and not isinstance(captured, FixedTimeError)
    if failed:
        candidate = first_taken(explicit, example)
        if candidate is not None:
            yield candidate

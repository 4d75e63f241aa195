# SPDX-License-Identifier: Apache-2.0
"""The author's network, captured as a graph, and the states that it makes itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from torch import nn
from torch.utils._sympy.functions import FloorDiv, Mod

from ..capture.capture import Captured, capture, check_runs
from ..capture.fixed_results import check_results_take_time
from ..capture.refusals import FixedTimeError
from ..errors import ExportError
from ..graph.opset import NEWEST_CAPTURED
from ..loops import RolledNetwork, roll_loops, roll_rounds
from ..memory.outside import check_outside
from ..network.chance import check_no_chance
from ..network.example import Example
from ..network.explicit import Calls, Explicit
from ..network.loop_stride import loop_stride
from ..network.trace_length import (
    SHORT,
    at_given_length,
    first_taken,
    given_by_example,
    long_enough,
    longer_lengths,
    longest_taken,
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

    @property
    def runs(self) -> tuple[nn.Module, str]:
        """The module that was captured, and its method: the author's, or `rolled`."""
        return (self.twin, self.method) if self.rolled is None else (self.rolled, "forward")


def trace_network(
    twin: nn.Module,
    method: str,
    example: Example,
    opset: int,
    *,
    lift: bool,
    trace_time: int | None = None,
    scans_as_loops: bool = False,
) -> TracedNetwork:
    """Captures a network, and finds the states that it makes itself, if they are to be lifted.

    `trace_time` is the number of time steps to trace at. By default it follows from the network.
    With `scans_as_loops`, whatever computes a recurrence in parallel is written as a loop, also
    where a graph of it is right for sequences of any length.

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
        check_results_take_time(explicit, sample, captured)
        if scans_as_loops or _may_have_rounds(captured):
            rolled = roll_rounds(twin, method, sample.with_usual_time())
        if rolled is None:
            sample, rolled = _with_fixed_passes_rolled_up(explicit, sample, captured)
    except FixedTimeError as error:
        check_no_chance(explicit, example)
        # A Python loop over time fixes its length. Rolled up, it is a layer like any other.
        sample = error.example if isinstance(error, LoopError) else example
        sample, rolled = _roll_at_some_multiple(explicit, sample.with_usual_time(), error)
    except ExportError:
        check_no_chance(explicit, example)
        raise

    if rolled is not None:
        sample = sample.with_usual_time()
        explicit = Explicit(rolled).eval()
        captured = capture(explicit, sample, opset)

    check_no_chance(explicit, sample)
    sample = with_row_lengths(explicit, sample, captured)
    check_runs(explicit, sample)
    hidden = find_hidden(explicit, sample, captured) if lift else []
    return TracedNetwork(twin, method, explicit, sample, captured, hidden, rolled)


def _roll_at_some_multiple(
    explicit: Explicit, example: Example, refusal: ExportError
) -> tuple[Example, RolledNetwork]:
    """The network with its loops rolled up, for multiples of the steps that a pass takes.

    Raises:
        ExportError: the loops cannot be rolled up. It is the error for any length.
    """
    network, method = explicit.network, explicit.method
    try:
        return example, roll_loops(network, method, example, refusal)
    except ExportError:
        stride = loop_stride(explicit, example)
        if stride is not None:
            coarser = example.with_multiple(stride)
            with contextlib.suppress(ExportError):
                return coarser, roll_loops(network, method, coarser, refusal)
        raise


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

    loop = None
    for longer_example in _longer_examples(explicit, example, captured):
        try:
            return _at_multiples(explicit, longer_example, opset)
        except LoopError as error:
            loop = error
        except ExportError:
            continue

    if isinstance(captured, FixedTimeError):
        raise captured
    if isinstance(captured, ExportError):
        # Where a longer sequence fails too, the first error is the one to show.
        raise loop or captured
    if _is_for_short_alone(captured):
        return _beyond_short(explicit, example, captured, opset)
    return _at_multiples(explicit, example, opset, captured)


class LoopError(FixedTimeError):
    """Forward has a loop over time; `example` is at a length that it takes."""

    def __init__(self, text: str, example: Example) -> None:
        super().__init__(text)
        self.example = example


def _may_have_rounds(captured: Captured) -> bool:
    """Whether a graph serves some lengths alone, as that of a parallel scan does."""
    _, longest = captured.ranges.get("time", (1, None))
    if longest is not None:
        return True
    # Rounds that halve a sequence ask whether its length is even.
    return any(expression.has(Mod, FloorDiv) for expression, _ in captured.guards)


def _with_fixed_passes_rolled_up(
    explicit: Explicit, example: Example, captured: Captured
) -> tuple[Example, RolledNetwork | None]:
    """The network with its loops rolled up, if its graph has a fixed number of their passes.

    The graph of `for _ in range(x.shape[1] // 2)` is right where `time//2` is what it was. Where
    there is no such loop, the graph may be right everywhere.
    """
    if any(_fixes_passes(relation, axes) for relation, axes in captured.guards):
        refusal = ExportError("forward loops over a number of passes that follows from the length")
        with contextlib.suppress(ExportError):
            coarser, rolled = _roll_at_some_multiple(explicit, example.with_usual_time(), refusal)
            if rolled.has_loops:
                return coarser, rolled
    return example, None


def _fixes_passes(relation: Any, axes: Mapping[Any, str]) -> bool:
    """Whether a relation says what a division of the length by a number gives."""
    if not isinstance(relation, sympy.Eq) or not relation.rhs.is_Integer:
        return False
    if set(axes.values()) != {"time"}:
        return False

    passes = sympy.Symbol("passes")

    def is_division(part: Any) -> bool:
        return isinstance(part, FloorDiv) and bool(part.args[1].is_Integer)

    divided = relation.lhs.replace(is_division, lambda _: passes)
    return bool(divided.free_symbols == {passes})


def _is_for_short_alone(captured: Captured) -> bool:
    """Whether a graph was made for short sequences alone, as a branch for these in forward is."""
    _, longest = captured.ranges.get("time", (1, None))
    return longest is not None and longest < SHORT


def _beyond_short(
    explicit: Explicit, example: Example, captured: Captured, opset: int
) -> tuple[Example, Captured]:
    """Captures a network at the first length beyond what it does with short sequences alone.

    Raises:
        LoopError: it has a loop over time there.
    """
    for candidate in longer_lengths(explicit, example):
        try:
            longer_example, longer = _at_multiples(explicit, candidate, opset)
        except LoopError:
            raise
        except ExportError:
            continue
        if not _is_for_short_alone(longer):
            return longer_example, longer
    return _at_the_end(explicit, example, opset) or (example, captured)


def _at_the_end(
    explicit: Explicit, example: Example, opset: int
) -> tuple[Example, Captured] | None:
    """Captures a network at the longest of short lengths; None where that cannot be done."""
    candidate = longest_taken(explicit, example)
    if candidate is None:
        return None
    with contextlib.suppress(ExportError):
        return _at_multiples(explicit, candidate, opset)
    return None


def _check_same_calls(explicit: Explicit, example: Example) -> None:
    """Checks that a network calls its recurrent layers as often at another length.

    Raises:
        LoopError: it does not, as one that cuts its input into pieces of a fixed length.
    """
    if "time" not in example.axes:
        return

    time = example.sizes["time"]
    longer = 4 * time * example.time_multiple
    usual_count, count = (_count_calls(explicit, example, length) for length in (time, longer))
    if usual_count is None or count is None or usual_count == count:
        return
    text = (
        f"{type(explicit.network).__qualname__} calls its recurrent layers {usual_count} times for "
        f"{time} steps and {count} times for {longer}: forward cuts the sequence into pieces and "
        "loops over them, and a graph has one number of calls. Let each layer run over the whole "
        "sequence, which gives the same, or export what is done with one piece and loop outside."
    )
    raise LoopError(text, example)


def _count_calls(explicit: Explicit, example: Example, time: int) -> int | None:
    """The number of calls of recurrent layers for a sequence; None if the network fails."""
    with Calls({}, with_firsts=False) as calls:
        runs = runs_at(explicit, example, {"time": time})
    return len(calls.lasts) if runs else None


def _at_multiples(
    explicit: Explicit, example: Example, opset: int, captured: Captured | None = None
) -> tuple[Example, Captured]:
    """The graph of a network at a length; if it takes multiples of a length alone, of several.

    `captured` is the graph, if it was captured at this length already.
    """
    if captured is None:
        captured = _captured_or_loop(explicit, example, opset)
    if captured.narrowed is None:
        return example, captured

    with_multiple = _with_multiple(explicit, example)
    if with_multiple is not example:
        captured = _captured_or_loop(explicit, with_multiple, opset)
    _check_same_calls(explicit, with_multiple)
    return with_multiple, captured


def _with_multiple(explicit: Explicit, example: Example) -> Example:
    """The example with the number of which a network takes multiples alone, if there is one."""
    if "time" not in example.axes:
        return example

    time = example.sizes["time"]
    multiple = None
    if not runs_at(explicit, example, {"time": time + 1}):
        multiple = needed_multiple(explicit, example)
    is_multiple = multiple is not None and time % multiple == 0
    if multiple and is_multiple:
        return example.with_multiple(multiple)
    return example


def _captured_or_loop(explicit: Explicit, example: Example, opset: int) -> Captured:
    """The graph of a network.

    Raises:
        LoopError: it has a loop over time, with the example at a length that the loop takes.
    """
    try:
        return capture(explicit, example, opset)
    except FixedTimeError as error:
        raise LoopError(str(error), _with_multiple(explicit, example)) from error


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

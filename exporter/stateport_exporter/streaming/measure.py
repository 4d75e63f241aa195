# SPDX-License-Identifier: Apache-2.0
"""Whether a network can be fed in chunks: measured, by comparing chunks with the whole sequence."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import lcm
from typing import Final

import numpy as np
import torch

from stateport.contract import ArraySpec, Contract, Streaming
from stateport.parity.vectors import Case, results, row_errors

from ..errors import ExportError
from ..network.isolation import unchanged_globals
from ..network.trial import check_any_length
from ..vectors.cases import RAGGED, case_of, longest_time_of, short_case
from ..vectors.torch_reference import Answers, Array, Network, float64_reference, run_reference
from .reasons import LOOKS_AHEAD

#: The rows of which a step is changed: that of one may leave the largest of a few steps the same.
_ROWS: Final = 8
#: The largest relative difference between the whole sequence and chunks, for rounding in float64
#: and in float32.
_FLOAT64_TOLERANCE: Final = 1e-9
_FLOAT32_TOLERANCE: Final = 1e-4
#: The longest chunk that is tried as the shortest one. The longest hop of a codec is about 2,000.
_LONGEST_CHUNK: Final = 4096
#: Up to this number of inputs without time are tried as masks, in 3 ways each.
_MOST_MASKS: Final = 3
#: What the inputs become where a graph ties a step to others: a sum or maximum over time may count
#: for loud sequences alone, for negative ones, or for the later half. Time is the first axis.
_KINDS_OF_DATA: Final[tuple[Callable[[Array], Array], ...]] = (
    lambda steps: 4 * steps,
    lambda steps: 30 * steps,
    lambda steps: steps / 10,
    lambda steps: 4 * np.abs(steps),
    lambda steps: -4 * np.abs(steps),
    lambda steps: _rising(steps) * np.abs(steps),
    lambda steps: -_rising(steps) * np.abs(steps),
)
#: The steps of a sequence of which it is asked whether they depend on later ones.
_STEPS_AHEAD: Final = 512


def measure_streaming(
    network: Network,
    contract: Contract,
    reason: str | None,
    multiple: int = 1,
    *,
    shortest: int = 1,
    is_tied: bool = False,
) -> Streaming:
    """What the contract says of streaming, after trying the same sequence whole and in chunks.

    Chunks are tried at the sensible divisors of `multiple`, the smallest first. An input without
    time may be the same in every call, or a mask that is 0 (or 1) in all calls but the first.

    Args:
        network: the network that is exported.
        contract: its contract so far.
        reason: the reason to give if the results differ; None for what was measured.
        multiple: a number of steps of which every chunk may have to be a multiple.
        shortest: the smallest number of steps that the network takes in one call.
        is_tied: whether the graph ties a step to others, so that more data is tried.

    Raises:
        ExportError: the network does not take every length.
    """
    if not contract.streaming.ok:
        return contract.streaming
    if "time" not in network.example.axes:
        return Streaming(reason is None, reason)

    problem = None
    with unchanged_globals(seed=0), torch.no_grad():
        torch.set_num_threads(1)
        truth = float64_reference(network, contract, short_case(network, contract))
        call_multiple = dict(contract.multiples).get("time", 1)
        longest = min(_LONGEST_CHUNK, longest_time_of(contract) // 2)
        for divisor in _divisors(lcm(multiple, call_multiple), longest):
            if divisor % call_multiple:
                continue
            try:
                problem = _problem_with_chunks(truth, contract, divisor, shortest, is_tied=is_tied)
            except ExportError:  # at the length of the whole sequence, which is an odd one
                check_any_length(network.module, network.example)
                raise
            if problem is None:
                lookahead = measure_delay(truth, contract, divisor)
                return Streaming(True, None, divisor, lookahead)
        # Padding that is cut off again is no reason.
        says_ahead = reason is not None and reason.endswith(LOOKS_AHEAD)
        if says_ahead and problem is not None and not _looks_ahead(truth, contract, multiple):
            reason = problem
    return Streaming(False, reason or problem)


def _looks_ahead(truth: Network, contract: Contract, multiple: int) -> bool:
    """Whether the answers to the first half of a sequence depend on the second half.

    They are taken to do so where no sequence is long enough for two halves.
    """
    divisor = lcm(multiple, dict(contract.multiples).get("time", 1))
    half = min(_STEPS_AHEAD, longest_time_of(contract) // 2) // divisor * divisor
    if half == 0:
        return True

    whole, chunked = _whole_and_chunks(truth, contract, [half, half])
    in_chunks = run_reference(truth, contract, chunked)
    for spec in contract.outputs:
        if spec.time_axis is not None:
            at_once = whole[spec.name].table
            count = len(at_once) // 2
            error = _relative_error(in_chunks[spec.name].table[:count], at_once[:count])
            if not error <= _tolerance(truth):
                return True
    return False


def _divisors(number: int, longest: int) -> list[int]:
    """The divisors of a number that may be the length of a chunk: up to `longest`.

    The number is a product of all factors by which a network takes steps apart. A parallel scan has
    so many that it has dozens of digits.
    """
    return [divisor for divisor in range(1, min(number, longest) + 1) if number % divisor == 0]


def _problem_with_chunks(
    truth: Network, contract: Contract, multiple: int, shortest: int, *, is_tied: bool
) -> str | None:
    """Why chunks of multiples of this number of steps do not do, None if they do.

    `is_tied` says that the graph ties a step to others, so that more data is tried.
    """
    # Short chunks come last, because long ones would hide what a network forgets. They come first
    # too: what a running maximum passes on changes at the beginning alone.
    short = [multiple * time for time in RAGGED]
    long_first = [multiple * 256, multiple * 142, *reversed(short)]
    longest = longest_time_of(contract)
    sequences = [_whole_and_chunks(truth, contract, _at_most(long_first, longest))]
    beginning = None
    with contextlib.suppress(ExportError):  # a network may take no sequence that is so short
        sequences.append(_whole_and_chunks(truth, contract, _at_most(short, longest)))
        # Where padding mirrors the first steps, they depend on later ones, and no others do.
        beginning = _whole_and_chunks(truth, contract, _at_most(short, longest), "zeros")

    first_problem = None
    for masks in _possible_masks(contract):
        try:
            problem = _problem_with_masks(truth, contract, sequences, masks)
        except ExportError as failure:
            return _why_no_short_chunks(shortest, multiple, failure)

        if problem is None and beginning is not None:
            problem = _problem_at_the_beginning(truth, contract, beginning, masks)
        if problem is None and is_tied:
            problem = _problem_with_other_data(truth, contract, _at_most(short, longest), masks)
        if problem is None:
            return None
        first_problem = first_problem or problem
    return f"measured: fed in chunks, {first_problem}"


def _problem_at_the_beginning(
    truth: Network, contract: Contract, beginning: tuple[Answers, Case], masks: Mapping[str, int]
) -> str | None:
    """How the answers in chunks differ where a sequence begins with the first state."""
    problem = _problem_with_masks(truth, contract, [beginning], masks)
    if problem is None:
        return None
    return f"the first steps depend on later ones, as where they are mirrored: {problem}"


def _problem_with_other_data(
    truth: Network, contract: Contract, chunks: Sequence[int], masks: Mapping[str, int]
) -> str | None:
    """How the answers in chunks differ for inputs of other magnitudes and signs."""
    for kind in _KINDS_OF_DATA:
        try:
            sequence = _whole_and_chunks(truth, contract, chunks, "zeros", kind)
        except ExportError:  # a network may refuse such data, or so few steps
            continue
        problem = _problem_with_masks(truth, contract, [sequence], masks)
        if problem is not None:
            return f"with inputs of another magnitude or sign, {problem}"
    return None


def _at_most(chunks: Sequence[int], longest: int) -> list[int]:
    """Those chunks that make a sequence of no more steps than a call may have."""
    fitting: list[int] = []
    for chunk in chunks:
        if sum(fitting) + chunk <= longest:
            fitting.append(chunk)
    return fitting


def _whole_and_chunks(
    truth: Network,
    contract: Contract,
    chunks: Sequence[int],
    start: str = "random",
    kind: Callable[[Array], Array] | None = None,
) -> tuple[Answers, Case]:
    """The answers to a whole sequence, and the same sequence in chunks, with inputs of a kind."""
    batch = _rows_to_compare(contract)
    whole = case_of(truth, contract, "whole", [sum(chunks)], batch, start)
    chunked = case_of(truth, contract, "ragged", chunks, batch, start)
    if kind is not None:
        whole, chunked = (_changed(case, contract, kind) for case in (whole, chunked))
    return run_reference(truth, contract, whole), chunked


def _changed(case: Case, contract: Contract, kind: Callable[[Array], Array]) -> Case:
    """A case with other floats in its inputs over time."""
    inputs = dict(case.inputs)
    for spec in contract.inputs:
        array = inputs[spec.name]
        if "time" in spec.shape and np.issubdtype(array.dtype, np.floating):
            axis = spec.shape.index("time")
            changed = np.moveaxis(kind(np.moveaxis(array, axis, 0)), 0, axis)
            inputs[spec.name] = np.ascontiguousarray(changed, array.dtype)
    return replace(case, inputs=inputs)


def _rising(steps: Array) -> Array:
    """From -4 to 4 along the first axis."""
    ramp: Array = np.linspace(-4, 4, len(steps)).reshape(-1, *(1,) * (steps.ndim - 1))
    return ramp


def _problem_with_masks(
    truth: Network,
    contract: Contract,
    sequences: Sequence[tuple[Answers, Case]],
    masks: Mapping[str, int],
) -> str | None:
    """How the answers in chunks differ, with these values of inputs in all calls but the first."""
    for at_once, chunked in sequences:
        in_chunks = run_reference(truth, contract, _mask_later_calls(chunked, masks))
        problem = _difference(contract, at_once, in_chunks, _tolerance(truth))
        if problem is not None:
            return problem
    return None


def _why_no_short_chunks(shortest: int, multiple: int, failure: ExportError) -> str:
    if shortest <= multiple:
        return f"it cannot take short chunks: {failure}"
    return (
        f"it takes {shortest} steps in one call or more, and no state has the steps before a "
        "chunk. Forward may treat the first or last steps of a call in another way: a stream has "
        "those of each chunk. If a window is the cause, as of torch.stft (with center=False) or "
        "unfold, put as many zeros before the sequence in forward, F.pad(x, (window - hop, 0)): "
        "they are then carried from call to call"
    )


def _rows_to_compare(contract: Contract) -> int:
    """The batch of the sequences that are compared."""
    axes = {str(axis) for spec in contract.outputs for axis in spec.shape}
    # If an axis joins batch and time, it is unknown which element belongs to which of several rows.
    has_joined_axis = any("batch" in axis for axis in axes - {"batch"})
    return 1 if has_joined_axis else 2


def _possible_masks(contract: Contract) -> Iterator[dict[str, int]]:
    """The values that inputs without time may have in later calls; none for those not named."""
    names = [spec.name for spec in contract.inputs if "time" not in spec.shape][:_MOST_MASKS]
    for values in itertools.product((None, 0, 1), repeat=len(names)):
        pairs = zip(names, values, strict=True)
        yield {name: value for name, value in pairs if value is not None}


def measure_delay(truth: Network, contract: Contract, multiple: int) -> int:
    """The largest number of future input steps that any output step depends on.

    Each step of the first two chunks is changed. The first output step that differs then depends on
    the changed one. A step of an output with half as many steps counts as two. Where a call cannot
    have enough steps, the largest possible number is returned.
    """
    outputs = [spec for spec in contract.outputs if spec.time_axis is not None]
    if multiple == 1 or not outputs:
        return 0  # what is right in chunks of one step depends on no later one

    count = min(4, longest_time_of(contract) // multiple - 1)
    if count < 2:  # a chunk depends on none of the next
        return multiple - 1
    time = multiple * count
    base = case_of(truth, contract, "whole", [time], _ROWS, "zeros")
    unchanged = run_reference(truth, contract, base)
    source = case_of(truth, contract, "whole", [time + multiple], _ROWS, "zeros")

    delay = 0
    for step in range(2 * multiple):
        inputs = {
            spec.name: _with_step_of(base.inputs[spec.name], source.inputs[spec.name], spec, step)
            for spec in contract.inputs
        }
        changed = run_reference(truth, contract, replace(base, inputs=inputs))
        delay = max(delay, _delay_at(step, time, outputs, unchanged, changed))
    return delay


def _delay_at(
    step: int, time: int, outputs: Sequence[ArraySpec], unchanged: Answers, changed: Answers
) -> int:
    """The number of steps from the first output step that changed to the changed input step."""
    delay = 0
    for spec in outputs:
        errors = row_errors(changed[spec.name].table, unchanged[spec.name].table)
        differs = errors > 0
        if differs.any():
            first = int(np.argmax(differs)) * time // len(errors)
            delay = max(delay, step - first)
    return delay


def _with_step_of(array: Array, source: Array, spec: ArraySpec, step: int) -> Array:
    """An array with one step taken from `source`."""
    if "time" not in spec.shape:
        return array

    index = (slice(None),) * spec.shape.index("time") + (step,)
    changed = array.copy()
    changed[index] = source[index]
    return changed


def _mask_later_calls(case: Case, masks: Mapping[str, int]) -> Case:
    """The case with these values of inputs in all calls but the first."""
    inputs = dict(case.inputs)
    for name, value in masks.items():
        later = np.full_like(inputs[name][1:], value)
        inputs[name] = np.concatenate([inputs[name][:1], later])
    return replace(case, inputs=inputs)


def _difference(
    contract: Contract, whole: Answers, chunked: Answers, tolerance: float
) -> str | None:
    """How the answers to a sequence in chunks differ from those to the whole, None if not."""
    for spec in results(contract):
        at_once = whole[spec.name].table
        last = chunked[spec.name].table[-len(at_once) :]
        if last.shape != at_once.shape:
            return f"{spec.name!r} has another length than for the whole sequence"

        if not _relative_error(last, at_once) <= tolerance:  # also for NaN
            error = float(row_errors(last, at_once).max(initial=0.0))
            return f"{spec.name!r} is {error:.1g} away from what the whole sequence gives"
    return None


def _relative_error(part: Array, whole: Array) -> float:
    """The largest difference, relative to the largest finite value of the whole; NaN beside NaN.

    An infinite value is compared with another one; beside it, nothing would be too large.
    """
    scale = float(np.abs(whole[np.isfinite(whole)]).max(initial=0.0))
    return float(row_errors(part, whole).max(initial=0.0)) / max(scale, 1e-30)


def _tolerance(truth: Network) -> float:
    """The largest relative difference that is rounding in a network's dtype."""
    return _FLOAT64_TOLERANCE if truth.dtype == torch.float64 else _FLOAT32_TOLERANCE

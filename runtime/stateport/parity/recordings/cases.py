# SPDX-License-Identifier: Apache-2.0
"""The cases of a recording: whole, in ragged chunks, and step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...contract import Contract, has_time, takes_lengths
from ..vectors import Case
from .fitting import FittedRecording, cut, is_cut_along_time

Array = NDArray[Any]

#: How long the ragged chunks of a recording are, one against the other.
_RAGGED: Final = (1, 7, 2, 64, 3, 1, 1, 31, 5)
#: The most calls of the case that goes step by step.
_MOST_STEPS: Final = 64
#: The first length, in calls of the shortest chunk, at which a recording's time is measured.
_FIRST_LENGTH: Final = 16


def cases_of(recording: FittedRecording, contract: Contract) -> Iterator[Case]:
    """A recording as the cases on which engines are judged, without answers.

    A network that streams is fed the whole recording in one call and in ragged chunks, and its
    first steps one by one. A network without a time axis is called once for each step.
    """
    if not has_time(contract):
        yield _case(recording, contract, "calls", [1] * recording.steps)
        return

    yield _case(recording, contract, "whole", [recording.steps])
    if not _is_fed_in_chunks(contract):
        return

    chunk = contract.shortest_chunk
    ragged = [chunk * count for count in _ragged(recording.steps // chunk)]
    if len(ragged) > 1:
        yield _case(recording, contract, "chunks", ragged)

    count = min(recording.steps // chunk, _MOST_STEPS)
    if count > 1:
        yield _case(recording, contract, "steps", [chunk] * count)


def _is_fed_in_chunks(contract: Contract) -> bool:
    """Whether the steps of all answers are known, so that chunks can be compared with the whole."""
    known = all(spec.time_axis is None or is_cut_along_time(spec) for spec in contract.outputs)
    return bool(contract.streaming.ok and contract.states) and known and not takes_lengths(contract)


def cut_to_time(
    recordings: Sequence[FittedRecording],
    contract: Contract,
    seconds: float,
    runs: int,
    run: Callable[[FittedRecording], object],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[FittedRecording], str | None]:
    """Cuts long recordings to what can be computed within a time.

    The longest recording is run at lengths that double. It is cut to the last length at which all
    recordings together would fit, if all were as long, and so are the others.

    Args:
        recordings: the recordings, which are cut to one length at most.
        contract: the contract that they fit.
        seconds: how long all runs of all recordings may take.
        runs: how many times each recording is run.
        run: runs a recording once.
        clock: the time in seconds.

    Returns:
        The recordings, and a sentence on what was cut; None where nothing was.
    """
    longest = max(recordings, key=lambda recording: recording.steps)
    seconds_per_run = seconds / (runs * len(recordings))
    most = _longest_within(longest, contract, seconds_per_run, run, clock)

    kept = [cut(recording, contract, min(most, recording.steps)) for recording in recordings]
    return kept, _what_was_cut(kept, most, longest.steps, seconds)


def _longest_within(
    recording: FittedRecording,
    contract: Contract,
    seconds: float,
    run: Callable[[FittedRecording], object],
    clock: Callable[[], float],
) -> int:
    """The number of steps that a run may have; the whole recording where that fits."""
    chunk = contract.shortest_chunk if has_time(contract) else 1
    steps = _FIRST_LENGTH * chunk
    run(cut(recording, contract, min(steps, recording.steps)))  # the first run prepares much

    while steps < recording.steps:
        begin = clock()
        run(cut(recording, contract, steps))
        if 2 * (clock() - begin) > seconds:  # twice as many steps would take too long
            return steps
        steps *= 2
    return recording.steps


def _what_was_cut(
    kept: Sequence[FittedRecording], most: int, longest: int, seconds: float
) -> str | None:
    """A sentence on the recordings that were cut, and why."""
    texts = []

    by_time = []
    for recording in kept:
        if recording.steps == most < longest:
            by_time.append(recording)

    if by_time:
        names = _names(by_time)
        texts.append(
            f"{names} cut to {most:,} steps, so that all runs take no more than {seconds:g} s"
        )

    rest = []
    for r in kept:
        if r.steps < r.recorded_steps and r not in by_time:
            rest.append(r)

    if rest:
        texts.append(f"{_names(rest)} cut to a length that the network takes")
    return "; ".join(texts) or None


def _names(recordings: Sequence[FittedRecording]) -> str:
    """`long.npz (100,000 steps) was`, or `2 recordings (the longest has 100,000 steps) were`."""
    longest = max(recording.recorded_steps for recording in recordings)
    if len(recordings) == 1:
        return f"{recordings[0].name} ({longest:,} steps) was"
    return f"{len(recordings)} recordings (the longest has {longest:,} steps) were"


def _case(recording: FittedRecording, contract: Contract, kind: str, chunks: Sequence[int]) -> Case:
    """A case of the first steps of a recording, as many as the chunks have."""
    steps = sum(chunks)
    part = cut(recording, contract, steps)
    inputs = {}
    for spec in contract.inputs:
        array = part.inputs[spec.name]
        once_per_call = has_time(contract) and "time" not in spec.shape
        if once_per_call:
            array = np.repeat(array[np.newaxis], len(chunks), axis=0)
        inputs[spec.name] = array

    batch = part.sizes.get("batch", 1)
    several = len(chunks) > 1 or not has_time(contract)
    return Case(
        name=f"recorded {kind}, {recording.name} {batch}x{steps}",
        through="stream" if several and contract.streaming.ok else "model",
        sizes=dict(part.sizes),
        chunks=tuple(chunks),
        inputs=inputs,
        initial=dict(part.initial),
    )


def _ragged(units: int) -> list[int]:
    """The lengths of ragged chunks that make up a number of units; none is empty."""
    shares = np.cumsum((0, *_RAGGED)) / sum(_RAGGED)
    ends = [round(share * units) for share in shares]

    sizes = []
    for before, after in pairwise(ends):
        if after > before:
            sizes.append(after - before)
    return sizes


def with_prefix(case: Case, call: int, contract: Contract) -> Case:
    """The steps of a case up to the end of a call, as one call of their own."""
    steps = case.ends[call]
    inputs = {}
    for spec in contract.inputs:
        array = case.inputs[spec.name]
        if "time" in spec.shape:
            axis = spec.shape.index("time")
            inputs[spec.name] = array[(slice(None),) * axis + (slice(steps),)]
        else:
            inputs[spec.name] = array[:1]
    return replace(case, through="model", chunks=(steps,), inputs=inputs)

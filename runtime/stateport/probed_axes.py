# SPDX-License-Identifier: Apache-2.0
"""Axes that a file leaves open without a usable name, found by running it at two sizes.

Other exporters may give each input an axis name of its own for the batch, or leave the axes of
outputs unnamed. Which axis is the batch then follows from what the engine takes and gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .contract import ArraySpec, Axis, Contract, axis_names, has_time, names_of, resolve
from .engines import Engine
from .engines.base import answers
from .errors import StateportError
from .picking import positions_of, present
from .validation import Array

#: The sizes of the batch, of time, and of axes that are neither, in two runs. They differ within a
#: run, so that no operator takes one for another, and between the runs, so that an axis that
#: follows one of them is not taken for one of a fixed size. There are enough steps that a network
#: that cuts some off has some left: ONNX Runtime aborts the process if a recurrent operator gets a
#: sequence of no steps.
_RUNS: Final = ((2, 64, 48), (5, 96, 80))
#: Lengths of windows in samples that files take which refuse those numbers of steps.
_WINDOWS: Final = (256, 512, 576, 1024)
#: The most assignments of axes that are tried.
_MOST_TRIED: Final = 64


@dataclass(frozen=True)
class _BothRuns:
    """The outputs of both runs, and the steps of each."""

    outputs: list[dict[str, Array]]
    times: tuple[int, ...]


def find_batch(contract: Contract, engine: Engine) -> Contract:
    """The contract, in which the batch of each input has the name of that of the states.

    Where states have a batch and no input has one, every open axis of each input is tried: with the
    batch there the file runs, and elsewhere it does not. Where several fit, or none, the contract
    stays as it is.
    """
    states_have_batch = any("batch" in spec.shape for spec in contract.states)
    if not states_have_batch or _has(contract, "batch"):
        return contract

    fitting = []
    for renamed in itertools.islice(_assignments(contract), _MOST_TRIED):
        if _takes(renamed, engine):
            fitting.append(renamed)
    if len(fitting) == 1:
        return _with_time(fitting[0])
    return contract


def measure_outputs(contract: Contract, engine: Engine) -> Contract:
    """The contract, in which an unnamed axis of an output is the batch or time if it follows that.

    Files need not declare the shapes of outputs. Where the file refuses both sizes that are tried,
    the contract stays as it is.
    """
    if all(_is_known(contract, spec) for spec in contract.outputs):
        return contract

    both = _both_runs(contract, engine)
    if both is None:
        return contract

    outputs = []
    for spec in contract.outputs:
        shapes = [run[spec.name].shape for run in both.outputs]
        ranks_differ = len(shapes[0]) != len(shapes[1])
        if _is_known(contract, spec) or ranks_differ:
            outputs.append(spec)
        else:
            shape = _measured_shape(contract, spec, shapes, both.times)
            outputs.append(replace(spec, shape=shape))
    return replace(contract, outputs=tuple(outputs))


def constant_outputs(contract: Contract, engine: Engine) -> frozenset[str]:
    """The outputs that have the same bytes whatever goes in, at two sizes, from drawn numbers."""
    both = _both_runs(contract, engine)
    if both is None:
        return frozenset()

    first, second = both.outputs
    names = set()
    for spec in contract.outputs:
        a, b = first[spec.name], second[spec.name]
        if a.shape == b.shape and a.tobytes() == b.tobytes():
            names.add(spec.name)
    return frozenset(names)


def _both_runs(contract: Contract, engine: Engine) -> _BothRuns | None:
    """What calls of both sizes give; None where the engine refuses one.

    A file of windows takes few numbers of steps, so that the same one is tried in both calls.
    """
    different = [steps_of_run(contract, time) for _, time, _ in _RUNS]

    alike = [[window, window] for window in _WINDOWS] if _has(contract, "time") else []

    for times in (different, *alike):
        measured = []
        for (batch, _, free), time in zip(_RUNS, times, strict=True):
            run = _run(contract, engine, {"batch": batch, "time": time}, free)
            if run is None:
                break
            measured.append(run)
        if len(measured) == len(_RUNS):
            return _BothRuns(measured, tuple(times))
    return None


def steps_of_run(contract: Contract, time: int) -> int:
    """The number of steps of a run, as a contract allows it: not too few, and a multiple."""
    return contract.shortest_chunk + time * contract.step_multiple


def _assignments(contract: Contract) -> Iterator[Contract]:
    """Contracts in which one open axis of each input, or none, is the batch."""
    choices = [[*_open(spec), None] for spec in contract.inputs]
    for chosen in itertools.product(*choices):
        if present(chosen):
            inputs = []
            for spec, number in zip(contract.inputs, chosen, strict=True):
                renamed = spec if number is None else _with_axis(spec, number, "batch")
                inputs.append(renamed)
            yield replace(contract, inputs=tuple(inputs))


def _open(spec: ArraySpec) -> list[int]:
    """The positions of an array's axes that have a plain name and no size."""
    return positions_of(lambda axis: isinstance(axis, str) and axis != "time", spec.shape)


def _with_axis(spec: ArraySpec, number: int, axis: Axis) -> ArraySpec:
    shape = list(spec.shape)
    shape[number] = axis
    return replace(spec, shape=tuple(shape))


def _with_time(contract: Contract) -> Contract:
    """The contract; where no input has time, the only open axis of one is time."""
    if has_time(contract):
        return contract

    inputs = []
    for spec in contract.inputs:
        rest = []
        for number in _open(spec):
            if spec.shape[number] != "batch":
                rest.append(number)

        named = _with_axis(spec, rest[0], "time") if len(rest) == 1 else spec
        inputs.append(named)
    return replace(contract, inputs=tuple(inputs))


def _takes(contract: Contract, engine: Engine) -> bool:
    batch, time, free = _RUNS[0]
    return _run(contract, engine, {"batch": batch, "time": time}, free) is not None


def _run(
    contract: Contract, engine: Engine, sizes: Mapping[str, int], free: int
) -> dict[str, Array] | None:
    """What one call gives at these sizes, from drawn numbers; None where the engine refuses it."""
    specs = (*contract.inputs, *contract.state_inputs)
    all_sizes = {**dict.fromkeys(axis_names(specs), free), **sizes}
    random = np.random.default_rng(all_sizes["batch"])
    try:
        arrays = {spec.name: draw(spec, all_sizes, random) for spec in specs}
        outputs = names_of((*contract.outputs, *contract.state_outputs))
        return answers(engine, arrays, outputs)
    except (StateportError, KeyError):  # a size that the file does not take
        return None


def draw(spec: ArraySpec, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    """Normal numbers; for integers, 0 and 1, which every vocabulary has; for lengths, all steps."""
    shape = resolve(spec.shape, sizes)
    if spec.lengths_of is not None:
        return np.full(shape, sizes[spec.lengths_of], spec.dtype)
    if np.dtype(spec.dtype).kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)
    return np.asarray(random.integers(0, 2, shape)).astype(spec.dtype)


def _is_known(contract: Contract, spec: ArraySpec) -> bool:
    """Whether the shape of an output is known before a call."""
    sizes = dict.fromkeys(axis_names((*contract.inputs, *contract.state_inputs)), 1)
    try:
        resolve(spec.shape, sizes)
    except KeyError:
        return False
    return bool(spec.shape)


def _measured_shape(
    contract: Contract, spec: ArraySpec, shapes: Sequence[tuple[int, ...]], times: tuple[int, ...]
) -> tuple[Axis, ...]:
    """The axes of an output from its sizes in both runs."""
    shape: list[Axis] = []
    for number, pair in enumerate(zip(*shapes, strict=True)):
        declared = spec.shape[number] if number < len(spec.shape) else None
        if pair == _batches():
            shape.append("batch")
        elif pair == times and _has(contract, "time"):
            shape.append("time")
        elif pair[0] == pair[1]:  # neither the batch nor time nor any open axis changes it
            shape.append(pair[0])
        elif isinstance(declared, str):
            shape.append(declared)
        else:
            shape.append(f"{spec.name} axis {number}")
    return tuple(shape)


def _batches() -> tuple[int, ...]:
    return tuple(batch for batch, _, _ in _RUNS)


def _has(contract: Contract, axis: str) -> bool:
    return any(axis in spec.shape for spec in contract.inputs)

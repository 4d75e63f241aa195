# SPDX-License-Identifier: Apache-2.0
"""Vectors from a source that hides its states: an ONNX file, or a TorchScript module.

Such a source can only be asked for whole sequences. Its answer for the first n steps is also what
chunks have to give up to step n, so there are vectors for chunks too. The states between chunks
come from the lifted file itself: they prove nothing about it, but other engines are compared with
them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from stateport import Contract, Model, State
from stateport.axes import with_known_sizes
from stateport.contract import ArraySpec, StateSpec, Streaming, has_time
from stateport.errors import StateportError
from stateport.parity.vectors import Case, Vectors, call_inputs, most_steps, results, rows
from stateport.precision import BUDGETS

from ..errors import ExportError
from ..vectors.cases import RAGGED
from ..vectors.floor import no_floor
from .source_cases import (
    AcceptedSizes,
    Array,
    Source,
    input_axes,
    make_case,
    middle_of,
    source_cases,
)

#: The largest difference between chunks and the whole, relative to the largest element, by the
#: precision of the file. In the 16-bit formats, the states between chunks are rounded: it is eight
#: units in the last place, 2**-10 and 2**-7.
_SAME: Final = {"float32": 1e-4, "float16": 8 * 2.0**-10, "bfloat16": 8 * 2.0**-7}
#: In a file that rounds values to integers, the difference is noise, which is compared with the
#: whole as root mean squares.
_SAME_ROUNDED: Final = {name: 10 ** (-BUDGETS[name] / 20) for name in ("int8", "int4")}
#: Chunks are tried as multiples of these.
_MULTIPLES: Final = (1, 2, 4, 8, 16, 32)
#: The steps of chunks, before they are multiplied.
_LONG: Final = (40, 32, 64)
_SHORT: Final = (40, *reversed(RAGGED))
#: What a running maximum passes on changes at the beginning alone.
_EARLY: Final = RAGGED


def with_true_batch(source: Source, model: Model, sizes: AcceptedSizes) -> Contract:
    """The contract; with a batch of one size if both files take no other.

    A source that holds first states for one batch takes that batch only. The lifted file takes any,
    unless something else in it is made for one batch, too.

    Args:
        source: gives the answers for whole sequences.
        model: the lifted file.
        sizes: what the source takes.
    """
    contract = model.contract
    if "batch" not in input_axes(contract) or len(sizes.batches) > 1:
        return contract
    if _takes_more_rows(source, model, sizes):
        return contract

    (batch,) = sizes.batches
    return replace(
        contract,
        inputs=tuple(_with_batch(spec, batch) for spec in contract.inputs),
        outputs=tuple(_with_batch(spec, batch) for spec in contract.outputs),
        states=tuple(_with_batch(spec, batch) for spec in contract.states),
    )


def _takes_more_rows(source: Source, model: Model, sizes: AcceptedSizes) -> bool:
    """Whether the lifted file takes a larger batch, and gives the first rows the same answers."""
    contract = model.contract
    (batch,) = sizes.batches
    larger = make_case(contract, "whole", [64], batch + 1, free_size=sizes.free)
    smaller = {}
    for spec in contract.inputs:
        smaller[spec.name] = _first_rows(spec, larger.inputs[spec.name], batch)

    try:
        (answers,) = _run_calls(model, larger)
        rows = {
            spec.name: _first_rows(spec, answers[spec.name], batch) for spec in contract.outputs
        }
        return _difference(model, source(smaller), [rows]) is None
    except StateportError:
        return False


def _first_rows(spec: ArraySpec, array: Array, batch: int) -> Array:
    """The first rows of a batch; the whole array if it has no axis for the batch."""
    if "batch" not in spec.shape:
        return array
    return array.take(range(batch), spec.shape.index("batch"))


_Spec = TypeVar("_Spec", ArraySpec, StateSpec)


def _with_batch(spec: _Spec, batch: int) -> _Spec:
    """An array or a state whose batch has this size."""
    return replace(spec, shape=tuple(with_known_sizes(spec.shape, {"batch": batch})))


def measure_source_streaming(source: Source, model: Model, sizes: AcceptedSizes) -> Streaming:
    """Whether chunks give the source's answers for the whole, and which multiple they must be.

    Args:
        source: gives the answers for whole sequences.
        model: the lifted file, which takes chunks. Its precision says how near they come.
        sizes: what the source takes.
    """
    if not has_time(model.contract):
        return Streaming(False, "none of its inputs has an axis that is time")

    first_problem = None
    for multiple in _MULTIPLES:
        problem = _chunk_problem(source, model, multiple, sizes)
        if problem is None:
            return Streaming(True, None, multiple)
        first_problem = first_problem or problem
    return Streaming(False, first_problem)


def _chunk_problem(source: Source, model: Model, multiple: int, sizes: AcceptedSizes) -> str | None:
    """How chunks of a multiple differ from the whole; None if they do not."""
    # Long chunks come first. A network that cuts off steps may have none left of a short chunk, and
    # ONNX Runtime aborts the process if a recurrent operator gets a sequence of no steps.
    for times in (_LONG, _SHORT, _EARLY):
        chunks = [multiple * time for time in times]
        batch = middle_of(sizes.batches)
        case = make_case(model.contract, "ragged", chunks, batch, free_size=sizes.free)
        try:
            whole = source(case.inputs)
            calls = _run_calls(model, case)
            problem = _difference(model, whole, calls)
        except StateportError as error:
            problem = f"it cannot take short chunks: {error}"
        if problem is not None:
            return problem
    return None


def _difference(
    model: Model, whole: Mapping[str, Array], calls: Sequence[Mapping[str, Array]]
) -> str | None:
    """A sentence on the first output whose chunks differ from the whole; None if all agree."""
    rounded = model.precision in _SAME_ROUNDED
    same = (_SAME_ROUNDED if rounded else _SAME)[model.precision]
    for spec in model.contract.outputs:
        axis = spec.time_axis
        expected = whole[spec.name]
        if axis is None:
            actual = calls[-1][spec.name]
        else:
            actual = np.concatenate([call[spec.name] for call in calls], axis)

        if actual.shape != expected.shape:
            return f"measured: fed in chunks, {spec.name!r} has another length than of the whole"

        difference = actual.astype(np.float64) - expected.astype(np.float64)
        measure = _root_mean_square if rounded else _scale_of
        error = measure(difference)
        size = measure(expected)
        # The negation refuses NaN too.
        if not error <= same * max(size, 1e-30):
            return f"measured: fed in chunks, {spec.name!r} is {error:.1g} away from the whole"
    return None


def _root_mean_square(array: Array) -> float:
    if array.size:
        return float(np.sqrt(np.mean(np.square(array.astype(np.float64)))))
    return 0.0


def _scale_of(array: Array) -> float:
    """The largest absolute value; 0 for integers, which have to be equal."""
    if array.dtype.kind != "f":
        return 0.0
    return float(np.abs(array).max(initial=0.0))


def record_from_source(source: Source, model: Model, sizes: AcceptedSizes) -> Vectors:
    """Asks the source for every case.

    If each call rounds values to integers, the whole, which has one scale for all steps, is no
    truth for chunks, so that whole sequences alone are recorded.

    Args:
        source: gives the answers for whole sequences.
        model: the lifted file.
        sizes: what the source takes.

    Raises:
        ExportError: the source takes none of the cases; with its last error.
    """
    answered: list[Case] = []
    reason = ""
    chunked = model.precision not in _SAME_ROUNDED
    for case in source_cases(model.contract, sizes, chunked=chunked):
        try:
            answered.append(_with_truth(source, model, case))
        except StateportError as error:  # a size that the source does not take
            reason = str(error)
    if not answered:
        raise ExportError(f"The lifted file takes nothing that was tried: {reason}")

    longest = most_steps(answered)
    return Vectors(
        contract=model.contract,
        truth="float32",
        floor=no_floor(model.contract, longest),
        cases=tuple(answered),
        made_with={"machine": platform.machine()},
    )


def _with_truth(source: Source, model: Model, case: Case) -> Case:
    """The case, with what each step has to give."""
    contract = model.contract
    whole = source(case.inputs)
    if not all(array.size for array in whole.values()):
        raise ExportError(f"the file gives nothing for {case.name!r}")
    calls = _run_calls(model, case)
    expected = _expected_per_call(source, contract, case, whole, calls)

    truth = {}
    for spec in results(contract):
        own_answers = [call[spec.name] for call in calls]
        table, _ = rows(spec, case, expected.get(spec.name, own_answers))
        truth[spec.name] = table
    return replace(_with_inputs_per_call(contract, case), truth=truth)


def _expected_per_call(
    source: Source,
    contract: Contract,
    case: Case,
    whole: Mapping[str, Array],
    calls: Sequence[Mapping[str, Array]],
) -> dict[str, list[Array]]:
    """What each call has to give, by output.

    For outputs with time, it is a part of the whole. For others, it is the source's answer for the
    sequence up to the end of the call.
    """
    expected: dict[str, list[Array]] = {}
    timeless = []
    for spec in contract.outputs:
        axis = spec.time_axis
        if axis is None:
            timeless.append(spec.name)
        else:
            lengths = [call[spec.name].shape[axis] for call in calls]
            ends = np.cumsum(lengths)[:-1]
            expected[spec.name] = np.split(whole[spec.name], ends, axis)

    if timeless:
        so_far = [source(_first_steps(contract, case.inputs, end)) for end in case.ends[:-1]]
        for name in timeless:
            expected[name] = [outputs[name] for outputs in (*so_far, whole)]
    return expected


def _first_steps(contract: Contract, inputs: Mapping[str, Array], end: int) -> dict[str, Array]:
    """The inputs, cut off at a step."""
    first = {}
    for spec in contract.inputs:
        array = inputs[spec.name]
        if "time" in spec.shape:
            array = array.take(range(end), spec.shape.index("time"))
        first[spec.name] = array
    return first


def _run_calls(model: Model, case: Case) -> list[dict[str, Array]]:
    """The lifted file's outputs for each call, with the states after it."""
    contract = model.contract
    calls = []
    state: State | None = None
    for inputs in call_inputs(contract, _with_inputs_per_call(contract, case)):
        outputs, state = model.run(inputs, state)
        next_states = {spec.output: state[spec.input] for spec in contract.states}
        calls.append({**outputs, **next_states})
    return calls


def _with_inputs_per_call(contract: Contract, case: Case) -> Case:
    """The case, in which inputs without time are repeated for each call."""
    inputs = {}
    for spec in contract.inputs:
        array = case.inputs[spec.name]
        if "time" not in spec.shape:
            array = np.stack([array] * len(case.chunks))
        inputs[spec.name] = array
    return Case(case.name, case.through, case.sizes, case.chunks, inputs, {})

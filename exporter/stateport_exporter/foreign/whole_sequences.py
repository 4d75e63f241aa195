# SPDX-License-Identifier: Apache-2.0
"""Vectors from a source that hides its states: an ONNX file, or a TorchScript module.

Such a source can only be asked for whole sequences. Its answer for the first n steps is also what
chunks have to give up to step n, so there are vectors for chunks too. The states between chunks
come from the lifted file itself: they prove nothing about it, but other engines are compared with
them.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from stateport import Contract, Model, State
from stateport.contract import ArraySpec, Axis, StateSpec, Streaming, resolve
from stateport.errors import StateportError
from stateport.parity.vectors import Case, Vectors, call_inputs, results, rows

from ..errors import ExportError
from ..vectors.cases import BATCHES, CHAIN, RAGGED, TIMES
from .rounding import ROUNDED

Array = NDArray[Any]
#: Gives the outputs of a whole sequence, from the initial state, by name.
Source = Callable[[Mapping[str, Array]], dict[str, Array]]
#: The sizes of time, of the batch, and of axes that are neither ("free" ones).
_Sizes = tuple[int, int, int]

#: The largest difference between chunks and the whole, relative to the largest element, by the
#: precision of the file. In the 16-bit formats, the states between chunks are rounded: it is eight
#: units in the last place, 2**-10 and 2**-7.
_SAME: Final = {"float32": 1e-4, "float16": 8 * 2.0**-10, "bfloat16": 8 * 2.0**-7}
#: Sizes that are tried for free axes, such as an image's width.
_FREE_SIZES: Final = (4, 16, 64, 256)
#: Sizes of the batch that are tried, in this order, for files that are made for one of them.
_FROZEN_BATCHES: Final = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 64, 128, 256)
#: Chunks are tried as multiples of these.
_MULTIPLES: Final = (1, 2, 4, 8, 16, 32)
#: The steps of chunks, before they are multiplied.
_LONG: Final = (40, 32, 64)
_SHORT: Final = (40, *reversed(RAGGED))
#: If an output has no time, the source is asked once for each call, so that chains take long.
_SHORT_CHAIN: Final = 128


@dataclass(frozen=True)
class AcceptedSizes:
    """The sizes that a source takes.

    Attributes:
        free: a size for axes that are neither batch nor time.
        batches: the sizes of the batch that are used, from the smallest on; (1,) without a batch.
    """

    free: int
    batches: tuple[int, ...]


def accepted_sizes(source: Source, contract: Contract) -> AcceptedSizes:
    """The sizes that the source takes, of the batch and of axes that are neither batch nor time.

    Raises:
        ExportError: the source takes none of the sizes that are tried; with its first error.
    """
    axes = _input_axes(contract)
    free_sizes = _FREE_SIZES if axes - {"batch", "time"} else _FREE_SIZES[:1]
    batches = _FROZEN_BATCHES if "batch" in axes else (1,)
    reason = ""

    # Most files take a batch of one. Others hold a constant that is made for one batch.
    for batch, free in itertools.product(batches, free_sizes):
        problem = _refusal(source, contract, batch, free)
        if problem is None:
            return AcceptedSizes(free, _accepted_batches(source, contract, batch, free))
        reason = reason or problem

    raise ExportError(
        f"It takes nothing that was tried, so there is nothing to compare the new file with: "
        f"{reason}"
    )


def _accepted_batches(
    source: Source, contract: Contract, accepted: int, free: int
) -> tuple[int, ...]:
    """The sizes of the batch that are recorded, if the source takes them, and an accepted one."""
    batches = [accepted]
    if "batch" in _input_axes(contract):
        for size in BATCHES:
            if size != accepted and _refusal(source, contract, size, free) is None:
                batches.append(size)
    return tuple(sorted(batches))


def _refusal(source: Source, contract: Contract, batch: int, free: int) -> str | None:
    """Why a source does not take these sizes; None if it does."""
    try:
        source(_make_case(contract, "whole", [64], batch, free_size=free).inputs)
    except StateportError as error:
        return str(error)
    return None


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
    if "batch" not in _input_axes(contract) or len(sizes.batches) > 1:
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
    larger = _make_case(contract, "whole", [64], batch + 1, free_size=sizes.free)
    smaller = {}
    for spec in contract.inputs:
        smaller[spec.name] = _first_rows(spec, larger.inputs[spec.name], batch)

    try:
        (answers,) = _run_calls(model, larger)
        rows = {
            spec.name: _first_rows(spec, answers[spec.name], batch) for spec in contract.outputs
        }
        return _difference(model, source(smaller), [rows], rounded=False) is None
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
    shape = tuple(batch if axis == "batch" else axis for axis in spec.shape)
    return replace(spec, shape=shape)


def with_measured_outputs(source: Source, contract: Contract, sizes: AcceptedSizes) -> Contract:
    """The contract, with the shapes of outputs as they have been measured.

    Files need not declare them, or may declare them wrongly. An axis is the batch or time if it has
    that size in every call that was tried.
    """
    measured = _measure_shapes(source, contract, sizes)
    _, first = next(iter(measured))

    outputs = []
    for spec in contract.outputs:
        shape = []
        for axis in range(len(first[spec.name])):
            lengths = {sizes: shapes[spec.name][axis] for sizes, shapes in measured}
            shape.append(_measured_axis(spec, axis, lengths))
        outputs.append(replace(spec, shape=tuple(shape)))
    return replace(contract, outputs=tuple(outputs))


def _measure_shapes(
    source: Source, contract: Contract, accepted: AcceptedSizes
) -> list[tuple[_Sizes, dict[str, tuple[int, ...]]]]:
    """The shapes of all outputs at several sizes, without the sizes that the source refuses."""
    axes = _input_axes(contract)
    first_batch, batch = accepted.batches[0], accepted.batches[-1]
    time = 96 if "time" in axes else 64

    measured: dict[_Sizes, dict[str, tuple[int, ...]]] = {}
    tried = (
        (64, first_batch, accepted.free),
        (64, batch, accepted.free),
        (time, first_batch, accepted.free),
        (64, first_batch, 3 * accepted.free),
    )
    for sizes in tried:
        steps, batch_size, free = sizes
        with contextlib.suppress(StateportError):
            case = _make_case(contract, "whole", [steps], batch_size, free_size=free)
            outputs = source(case.inputs)
            measured[sizes] = {name: array.shape for name, array in outputs.items()}
    return list(measured.items())


def _measured_axis(spec: ArraySpec, axis: int, lengths: Mapping[_Sizes, int]) -> Axis:
    """What an axis of an output is, from its lengths at several sizes."""
    if len(lengths) > 1:
        if _follows(lengths, [batch for _, batch, _ in lengths]):
            return "batch"
        if _follows(lengths, [time for time, _, _ in lengths]):
            return "time"

    declared = spec.shape[axis] if axis < len(spec.shape) else "?"
    is_wrong = isinstance(declared, int) and set(lengths.values()) != {declared}
    if declared == "?" or is_wrong:
        return f"{spec.name} axis {axis}"
    return declared


def _follows(lengths: Mapping[_Sizes, int], sizes: Sequence[int]) -> bool:
    """Whether the lengths are these sizes, which have to differ."""
    return len(set(sizes)) > 1 and sizes == list(lengths.values())


def measure_source_streaming(
    source: Source, model: Model, sizes: AcceptedSizes, *, rounded: bool = False
) -> Streaming:
    """Whether chunks give the source's answers for the whole, and which multiple they must be.

    Args:
        source: gives the answers for whole sequences.
        model: the lifted file, which takes chunks.
        sizes: what the source takes.
        rounded: whether each call rounds values to integers, so that chunks are only near the
            whole.
    """
    if not any("time" in spec.shape for spec in model.contract.inputs):
        return Streaming(False, "none of its inputs has an axis that is time")

    first_problem = None
    for multiple in _MULTIPLES:
        problem = _chunk_problem(source, model, multiple, sizes, rounded)
        if problem is None:
            return Streaming(True, None, multiple)
        first_problem = first_problem or problem
    return Streaming(False, first_problem)


def _chunk_problem(
    source: Source, model: Model, multiple: int, sizes: AcceptedSizes, rounded: bool
) -> str | None:
    """How chunks of a multiple differ from the whole; None if they do not."""
    # Long chunks come first. A network that cuts off steps may have none left of a short chunk, and
    # ONNX Runtime aborts the process if a recurrent operator gets a sequence of no steps.
    for times in (_LONG, _SHORT):
        chunks = [multiple * time for time in times]
        batch = _middle(sizes.batches)
        case = _make_case(model.contract, "ragged", chunks, batch, free_size=sizes.free)
        try:
            whole, calls = source(case.inputs), _run_calls(model, case)
            problem = _difference(model, whole, calls, rounded)
        except StateportError as error:
            problem = f"it cannot take short chunks: {error}"
        if problem is not None:
            return problem
    return None


def _difference(
    model: Model,
    whole: Mapping[str, Array],
    calls: Sequence[Mapping[str, Array]],
    rounded: bool,
) -> str | None:
    """A sentence on the first output whose chunks differ from the whole; None if all agree."""
    same = ROUNDED if rounded else _SAME[model.precision]
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
        error, size = measure(difference), measure(expected)
        # The negation refuses NaN too.
        if not error <= same * max(size, 1e-30):
            return f"measured: fed in chunks, {spec.name!r} is {error:.1g} away from the whole"
    return None


def _root_mean_square(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array.astype(np.float64))))) if array.size else 0.0


def _scale_of(array: Array) -> float:
    """The largest absolute value; 0 for integers, which have to be equal."""
    if array.dtype.kind != "f":
        return 0.0
    return float(np.abs(array).max(initial=0.0))


def record_from_source(
    source: Source, model: Model, sizes: AcceptedSizes, *, rounded: bool = False
) -> Vectors:
    """Asks the source for every case.

    Args:
        source: gives the answers for whole sequences.
        model: the lifted file.
        sizes: what the source takes.
        rounded: whether each call rounds values to integers. The whole, which has one scale for
            all steps, is then no truth for chunks, so that whole sequences alone are recorded.

    Raises:
        ExportError: the source takes none of the cases; with its last error.
    """
    answered: list[Case] = []
    reason = ""
    for case in _cases(model.contract, sizes, chunked=not rounded):
        try:
            answered.append(_with_truth(source, model, case))
        except StateportError as error:  # a size that the source does not take
            reason = str(error)
    if not answered:
        raise ExportError(f"The lifted file takes nothing that was tried: {reason}")

    longest = max(sum(case.chunks) for case in answered)
    return Vectors(
        contract=model.contract,
        truth="float32",
        floor={spec.name: np.zeros(longest) for spec in results(model.contract)},
        cases=tuple(answered),
        made_with={"machine": platform.machine()},
    )


def _with_truth(source: Source, model: Model, case: Case) -> Case:
    """The case, with what each step has to give."""
    contract = model.contract
    whole = source(case.inputs)
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
            ends = np.cumsum([call[spec.name].shape[axis] for call in calls])[:-1]
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


def _cases(contract: Contract, sizes: AcceptedSizes, *, chunked: bool) -> Iterator[Case]:
    """All cases that the vectors have: whole sequences, and chunks where the file streams."""
    yield from _whole_cases(contract, sizes)
    has_time = "time" in _input_axes(contract)
    if chunked and has_time and contract.streaming.ok and contract.states:
        yield from _chunked_cases(contract, sizes)


def _whole_cases(contract: Contract, sizes: AcceptedSizes) -> Iterator[Case]:
    axes = _input_axes(contract)
    multiple = contract.streaming.chunk_multiple
    times = TIMES if "time" in axes else (1,)
    has_free_axes = bool(axes - {"batch", "time"})

    for batch in sizes.batches:
        for time in times:
            yield _make_case(contract, "whole", [time * multiple], batch, free_size=sizes.free)
        if has_free_axes:
            for factor in (2, 3):
                name = f"{factor} times as wide"
                yield _make_case(contract, name, [64], batch, free_size=factor * sizes.free)


def _chunked_cases(contract: Contract, sizes: AcceptedSizes) -> Iterator[Case]:
    batch = _middle(sizes.batches)
    multiple = contract.streaming.chunk_multiple
    ragged = [time * multiple for time in RAGGED]
    has_timeless_output = any(spec.time_axis is None for spec in contract.outputs)
    chain_length = _SHORT_CHAIN if has_timeless_output else CHAIN

    def chunked(name: str, chunks: Sequence[int], through: str) -> Case:
        return _make_case(contract, name, chunks, batch, through, free_size=sizes.free)

    yield chunked("step by step", [multiple] * 64, "stream")
    yield chunked("ragged chunks", ragged, "stream")
    yield chunked("ragged calls", ragged, "model")
    yield chunked("chain", [multiple] * chain_length, "stream")


def _middle(batches: Sequence[int]) -> int:
    return batches[len(batches) // 2]


def _input_axes(contract: Contract) -> set[str]:
    """The names of all axes of the inputs."""
    names: set[str] = set()
    for spec in contract.inputs:
        names.update(axis for axis in spec.shape if isinstance(axis, str))
    return names


def _make_case(
    contract: Contract,
    name: str,
    chunks: Sequence[int],
    batch: int,
    through: str = "model",
    *,
    free_size: int,
) -> Case:
    """A case with random inputs, which depend only on the sizes."""
    sizes = dict.fromkeys(_input_axes(contract) - {"time"}, free_size)
    if "batch" in sizes:
        sizes["batch"] = batch

    time = sum(chunks)
    random = np.random.default_rng(10_000 * batch + time)
    all_sizes = {**sizes, "time": time}
    inputs = {spec.name: _random_array(spec, all_sizes, random) for spec in contract.inputs}
    return Case(f"{name} {batch}x{time}", through, sizes, tuple(chunks), inputs, {})


def _random_array(spec: ArraySpec, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    """Normal numbers; for integers, 0 and 1, which every vocabulary has, or lengths that fit."""
    shape = resolve(spec.shape, sizes)
    if np.dtype(spec.dtype).kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)

    if spec.lengths_of is None:
        numbers = random.integers(0, 2, shape)
    else:
        numbers = random.integers(1, sizes[spec.lengths_of] + 1, shape)
    return np.asarray(numbers).astype(spec.dtype)

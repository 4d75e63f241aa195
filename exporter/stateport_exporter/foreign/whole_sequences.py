"""Vectors from something that keeps its states to itself: an ONNX file, a TorchScript module.

It can be asked for whole sequences alone. What a sequence gives up to a step is its answer for that
step, so chunks have a truth too. The states in between are those of the lifted file itself; they
say nothing of it, but other engines can be held against them.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stateport import Contract, Model, State
from stateport.contract import ArraySpec, Axis, Streaming, resolve
from stateport.errors import StateportError
from stateport.parity.vectors import Case, Vectors, call_inputs, results, rows

from ..errors import ExportError
from ..vectors.cases import BATCHES, CHAIN, RAGGED, TIMES

Array = NDArray[Any]
#: Gives the outputs of a whole sequence, from the initial state.
Source = Callable[[Mapping[str, Array]], dict[str, Array]]

#: What chunks give may be so far from what the whole gives, relative to the largest, in float32.
_SAME: Final = 1e-4
#: Sizes that are tried for axes that are neither batch nor time, such as an image's width.
_OTHERS: Final = (4, 16, 64, 256)
#: Chunks are tried as multiples of these.
_MULTIPLES: Final = (1, 2, 4, 8, 16, 32)
_LONG: Final = (40, 32, 64)
#: Outputs without time are asked for at the end of each call, so that long chains take long.
_SHORT_CHAIN: Final = 128


def other_size(source: Source, contract: Contract) -> int:
    """A size for axes that are neither batch nor time, that the source takes.

    Raises:
        ExportError: it takes none of those that are tried, and what it says.
    """
    reason = ""
    for size in _OTHERS:
        try:
            source(_case(contract, "whole", [64], 1, other=size).inputs)
        except StateportError as error:
            reason = str(error)
            continue
        return size
    raise ExportError(
        f"It takes nothing that was tried, so there is nothing to hold the new file against: "
        f"{reason}"
    )


def with_measured_outputs(source: Source, contract: Contract, other: int) -> Contract:
    """The contract with the axes that outputs are seen to have.

    Files need not say them, or say them wrong. An axis that is as long as the batch or as time at
    every size that is tried is that.
    """
    axes = {axis for spec in contract.inputs for axis in spec.shape}
    batch, time = (2 if "batch" in axes else 1), (96 if "time" in axes else 64)
    seen: dict[tuple[int, int, int], dict[str, Array]] = {}
    for sizes in ((64, 1, other), (64, batch, other), (time, 1, other), (64, 1, 3 * other)):
        with contextlib.suppress(StateportError):
            case = _case(contract, "whole", [sizes[0]], sizes[1], other=sizes[2])
            seen[sizes] = source(case.inputs)
    return replace(
        contract,
        outputs=tuple(
            replace(
                spec,
                shape=tuple(
                    _measured(
                        spec,
                        place,
                        {sizes: made[spec.name].shape[place] for sizes, made in seen.items()},
                    )
                    for place in range(next(iter(seen.values()))[spec.name].ndim)
                ),
            )
            for spec in contract.outputs
        ),
    )


def _measured(spec: ArraySpec, place: int, lengths: Mapping[tuple[int, int, int], int]) -> Axis:
    """What an axis is, from its length at several (time, batch, other)."""
    said = spec.shape[place] if place < len(spec.shape) else "?"
    if len(lengths) > 1:
        for number, name in ((1, "batch"), (0, "time")):
            varied = len({sizes[number] for sizes in lengths}) > 1
            if varied and all(sizes[number] == length for sizes, length in lengths.items()):
                return name
    if said == "?" or (isinstance(said, int) and {*lengths.values()} != {said}):
        return f"{spec.name} axis {place}"
    return said


def measure_source_streaming(source: Source, model: Model, other: int) -> Streaming:
    """Whether chunks give what the source gives for the whole, and of what multiple.

    `other` is the size of axes that are neither batch nor time.
    """
    contract = model.contract
    if not any("time" in spec.shape for spec in contract.inputs):
        return Streaming(False, "none of its inputs has an axis that is time")
    first = None
    for multiple in _MULTIPLES:
        # Long ones first: what cuts off steps gives its recurrent layers none of a short chunk, and
        # ONNX Runtime aborts the process where these are given a sequence of no steps.
        for times in (_LONG, (40, *reversed(RAGGED))):
            case = _case(contract, "ragged", [multiple * time for time in times], 2, other=other)
            try:
                problem = _difference(contract, source(case.inputs), _calls(model, case))
            except StateportError as error:
                problem = f"it cannot take short chunks: {error}"
            if problem is not None:
                first = first or problem
                break
        else:
            return Streaming(True, None, multiple)
    return Streaming(False, first)


def _difference(
    contract: Contract, whole: Mapping[str, Array], calls: Sequence[Mapping[str, Array]]
) -> str | None:
    for spec in contract.outputs:
        axis, last = spec.time_axis, calls[-1][spec.name]
        got = last if axis is None else np.concatenate([call[spec.name] for call in calls], axis)
        want = whole[spec.name]
        if got.shape != want.shape:
            return f"measured: fed in chunks, {spec.name!r} has another length than of the whole"
        scale = float(np.abs(want).max(initial=0.0)) if want.dtype.kind == "f" else 0.0
        off = np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0.0)
        if not off <= _SAME * max(scale, 1e-30):
            return f"measured: fed in chunks, {spec.name!r} is {off:.1g} away from the whole"
    return None


def record_from_source(source: Source, model: Model, other: int) -> Vectors:
    """Asks the source for every case.

    Raises:
        ExportError: it takes none of them.
    """
    answered, reason = list[Case](), ""
    for case in _cases(model.contract, other):
        try:
            answered.append(_answered(source, model, case))
        except StateportError as error:  # a size that the source does not take
            reason = str(error)
    if not answered:
        raise ExportError(f"The lifted file takes nothing that was tried: {reason}")
    length = max(sum(case.chunks) for case in answered)
    return Vectors(
        contract=model.contract,
        truth="float32",
        floor={spec.name: np.zeros(length) for spec in results(model.contract)},
        cases=tuple(answered),
        made_with={"machine": platform.machine()},
    )


def _answered(source: Source, model: Model, case: Case) -> Case:
    """The case with its truth."""
    contract = model.contract
    whole = source(case.inputs)
    calls = _calls(model, case)
    truths = _cut(source, contract, case, whole, calls)
    tables = {
        spec.name: rows(spec, case, truths.get(spec.name, [call[spec.name] for call in calls]))
        for spec in results(contract)
    }
    truth = {name: table for name, (table, _) in tables.items()}
    return replace(_per_call(contract, case), truth=truth)


def _cut(
    source: Source,
    contract: Contract,
    case: Case,
    whole: Mapping[str, Array],
    calls: Sequence[Mapping[str, Array]],
) -> dict[str, list[Array]]:
    """What each call should give: the whole, cut where the calls end."""
    truths: dict[str, list[Array]] = {}
    timeless = [spec for spec in contract.outputs if spec.time_axis is None]
    for spec in contract.outputs:
        axis = spec.time_axis
        if axis is not None:
            ends = np.cumsum([call[spec.name].shape[axis] for call in calls])[:-1]
            truths[spec.name] = np.split(whole[spec.name], ends, axis)
    if timeless:
        so_far = [source(_first(contract, case.inputs, end)) for end in case.ends[:-1]]
        for spec in timeless:
            truths[spec.name] = [one[spec.name] for one in (*so_far, whole)]
    return truths


def _first(contract: Contract, inputs: Mapping[str, Array], end: int) -> dict[str, Array]:
    return {
        spec.name: inputs[spec.name].take(range(end), spec.shape.index("time"))
        if "time" in spec.shape
        else inputs[spec.name]
        for spec in contract.inputs
    }


def _calls(model: Model, case: Case) -> list[dict[str, Array]]:
    """What the lifted file gives call by call, the states after each among it."""
    contract, found = model.contract, []
    state: State | None = None
    for inputs in call_inputs(contract, _per_call(contract, case)):
        outputs, after = model.run(inputs, state)
        found.append({**outputs, **{s.output: after[s.input] for s in contract.states}})
        state = after
    return found


def _per_call(contract: Contract, case: Case) -> Case:
    """Inputs without time stand once for each call in a case."""
    inputs = {
        spec.name: case.inputs[spec.name]
        if "time" in spec.shape
        else np.stack([case.inputs[spec.name]] * len(case.chunks))
        for spec in contract.inputs
    }
    return Case(case.name, case.through, case.sizes, case.chunks, inputs, {})


def _cases(contract: Contract, other: int) -> Iterator[Case]:
    def case(
        name: str, chunks: Sequence[int], batch: int, through: str = "model", times: int = 1
    ) -> Case:
        return _case(contract, name, chunks, batch, through, other=times * other)

    axes = {axis for spec in contract.inputs for axis in spec.shape}
    multiple = contract.streaming.chunk_multiple
    batches = BATCHES if "batch" in axes else (1,)
    for batch in batches:
        for time in TIMES if "time" in axes else (1,):
            yield case("whole", [time * multiple], batch)
        if {axis for axis in axes if isinstance(axis, str)} - {"batch", "time"}:
            for times in (2, 3):
                yield case(f"{times} times as wide", [64], batch, times=times)
    if not contract.streaming.ok or not contract.states:
        return
    batch = batches[len(batches) // 2]
    ragged = [time * multiple for time in RAGGED]
    timeless = any(spec.time_axis is None for spec in contract.outputs)
    chain = [multiple] * (_SHORT_CHAIN if timeless else CHAIN)
    yield case("step by step", [multiple] * 64, batch, "stream")
    yield case("ragged chunks", ragged, batch, "stream")
    yield case("ragged calls", ragged, batch)
    yield case("chain", chain, batch, "stream")


def _case(
    contract: Contract,
    name: str,
    chunks: Sequence[int],
    batch: int,
    through: str = "model",
    *,
    other: int,
) -> Case:
    axes = {axis for spec in contract.inputs for axis in spec.shape if isinstance(axis, str)}
    sizes = {axis: batch if axis == "batch" else other for axis in axes - {"time"}}
    time = sum(chunks)
    random = np.random.default_rng(10_000 * batch + time)
    inputs = {spec.name: _random(spec, {**sizes, "time": time}, random) for spec in contract.inputs}
    return Case(f"{name} {batch}x{time}", through, sizes, tuple(chunks), inputs, {})


def _random(spec: ArraySpec, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    """Normal numbers; integers are 0 or 1, which every vocabulary has, or lengths that fit."""
    shape = resolve(spec.shape, sizes)
    if np.dtype(spec.dtype).kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)
    low, high = (0, 2) if spec.lengths_of is None else (1, sizes[spec.lengths_of] + 1)
    return np.asarray(random.integers(low, high, shape)).astype(spec.dtype)

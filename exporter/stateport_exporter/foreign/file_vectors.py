# SPDX-License-Identifier: Apache-2.0
"""Vectors from an ONNX file with explicit states: its own answers, evaluated in float64.

The graph is evaluated node by node in float64 (`evaluation.float64`), one call after the other, and
each call takes the states that the last one returned. The floor, what float32 itself loses, is
measured on the same graph in float32, and on copies of it whose weights are off by one unit in
their last place.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from stateport import Contract
from stateport.contract import ArraySpec, resolve
from stateport.engines import open_engine
from stateport.engines.base import answers
from stateport.errors import StateportError
from stateport.model_file.onnx_outline import read
from stateport.parity.vectors import Case, Vectors, call_inputs, results, row_errors, rows

from ..errors import ExportError
from ..evaluation.float64 import evaluation
from ..vectors.cases import BATCHES, RAGGED

Array = NDArray[Any]
#: Gives all outputs of one call, by name, from all inputs, the states among them.
Call = Callable[[Mapping[str, Array]], Mapping[str, Array]]
#: By output and state output, (rows, elements).
_Tables = dict[str, tuple[Array, Array]]

#: The lengths of whole sequences, and the calls of a chain. Evaluation node by node takes about a
#: millisecond for each node of a call, so that there are fewer than for PyTorch.
_TIMES: Final = (1, 2, 7, 64)
_CHAIN: Final = 128
#: The copies of the file with weights off by one unit in their last place.
_NOISY_COPIES: Final = 3
#: Files with more weights are not copied.
_MOST_COPIED: Final = 256 << 20


def record_from_file(path: Path, contract: Contract, free_size: int, *, double: bool) -> Vectors:
    """Runs a file on every case, in float64 where that is possible.

    Args:
        path: the file.
        contract: its contract; the file itself need not have one.
        free_size: a size for axes that are neither batch nor time.
        double: whether the file may be evaluated in float64. A file that rounds values to integers
            may not: it would round other values.

    Returns:
        Vectors with the truth in float64 and a floor; or, where onnx's reference cannot evaluate
        the file, ONNX Runtime's answers in float32 and no floor.

    Raises:
        ExportError: the file takes none of the cases; with its last error.
    """
    cases = list(_cases(contract, free_size))
    if double:
        exact = _exact_vectors(path, contract, cases)
        if exact is not None:
            return exact

    engine = open_engine("ort-cpu", read(path), None, {})
    names = [spec.name for spec in results(contract)]

    def call(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return answers(engine, inputs, names)

    answered, reason = _answer_all(call, contract, cases)
    if not answered:
        raise ExportError(f"The file takes nothing that was tried: {reason}")
    floor = {name: np.zeros(_longest(answered)) for name in names}
    return _vectors(contract, "float32", floor, answered)


def _exact_vectors(path: Path, contract: Contract, cases: Sequence[Case]) -> Vectors | None:
    """Vectors in float64; None where onnx's reference cannot evaluate the file."""
    try:
        model = onnx.load(path)
        exact, _ = _answer_all(evaluation(model, double=True), contract, cases)
    except Exception:  # an operator that onnx's reference lacks, or fails on
        return None
    if not exact or not all(_is_double(tables, contract) for _, tables in exact):
        return None

    return _vectors(contract, "float64", _floor(model, contract, exact), exact)


def _floor(
    model: onnx.ModelProto, contract: Contract, exact: Sequence[tuple[Case, _Tables]]
) -> dict[str, Array]:
    """The largest error of float32 up to each step, over all cases: (steps,) float64."""
    floor = {spec.name: np.zeros(_longest(exact)) for spec in results(contract)}
    in_float32 = evaluation(model, double=False)
    for case, tables in exact:
        _raise_floor(floor, contract, _tables(in_float32, contract, case), tables)

    if model.ByteSize() <= _MOST_COPIED:
        for noisy in _noisy_copies(model):
            call = evaluation(noisy, double=True)
            for case, tables in exact:
                if len(case.chunks) == 1:  # chains take long, and show nothing more
                    _raise_floor(floor, contract, _tables(call, contract, case), tables)
    return {name: np.maximum.accumulate(steps) for name, steps in floor.items()}


def _is_double(tables: _Tables, contract: Contract) -> bool:
    """Whether all answers that the file has in float32 came in float64."""
    for spec in results(contract):
        if spec.dtype == "float32" and tables[spec.name][0].dtype != np.float64:
            return False
    return True


def _noisy_copies(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Copies whose float32 weights are off by one unit in the last place, up or down."""
    for seed in range(_NOISY_COPIES):
        random = np.random.default_rng(seed)
        noisy = onnx.ModelProto()
        noisy.CopyFrom(model)
        for tensor in noisy.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                array = numpy_helper.to_array(tensor)
                towards = random.choice(np.array([-np.inf, np.inf], np.float32), array.shape)
                shifted = np.where(array == 0, array, np.nextafter(array, towards))
                tensor.CopyFrom(numpy_helper.from_array(shifted, tensor.name))
        yield noisy


def _raise_floor(
    floor: Mapping[str, Array], contract: Contract, answered: _Tables, exact: _Tables
) -> None:
    """Raises the floor, in place, to the errors of answers; it is at least half a unit."""
    for spec in results(contract):
        table, steps = answered[spec.name]
        truth, _ = exact[spec.name]
        least: Array | float = 0.0
        if spec.dtype.startswith("float"):
            sizes = np.abs(truth, where=np.isfinite(truth), out=np.zeros(truth.shape))
            least = sizes.max(axis=1, initial=0.0) * (np.finfo(np.float32).eps / 2)

        errors = row_errors(table, truth)
        raised = np.where(np.isfinite(errors), np.maximum(errors, least), least)
        np.maximum.at(floor[spec.name], steps, raised)


def _answer_all(
    call: Call, contract: Contract, cases: Sequence[Case]
) -> tuple[list[tuple[Case, _Tables]], str]:
    """The cases that the file takes, with its answers; and the last error."""
    answered: list[tuple[Case, _Tables]] = []
    reason = ""
    for case in cases:
        try:
            answered.append((case, _tables(call, contract, case)))
        except (StateportError, RuntimeError, ValueError, IndexError) as error:
            reason = str(error)  # a size that the file does not take
    return answered, reason


def _tables(call: Call, contract: Contract, case: Case) -> _Tables:
    """What a file answers to all calls of a case, as rows with their steps."""
    sizes = {**case.sizes, "time": case.chunks[0]}
    state = {}
    for start in contract.state_inputs:
        zeros = np.zeros(resolve(start.shape, sizes), start.dtype)
        state[start.name] = case.initial.get(start.name, zeros)

    per_call: dict[str, list[Array]] = {spec.name: [] for spec in results(contract)}
    for inputs in call_inputs(contract, case):
        outputs = call({**inputs, **state})
        for name, arrays in per_call.items():
            arrays.append(np.asarray(outputs[name]))
        state = {each.input: np.asarray(outputs[each.output]) for each in contract.states}

    tables: _Tables = {}
    for spec in results(contract):
        table, steps = rows(spec, case, per_call[spec.name])
        tables[spec.name] = (table, steps)
    return tables


def _vectors(
    contract: Contract,
    truth: str,
    floor: Mapping[str, Array],
    answered: Sequence[tuple[Case, _Tables]],
) -> Vectors:
    cases = []
    for case, tables in answered:
        answers_of = {name: table for name, (table, _) in tables.items()}
        cases.append(
            Case(
                case.name,
                case.through,
                case.sizes,
                case.chunks,
                case.inputs,
                case.initial,
                answers_of,
            )
        )
    made_with = {"onnx": onnx.__version__, "machine": platform.machine()}
    return Vectors(contract, truth, floor, tuple(cases), made_with)


def _longest(answered: Sequence[tuple[Case, _Tables]]) -> int:
    return max(sum(case.chunks) for case, _ in answered)


def _cases(contract: Contract, free_size: int) -> Iterator[Case]:
    """Whole sequences from zeros and from drawn states, and chunks where the file streams."""
    has_time = "time" in _input_axes(contract)
    multiple = contract.streaming.chunk_multiple
    times = [time * multiple for time in _TIMES] if has_time else [1]
    batches = BATCHES if "batch" in _input_axes(contract) else (1,)

    for number, (batch, time) in enumerate(itertools.product(batches, times)):
        start = "random" if (number + number // len(times)) % 2 else "zeros"
        yield _drawn_case(contract, "whole", [time], batch, free_size, start)
    if contract.states and contract.streaming.ok:
        yield from _chunked_cases(contract, free_size, batches[len(batches) // 2])


def _chunked_cases(contract: Contract, free_size: int, batch: int) -> Iterator[Case]:
    """A chain of single steps, and where there is time, chunks of several lengths."""
    multiple = contract.streaming.chunk_multiple
    step = 1
    if "time" in _input_axes(contract):
        step = multiple
        ragged = [time * multiple for time in RAGGED]
        yield _drawn_case(contract, "ragged chunks", ragged, batch, free_size, through="stream")
    yield _drawn_case(contract, "chain", [step] * _CHAIN, batch, free_size, "random", "stream")


def _drawn_case(
    contract: Contract,
    name: str,
    chunks: Sequence[int],
    batch: int,
    free_size: int,
    start: str = "zeros",
    through: str = "model",
) -> Case:
    """A case with drawn inputs: whole along time, or stacked per call where there is no time."""
    sizes = dict.fromkeys(_input_axes(contract) - {"time"}, free_size)
    if "batch" in sizes:
        sizes["batch"] = batch

    random = np.random.default_rng(10_000 * batch + sum(chunks))
    whole = {**sizes, "time": sum(chunks)}
    inputs = {}
    for spec in contract.inputs:
        if "time" in spec.shape:
            inputs[spec.name] = _drawn_array(spec, whole, random)
        else:
            calls = [_drawn_array(spec, {**sizes, "time": n}, random) for n in chunks]
            inputs[spec.name] = np.stack(calls)

    initial = {}
    if start == "random":
        for state in contract.state_inputs:
            initial[state.name] = _drawn_state(state, sizes, random)
    title = f"{name} {batch}x{sum(chunks)}"
    if contract.states:
        title += f", from {start}"
    return Case(title, through, sizes, tuple(chunks), inputs, initial, {})


def _drawn_array(spec: ArraySpec, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    """Normal numbers; for integers, 0 and 1, which every vocabulary has, or lengths that fit."""
    shape = resolve(spec.shape, sizes)
    if np.dtype(spec.dtype).kind == "f":
        return random.standard_normal(shape).astype(spec.dtype)

    if spec.lengths_of is None:
        return np.asarray(random.integers(0, 2, shape)).astype(spec.dtype)
    return np.asarray(random.integers(1, sizes[spec.lengths_of] + 1, shape)).astype(spec.dtype)


def _drawn_state(spec: ArraySpec, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    """Half of normal numbers; zeros for integers, which may count or point somewhere."""
    shape = resolve(spec.shape, sizes)
    if np.dtype(spec.dtype).kind != "f":
        return np.zeros(shape, spec.dtype)
    return np.asarray(0.5 * random.standard_normal(shape)).astype(spec.dtype)


def _input_axes(contract: Contract) -> set[str]:
    """The names of all axes of the inputs and the states."""
    names: set[str] = set()
    for spec in (*contract.inputs, *contract.state_inputs):
        names.update(axis for axis in spec.shape if isinstance(axis, str))
    return names

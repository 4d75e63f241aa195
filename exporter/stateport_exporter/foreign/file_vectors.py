# SPDX-License-Identifier: Apache-2.0
"""Vectors from an ONNX file with explicit states: its own answers, evaluated in float64.

The graph is evaluated node by node in float64 (`evaluation.float64`), one call after the other, and
each call takes the states that the last one returned. The floor, what float32 itself loses, is
measured on the same graph in float32, and on copies of it whose weights are off by one unit in
their last place.
"""

from __future__ import annotations

import itertools
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, numpy_helper

from stateport import Contract
from stateport.contract import ArraySpec, names_of, resolve
from stateport.engines import open_engine
from stateport.engines.base import answers
from stateport.errors import StateportError
from stateport.model_file.onnx_outline import read
from stateport.parity.vectors import Case, Rows, Vectors, call_inputs, most_steps, results, rows

from ..errors import ExportError
from ..evaluation.float64 import evaluation
from ..vectors.allowance import Allowance
from ..vectors.cases import ragged_chunks
from ..vectors.floor import looking_ahead, no_floor, raise_floor
from ..vectors.record import first_calls
from .source_cases import AcceptedSizes, draw_array, input_axes, middle_of

Array = NDArray[Any]
#: Gives all outputs of one call, by name, from all inputs, the states among them.
Call = Callable[[Mapping[str, Array]], Mapping[str, Array]]
#: A case with the rows of each output and state output.
_Answered = tuple[Case, dict[str, Rows]]

#: The lengths of whole sequences, and the calls of a chain. Evaluation node by node takes about a
#: millisecond for each node of a call, so that there are fewer than for PyTorch.
_TIMES: Final = (1, 2, 7, 64)
_CHAIN: Final = 128
#: The calls of a file without a time axis: one alone might be exact by chance.
_CALLS: Final = 2
#: How often the calls of a file without a time axis are drawn, for each size of the batch.
_DRAWS: Final = 4
#: The seconds that evaluation may take in all, of which the first case takes what it needs.
_SECONDS: Final = 60.0
#: The copies of the file with weights off by one unit in their last place.
_NOISY_COPIES: Final = 8
#: Smaller constants stay as they are: they may be the scales of a Resize, which sizes depend on.
_FEW_ELEMENTS: Final = 8
#: Files with more weights are not copied.
_MOST_COPIED: Final = 256 << 20


def record_from_file(
    path: Path, contract: Contract, sizes: AcceptedSizes, *, double: bool
) -> tuple[Vectors, tuple[str, ...]]:
    """Runs a file on every case, in float64 where that is possible.

    Args:
        path: the file.
        contract: its contract; the file itself need not have one.
        sizes: what the file takes.
        double: whether the file may be evaluated in float64. A file that rounds values to integers
            may not: it would round other values.

    Returns:
        Vectors with the truth in float64 and a floor; or, where onnx's reference cannot evaluate
        the file, ONNX Runtime's answers in float32 and no floor. And what was shortened because it
        would have taken too long, one sentence each.

    Raises:
        ExportError: the file takes none of the cases; with its last error.
    """
    cases = list(_cases(contract, sizes))
    if double:
        allowance = Allowance(_SECONDS, shortest=1)
        exact = _exact_vectors(path, contract, cases, allowance)
        if exact is not None:
            return exact, allowance.notes

    engine = open_engine("ort-cpu", read(path), None, {})
    names = names_of(results(contract))

    def call(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return answers(engine, inputs, names)

    allowance = Allowance(_SECONDS, shortest=1)
    answered, reason = _answer_all(call, contract, cases, allowance)
    if not answered:
        raise ExportError(f"The file takes nothing that was tried: {reason}")
    floor = no_floor(contract, _longest(answered))
    return _vectors(contract, "float32", floor, answered), allowance.notes


def _exact_vectors(
    path: Path, contract: Contract, cases: Sequence[Case], allowance: Allowance
) -> Vectors | None:
    """Vectors in float64; None where onnx's reference cannot evaluate the file."""
    try:
        model = onnx.load(path)
        exact, _ = _answer_all(evaluation(model, double=True), contract, cases, allowance)
        if not exact or not all(_is_double(tables, contract) for _, tables in exact):
            return None
        floor = _floor(model, contract, exact, allowance)
    except Exception:  # an operator that onnx's reference lacks, or fails on
        return None
    return _vectors(contract, "float64", floor, exact)


def _floor(
    model: onnx.ModelProto,
    contract: Contract,
    exact: Sequence[_Answered],
    allowance: Allowance,
) -> dict[str, Array]:
    """The largest error of float32 up to each step, over all cases: (steps,) float64."""
    floor = no_floor(contract, _longest(exact))
    in_float32 = evaluation(model, double=False)
    _raise_to(floor, in_float32, contract, exact, results(contract))

    # An integer, such as the number of the largest element, is right or wrong: a copy whose weights
    # differ says nothing about it. Chains take long, and show nothing more.
    floats = []
    for spec in results(contract):
        if spec.dtype.startswith("float"):
            floats.append(spec)

    short = []
    for case, truth in exact:
        if len(case.chunks) <= _CALLS:
            short.append((case, truth))

    copies = allowance.copies(_NOISY_COPIES) if model.ByteSize() <= _MOST_COPIED else 0
    for noisy in _noisy_copies(model, copies):
        _raise_to(floor, evaluation(noisy, double=True), contract, short, floats)
    return looking_ahead(floor)


def _raise_to(
    floor: Mapping[str, Array],
    call: Call,
    contract: Contract,
    exact: Sequence[_Answered],
    specs: Sequence[ArraySpec],
) -> None:
    """Raises the floor of some outputs, in place, to the errors of a function's answers."""
    for case, truth in exact:
        tables = _tables(call, contract, case)
        for spec in specs:
            raise_floor(floor[spec.name], spec, tables[spec.name], truth[spec.name].table)


def _is_double(tables: Mapping[str, Rows], contract: Contract) -> bool:
    """Whether all answers that the file has in float32 came in float64."""
    for spec in results(contract):
        if spec.dtype == "float32" and tables[spec.name].table.dtype != np.float64:
            return False
    return True


def _noisy_copies(model: onnx.ModelProto, count: int) -> Iterator[onnx.ModelProto]:
    """Copies whose float32 weights are off by one unit in the last place, up or down."""
    for seed in range(count):
        random = np.random.default_rng(seed)
        noisy = onnx.ModelProto()
        noisy.CopyFrom(model)
        for tensor in _tensors(noisy.graph):
            is_float = tensor.data_type == TensorProto.FLOAT
            is_large = math.prod(tensor.dims) > _FEW_ELEMENTS
            if is_float and is_large:
                array = numpy_helper.to_array(tensor)
                towards = random.choice(np.array([-np.inf, np.inf], np.float32), array.shape)
                shifted = np.where(array == 0, array, np.nextafter(array, towards))
                tensor.CopyFrom(numpy_helper.from_array(shifted, tensor.name))
        yield noisy


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """The initializers and constants of a graph, and of the graphs of its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            elif attribute.HasField("t") and node.op_type == "Constant":
                yield attribute.t


def _answer_all(
    call: Call, contract: Contract, cases: Sequence[Case], allowance: Allowance
) -> tuple[list[_Answered], str]:
    """The cases that the file takes and that fit into the allowance; and the last error."""
    answered: list[_Answered] = []
    reason = ""
    for case in cases:
        calls = allowance.calls(case)
        if calls == 0:
            continue

        case = first_calls(contract, case, calls)
        try:
            with allowance.measured(case):
                answered.append((case, _tables(call, contract, case)))
        except (StateportError, RuntimeError, ValueError, IndexError) as error:
            reason = str(error)  # a size that the file does not take
    return answered, reason


def _tables(call: Call, contract: Contract, case: Case) -> dict[str, Rows]:
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

    return {spec.name: rows(spec, case, per_call[spec.name]) for spec in results(contract)}


def _vectors(
    contract: Contract,
    truth: str,
    floor: Mapping[str, Array],
    answered: Sequence[_Answered],
) -> Vectors:
    cases = []
    for case, tables in answered:
        cases.append(replace(case, truth={name: each.table for name, each in tables.items()}))
    made_with = {"onnx": onnx.__version__, "machine": platform.machine()}
    return Vectors(contract, truth, floor, tuple(cases), made_with)


def _longest(answered: Sequence[_Answered]) -> int:
    return most_steps(case for case, _ in answered)


def _cases(contract: Contract, sizes: AcceptedSizes) -> Iterator[Case]:
    """Whole sequences from zeros and from drawn states, and chunks where the file streams."""
    multiple = contract.streaming.chunk_multiple
    if "time" in input_axes(contract):
        names = ["whole"] * len(_TIMES)
        calls = [[time * multiple] for time in _TIMES]
    else:
        names = [f"calls, draw {number}," for number in range(1, _DRAWS + 1)]
        calls = [[1] * _CALLS] * _DRAWS

    pairs = itertools.product(sizes.batches, zip(names, calls, strict=True))
    for number, (batch, (name, chunks)) in enumerate(pairs):
        start = "random" if (number + number // len(calls)) % 2 else "zeros"
        yield _drawn_case(contract, name, chunks, batch, sizes, start, seed=number)
    if contract.states and contract.streaming.ok:
        yield from _chunked_cases(contract, sizes, middle_of(sizes.batches))


def _chunked_cases(contract: Contract, sizes: AcceptedSizes, batch: int) -> Iterator[Case]:
    """A chain of single steps, and where there is time, chunks of several lengths."""
    multiple = contract.streaming.chunk_multiple
    step = 1
    if "time" in input_axes(contract):
        step = multiple
        ragged = ragged_chunks(multiple)
        yield _drawn_case(contract, "ragged chunks", ragged, batch, sizes, through="stream")
    yield _drawn_case(contract, "chain", [step] * _CHAIN, batch, sizes, "random", "stream")


def _drawn_case(
    contract: Contract,
    name: str,
    chunks: Sequence[int],
    batch: int,
    drawn: AcceptedSizes,
    start: str = "zeros",
    through: str = "model",
    seed: int = 0,
) -> Case:
    """A case with drawn inputs: whole along time, or stacked per call where there is no time."""
    sizes = dict.fromkeys(input_axes(contract) - {"time"}, drawn.free)
    if "batch" in sizes:
        sizes["batch"] = batch

    random = np.random.default_rng([seed, batch, sum(chunks)])
    whole = {**sizes, "time": sum(chunks)}
    inputs = {}
    for spec in contract.inputs:
        if "time" in spec.shape:
            inputs[spec.name] = draw_array(spec, whole, random, drawn.lengths)
        else:
            calls = []
            for steps in chunks:
                of_call = {**sizes, "time": steps}
                calls.append(draw_array(spec, of_call, random, drawn.lengths))
            inputs[spec.name] = np.stack(calls)

    initial = {}
    if start == "random":
        for state in contract.state_inputs:
            initial[state.name] = _drawn_state(state, sizes, random)
    title = f"{name} {batch}x{sum(chunks)}"
    if contract.states:
        title += f", from {start}"
    return Case(title, through, sizes, tuple(chunks), inputs, initial, {})


def _drawn_state(spec: ArraySpec, sizes: Mapping[str, int], random: np.random.Generator) -> Array:
    """Half of normal numbers; zeros for integers, which may count or point somewhere."""
    shape = resolve(spec.shape, sizes)
    if np.dtype(spec.dtype).kind != "f":
        return np.zeros(shape, spec.dtype)
    return np.asarray(0.5 * random.standard_normal(shape)).astype(spec.dtype)

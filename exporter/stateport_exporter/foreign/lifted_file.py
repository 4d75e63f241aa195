"""A graph whose states become inputs and outputs, compared with its source and written."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from stateport import Contract, Model
from stateport.contract import CONTRACT_KEY, ORIGIN_KEY, Streaming
from stateport.engines import open_engine
from stateport.files.writing import written_together
from stateport.model_file.infer_contract import infer_contract
from stateport.model_file.onnx_outline import OnnxFile, read
from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import vectors_path

from ..errors import ExportError
from ..evaluation.trace import trace
from ..graph.dataflow import behind
from ..graph.serialization import save
from ..graph.verified_file import write_vectors
from ..states.naming import store_initial
from ..states.possible import PossibleState
from ..streaming.reasons import why_tied
from .axes import find_axes
from .states import (
    LiftedOperator,
    explicit_pairs,
    is_bidirectional,
    lengths_of_rows,
    lift_states,
    recurrent_nodes,
)
from .whole_sequences import (
    Source,
    measure_source_streaming,
    other_size,
    record_from_source,
    with_measured_outputs,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class LiftResult:
    """What `lift` wrote, and what became of every recurrent operator.

    `lifted` are the inputs of the states that the file kept to itself; `report` is what holding it
    against the old one said. `possible_states` are inputs and outputs that look like states and
    were not taken as such.
    """

    path: Path
    vectors: Path
    contract: Contract
    lifted: tuple[str, ...]
    outcomes: tuple[LiftedOperator, ...]
    report: EngineReport
    possible_states: tuple[PossibleState, ...] = ()


def write_lifted(
    model: ir.Model,
    known: Mapping[str, str],
    ask: Callable[[Contract], Source],
    path: Path,
    origin: Mapping[str, object],
    *,
    required: bool = True,
) -> LiftResult:
    """Lifts a graph, holds it against where it came from, and writes it.

    Args:
        model: the graph.
        known: the states that are its inputs and outputs already.
        ask: makes what gives whole sequences' answers, for a contract.
        path: the file to write.
        origin: what to note in it about where it came from.
        required: whether something has to be lifted.
    """
    axes = find_axes(model)
    lifted, outcomes = lift_states(model, known)
    if required and not lifted:
        raise ExportError(_nothing(outcomes))
    pairs = {**known, **explicit_pairs(model.graph, known)}
    pairs |= {one.input: one.output for one in lifted}
    initial = {one.input: one.initial for one in lifted if one.initial is not None}
    store_initial(model.graph, initial)
    with written_together(path) as folder:
        place = folder / path.name
        save(model, place)
        contract = _contract(read(place), pairs, axes, initial, lengths_of_rows(model.graph))
        source = ask(contract)

        def run(contract: Contract) -> Model:
            return Model(contract, open_engine("ort-cpu", read(place), None, {}), initial)

        other = other_size(source, contract)
        contract = with_measured_outputs(source, contract, other)
        streaming = _streaming(model, outcomes, source, run(contract), other)
        contract = replace(contract, streaming=streaming)
        vectors = record_from_source(source, run(contract), other)
        _say_shapes(model.graph, contract)
        model.metadata_props[CONTRACT_KEY] = contract.to_json()
        model.metadata_props[ORIGIN_KEY] = json.dumps(dict(origin))
        save(model, place)
        report = write_vectors(
            place,
            replace(vectors, trace=trace(place, vectors)),
            name=str(path),
            check=True,
            refusal=lambda said: (
                "The lifted file does not give the answers of the one it came from, so it was not "
                f"written. {said} Please report this file."
            ),
        )
    assert report is not None  # it was run on `ort-cpu` above
    names = tuple(one.input for one in lifted)
    left = tuple(_left(model.graph, contract))
    return LiftResult(path, vectors_path(path), contract, names, tuple(outcomes), report, left)


def _left(graph: ir.Graph, contract: Contract) -> Iterator[PossibleState]:
    """Inputs and outputs that look like states; the first input is what the file is fed."""
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for given, gives in itertools.product(contract.inputs[1:], contract.outputs):
        alike = (given.dtype, given.shape) == (gives.dtype, gives.shape)
        plain = given.time_axis is None and given.lengths_of is None
        if alike and plain and values[given.name] in behind(values[gives.name]):
            yield PossibleState(given.name, gives.name, given.dtype, given.shape)


def _nothing(outcomes: Sequence[LiftedOperator]) -> str:
    """Why there is nothing to lift."""
    if not outcomes:
        return "There is no LSTM, GRU or RNN in the file, so there is no state to lift."
    if all(outcome.what == "explicit" for outcome in outcomes):
        return (
            "All its states are inputs and outputs already. Load it as it is, with "
            "states={'input': 'output'} where the names do not tell."
        )
    left = [f"{one.operator} {one.name!r}: {one.reason}" for one in outcomes if one.reason]
    return f"There is nothing that can be lifted. {'; '.join(left)}."


def _contract(
    file: OnnxFile,
    pairs: Mapping[str, str],
    axes: Mapping[str, str],
    initial: Mapping[str, Array],
    lengths: Sequence[str],
) -> Contract:
    contract = infer_contract(file, pairs, axes)
    return replace(
        contract,
        inputs=tuple(
            replace(spec, lengths_of="time") if spec.name in lengths else spec
            for spec in contract.inputs
        ),
        states=tuple(
            replace(state, initial="file" if state.input in initial else "zeros")
            for state in contract.states
        ),
    )


def _streaming(
    model: ir.Model, outcomes: Sequence[LiftedOperator], source: Source, lifted: Model, other: int
) -> Streaming:
    """Whether chunks give what the whole gives; if not, why, as far as the graph shows it."""
    for node, _ in recurrent_nodes(model.graph):
        if is_bidirectional(node):
            reason = f"{node.name} is bidirectional: its backward half needs the whole sequence"
            return Streaming(False, reason)
        if len(node.inputs) > 4 and node.inputs[4] is not None:
            reason = f"{node.name} is told the length of each row, which chunks of it have not"
            return Streaming(False, reason)
    measured = measure_source_streaming(source, lifted, other)
    if measured.ok:
        return measured
    left = [f"{one.name} starts every call anew: {one.reason}" for one in outcomes if one.reason]
    return replace(measured, reason=next(iter(left), why_tied(model.graph) or measured.reason))


def _say_shapes(graph: ir.Graph, contract: Contract) -> None:
    """Gives the graph's inputs and outputs the axes of the contract."""
    specs = (*contract.inputs, *contract.outputs, *contract.state_inputs, *contract.state_outputs)
    shapes = {spec.name: spec.shape for spec in specs}
    for value in (*graph.inputs, *graph.outputs):
        value.shape = ir.Shape(shapes[str(value.name)])

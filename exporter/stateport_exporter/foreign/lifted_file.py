# SPDX-License-Identifier: Apache-2.0
"""A graph whose states become inputs and outputs, compared with its source and written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from stateport import Contract, Model
from stateport.contract import ArraySpec, Streaming, has_time
from stateport.engines import open_engine
from stateport.files.writing import written_together
from stateport.model_file.infer_contract import infer_contract
from stateport.model_file.onnx_outline import OnnxFile, read
from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import Vectors, vectors_path
from stateport.picking import sure

from ..errors import ExportError
from ..evaluation.trace import trace
from ..graph.dataflow import behind
from ..graph.serialization import save
from ..graph.verified_file import write_vectors
from ..states.naming import set_contract, store_initial
from ..states.possible import PossibleState
from ..streaming.reasons import why_tied
from .arguments import explicit_pairs, with_row_lengths
from .axes import find_axes
from .carried import lift_carried
from .constants import constant_of
from .frozen_batch import fix_batch
from .outputs import keep_outputs
from .precision import declare_precision
from .recurrent_operators import is_bidirectional, recurrent_nodes, row_lengths
from .source_cases import AcceptedSizes, Source
from .source_sizes import accepted_sizes, with_measured_outputs
from .stacked_states import stacked_pairs
from .states import Lifted, LiftedOperator, lift_states
from .whole_sequences import measure_source_streaming, record_from_source, with_true_batch

Array = NDArray[Any]


@dataclass(frozen=True)
class LiftResult:
    """What `lift` wrote, and what became of every recurrent operator.

    Attributes:
        path: the new file.
        vectors: the file of its vectors.
        contract: its contract.
        lifted: the names of the inputs that were hidden states before.
        outcomes: what became of each recurrent operator.
        report: the comparison of the new file with the answers of its source.
        possible_states: inputs and outputs that look like states but were not taken as states.
        notes: which inputs and outputs have another dtype than in the source; and which inputs have
            one value for all steps of a call, where a file of one step takes many now.
    """

    path: Path
    vectors: Path
    contract: Contract
    lifted: tuple[str, ...]
    outcomes: tuple[LiftedOperator, ...]
    report: EngineReport
    possible_states: tuple[PossibleState, ...] = ()
    notes: tuple[str, ...] = ()


def write_lifted(
    model: ir.Model,
    known: Mapping[str, str],
    ask: Callable[[Contract], Source],
    path: Path,
    origin: Mapping[str, object],
    *,
    required: bool = True,
) -> LiftResult:
    """Lifts the states of a graph, compares it with its source, and writes it.

    Args:
        model: the graph, which is changed in place.
        known: the states that are inputs and outputs already, {input: output}.
        ask: makes the function that gives the source's answers for whole sequences.
        path: the file to write. Its vectors are written beside it.
        origin: a note on where the file came from, which goes into its metadata.
        required: whether at least one state has to be found beyond the known ones.

    Raises:
        ExportError: no state can be lifted, although one is required; or the source's answers
            cannot be had; or the new file gives others.
    """
    axes = find_axes(model)
    fix_batch(model)
    own_outputs = [str(value.name) for value in model.graph.outputs]
    carried, loops, times = lift_carried(model)
    lifted, outcomes = lift_states(model, [*known, *(state.input for state in carried)])
    lifted, outcomes, axes = [*carried, *lifted], [*loops, *outcomes], {**axes, **times}
    found = stacked_pairs(model.graph, known)
    found |= explicit_pairs(model.graph, {**known, **found})
    found |= {state.input: state.output for state in lifted}
    if required and not found:
        raise ExportError(_why_nothing_lifted(outcomes, known))

    pairs = keep_outputs(model.graph, own_outputs, {**known, **found}, known)
    initial = _initial_values(lifted)
    store_initial(model.graph, initial)
    precision = declare_precision(model)

    with written_together(path) as folder:
        draft = folder / path.name
        save(model, draft)
        contract = _contract_of(read(draft), pairs, axes, initial, model.graph)
        source = ask(contract)

        def load(contract: Contract) -> Model:
            engine = open_engine("ort-cpu", read(draft), None, {})
            return Model(contract, engine, initial, precision)

        sizes = accepted_sizes(source, contract)
        contract = with_measured_outputs(source, contract, sizes)
        contract = with_true_batch(source, load(contract), sizes)
        streaming = _streaming_of(model, outcomes, source, load(contract), sizes)
        contract = replace(contract, streaming=streaming)
        vectors = record_from_source(source, load(contract), sizes)

        declare_shapes(model.graph, contract)
        set_contract(model, contract, origin)
        report = write_draft(model, draft, vectors, path, _refusal)

    return LiftResult(
        path=path,
        vectors=vectors_path(path),
        contract=contract,
        lifted=tuple(state.input for state in lifted),
        outcomes=tuple(outcomes),
        report=report,
        possible_states=tuple(_possible_states(model.graph, contract)),
    )


def write_draft(
    model: ir.Model, draft: Path, vectors: Vectors, path: Path, refusal: Callable[[str], str]
) -> EngineReport:
    """Writes a model and its vectors, and compares them.

    Args:
        model: the model, with its contract.
        draft: the file to write, in a folder of drafts.
        vectors: what it has to answer.
        path: the file that the draft becomes, for messages.
        refusal: makes the error from a sentence on the largest error.

    Raises:
        CheckError: the file gives other answers.
    """
    save(model, draft)
    traced = replace(vectors, trace=trace(draft, vectors))
    # `ort-cpu` is installed: it has run the file before.
    return sure(write_vectors(draft, traced, name=str(path), check=True, refusal=refusal))


def _refusal(worst: str) -> str:
    """The error for a file that gives other answers; `worst` is a sentence on the largest error."""
    return (
        "The lifted file does not give the answers of the one it came from, so it was not "
        f"written. {worst} Please report this file."
    )


def _initial_values(lifted: Sequence[Lifted]) -> dict[str, Array]:
    """The initial values of states that do not start from zeros."""
    values = {}
    for state in lifted:
        if state.initial is not None:
            values[state.input] = state.initial
    return values


def _possible_states(graph: ir.Graph, contract: Contract) -> Iterator[PossibleState]:
    """Inputs and outputs that look like states; the first input is the signal."""
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    for argument, result in itertools.product(contract.inputs[1:], contract.outputs):
        if not _are_alike(argument, result):
            continue
        if values[argument.name] in behind(values[result.name]):
            yield PossibleState(argument.name, result.name, argument.dtype, argument.shape)


def _are_alike(argument: ArraySpec, result: ArraySpec) -> bool:
    """Whether an input and an output have the dtype and shape of one state."""
    if argument.time_axis is not None or argument.lengths_of is not None:
        return False
    return (argument.dtype, argument.shape) == (result.dtype, result.shape)


def _why_nothing_lifted(outcomes: Sequence[LiftedOperator], known: Collection[str]) -> str:
    if not outcomes:
        return (
            "There is no LSTM, GRU or RNN in the file, and no loop that carries a value from a "
            "constant, so there is no state to lift."
        )
    if all(outcome.what == "explicit" for outcome in outcomes):
        if known:
            return (
                "All its states are inputs and outputs already. `stateport contract IN.onnx -o "
                "OUT.onnx` writes its contract into a copy; if the names of its states do not "
                "match, name them: --state INPUT=OUTPUT, or states={'input': 'output'}."
            )
        return (
            "All its states are inputs already, and no output was found that is the next value of "
            "one. If there is such an output, `stateport contract IN.onnx -o OUT.onnx --state "
            "INPUT=OUTPUT` writes the contract into a copy. In Python, that is "
            "states={'input': 'output'}."
        )

    reasons = []
    for outcome in outcomes:
        if outcome.reason:
            reasons.append(f"{outcome.operator} {outcome.name!r}: {outcome.reason}")

    return f"There is nothing that can be lifted. {'; '.join(reasons)}."


def _contract_of(
    file: OnnxFile,
    pairs: Mapping[str, str],
    axes: Mapping[str, str],
    initial: Mapping[str, Array],
    graph: ir.Graph,
) -> Contract:
    """The contract of the new file.

    Args:
        file: the new file.
        pairs: its states, {input: output}.
        axes: the names of its axes that have a meaning.
        initial: the initial values of states that do not start from zeros, by input.
        graph: its graph.
    """
    contract = with_row_lengths(infer_contract(file, pairs, axes), graph)
    states = []
    for state in contract.states:
        start = "file" if state.input in initial else "zeros"
        states.append(replace(state, initial=start))

    return replace(contract, states=tuple(states))


def _streaming_of(
    model: ir.Model,
    outcomes: Sequence[LiftedOperator],
    source: Source,
    lifted: Model,
    sizes: AcceptedSizes,
) -> Streaming:
    """Whether chunks give the same answers as whole sequences; if not, why."""
    for node, _ in recurrent_nodes(model.graph):
        if is_bidirectional(node):
            reason = f"{node.name} is bidirectional: its backward half needs the whole sequence"
            return Streaming(False, reason)
        lengths = row_lengths(node)
        if lengths is not None:
            return Streaming(False, _why_lengths_tie(node, lengths))

    if not has_time(lifted.contract):
        return _streaming_of_fixed(model.graph)

    # What depends on a threshold may not show in a few random sequences; the operators do.
    streaming = lifted.contract.streaming
    if streaming.ok is not False:
        streaming = measure_source_streaming(source, lifted, sizes)
    if streaming.ok:
        return streaming

    # An operator of the graph says more than the measurement.
    for outcome in outcomes:
        if outcome.reason:
            reason = f"{outcome.name} does not carry its state to the next call: {outcome.reason}"
            return replace(streaming, reason=reason)
    return replace(streaming, reason=why_tied(model.graph) or streaming.reason)


def _why_lengths_tie(node: ir.Node, lengths: ir.Value) -> str:
    if constant_of(lengths) is None:
        return f"{node.name} takes the length of each row, which is unknown for a chunk"
    return f"{node.name} has constant lengths of its rows, which count for a whole sequence only"


def _streaming_of_fixed(graph: ir.Graph) -> Streaming:
    """Whether a file without a time axis can be called again and again: yes, step by step."""
    for node, _ in recurrent_nodes(graph):
        x = node.inputs[0]
        if x is None or x.shape is None or x.shape[0] != 1:
            reason = (
                f"a call has a fixed length, so that {node.name} was never seen to go on from one "
                "call to the next"
            )
            return Streaming(False, reason)
    return Streaming()


def declare_shapes(graph: ir.Graph, contract: Contract) -> None:
    """Gives the graph's inputs and outputs the axes of the contract."""
    specs = (*contract.inputs, *contract.outputs, *contract.state_inputs, *contract.state_outputs)
    shapes = {spec.name: spec.shape for spec in specs}
    for value in (*graph.inputs, *graph.outputs):
        value.shape = ir.Shape(shapes[str(value.name)])

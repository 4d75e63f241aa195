# SPDX-License-Identifier: Apache-2.0
"""`stateport verify --locate`: the first node, and the first step, that differ from the truth.

Either the engine or the file can be wrong. The engine is wrong if it does not give what the file's
graph gives in float64; then that graph is the truth of every value. Otherwise the graph is not the
one that was exported, and the truth is the trace that was recorded at export.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from stateport.engines import open_engine
from stateport.errors import FileError, StateportError, in_words
from stateport.model import Model
from stateport.model_file.onnx_outline import read
from stateport.parity.bounds import FLOOR_FACTOR
from stateport.parity.engine_report import EngineReport
from stateport.parity.fault import LocatedFault
from stateport.parity.run_case import fitted, run_case
from stateport.parity.vectors import Case, Trace, Vectors, call_inputs
from stateport.precision import BUDGETS

from ..evaluation.float64 import Values, values
from ..evaluation.trace import first_call
from .first_fault import Suspect, difference, first_suspect
from .single_node import write_node

Array = NDArray[Any]

#: A value in float64 was not computed by the same graph if it differs by more than this share of
#: its largest element.
_SAME: Final = 1e-12


class _NotComputableError(Exception):
    """A graph that onnx's reference cannot run."""


@dataclass(frozen=True)
class _Call:
    """One call of a case.

    Attributes:
        case: the case.
        start: the number of the call's first step in the case.
        steps: how many steps the call has.
        inputs: all inputs, with the states among them, by name.
    """

    case: Case
    start: int
    steps: int
    inputs: Mapping[str, Array]


def locate(
    path: Path,
    model: Model,
    options: dict[str, Any],
    vectors: Vectors,
    report: EngineReport,
    node_path: Path,
) -> LocatedFault:
    """Finds the first wrong node, and writes it as a file.

    Args:
        path: the model's file.
        model: the model, loaded into the engine that failed.
        options: the engine's options.
        vectors: the recorded answers.
        report: the measurements, of which at least one failed.
        node_path: the file to write the node to.

    Raises:
        StateportError: no node can be found, and why.
    """
    proto = onnx.load(path)
    call = _failing_call(path, model, vectors, report)
    if call is None:
        reason = "No call could be made at all"
    else:
        try:
            fault = _locate_in_engine(path, proto, model, options, call, node_path)
        except _NotComputableError as error:
            reason = f"onnx's reference cannot compute the graph ({error})"
        else:
            if fault is not None:
                return fault
            reason = "The engine gives what the graph in the file says, so the graph is at fault"

    if vectors.trace is None:
        raise StateportError(
            f"{reason}; and its vectors hold no trace of what was exported. Export the network "
            "again; float16 files and those of other operators than ONNX's own have none."
        )
    return _locate_in_file(path, proto, vectors, vectors.trace, node_path)


def _failing_call(path: Path, model: Model, vectors: Vectors, report: EngineReport) -> _Call | None:
    """The wrong call that is cheapest to repeat; None where no call could be made at all.

    The state before the first call is the case's. Before later calls, it is the engine's.
    """
    failed = []
    for m in report.measurements:
        if m.first_off is not None:
            failed.append(m)

    if not failed:
        return None

    cases = {case.name: case for case in vectors.cases}
    cheapest = min(
        failed, key=lambda m: (_call_number(cases[m.case], m.first_off), cases[m.case].chunks[0])
    )
    case = fitted(model, cases[cheapest.case])
    number = _call_number(case, cheapest.first_off)
    if number == 0:
        return _Call(case, 0, case.chunks[0], first_call(path, model.contract, case))

    inputs = list(call_inputs(vectors.contract, case))[number]
    _, state = run_case(model, case, last=number)
    start = case.ends[number - 1]
    return _Call(case, start, case.chunks[number], {**inputs, **dict(state or {})})


def _call_number(case: Case, step: int | None) -> int:
    """The number of the call that a step belongs to."""
    return next(number for number, end in enumerate(case.ends) if (step or 0) < end)


class _Reference:
    """The values of a graph for one call, as onnx's reference computes them.

    Attributes:
        truth: the values, computed in float64.
        rounded: the values, computed in the graph's own dtypes.
        floors: what rounding to float32 alone costs, by value.

    Raises:
        _NotComputableError: onnx's reference cannot run the graph.
    """

    def __init__(self, proto: ModelProto, inputs: Mapping[str, Array], precision: str) -> None:
        try:
            self.truth = values(proto, inputs)
            self.rounded = values(proto, inputs, double=False)
        except Exception as error:  # the reference lacks an operator, or fails in one
            raise _NotComputableError(in_words(error)) from error

        self.floors = {name: _floor(self.truth[name], self.rounded[name]) for name in self.truth}
        self._budget = BUDGETS.get(precision)  # in dB

    def allowed(self, name: str, truth: Array) -> float:
        """The largest allowed difference of a value."""
        if self._budget is None or not truth.size:
            return FLOOR_FACTOR * self.floors[name]

        root_mean_square = float(np.sqrt(np.mean(np.square(truth.astype(float)))))
        return root_mean_square * 10 ** (-self._budget / 20)

    def truths_of(self, node: NodeProto, position: int) -> list[Array]:
        """The truth of a node's output; none if the node leaves it out."""
        name = node.output[position]
        return [self.truth[name]] if name else []

    def refutes(self, name: str, value: Array) -> bool:
        """Whether a value differs from its truth by more than is allowed."""
        truth = self.truth[name]
        return bool((difference(value, truth) > self.allowed(name, truth)).any())


def _locate_in_engine(
    path: Path,
    proto: ModelProto,
    model: Model,
    options: dict[str, Any],
    call: _Call,
    node_path: Path,
) -> LocatedFault | None:
    """The first node that the engine computes wrongly; None if it computes what the file says."""
    reference = _Reference(proto, call.inputs, model.precision)
    engine = _ExposingEngine(proto, path, model.engine, options, reference.rounded)
    outputs = [value.name for value in proto.graph.output]
    answers = engine.run(call.inputs, outputs)
    if not any(reference.refutes(name, answers[name]) for name in outputs):
        return None

    names = list(_computed_names(proto))
    for exposed in chain([names], _bisect(engine, call, names, reference)):
        answers = engine.run(call.inputs, exposed)
        suspect = first_suspect(
            proto.graph,
            answers,
            reference.truths_of,
            reference.allowed,
            known=lambda _: True,
            steps=call.steps,
        )
        if suspect is not None:
            truth, floors = reference.truth, reference.floors
            came = {**reference.rounded, **answers}
            return _as_located("engine", proto, suspect, call, truth, floors, came, node_path)

    raise StateportError("The engine is wrong, but no single value of its graph shows where.")


def _computed_names(proto: ModelProto) -> Iterator[str]:
    """The values that the nodes compute, in order."""
    for node in proto.graph.node:
        yield from filter(None, node.output)


def _bisect(
    engine: _ExposingEngine, call: _Call, names: Sequence[str], reference: _Reference
) -> Iterator[list[str]]:
    """The first value that is wrong if it alone is exposed, in a list; nothing if there is none.

    Engines fuse nodes whose values nobody asks for. So the fault may go away while all values are
    exposed.
    """
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        name = names[middle]
        answers = engine.run(call.inputs, [name])
        if reference.refutes(name, answers[name]):
            high = middle
        else:
            low = middle + 1

    if low < len(names):
        yield [names[low]]


class _ExposingEngine:
    """An engine that gives any values of a graph.

    Args:
        proto: the graph.
        path: its file.
        engine: the engine's name.
        options: the engine's options.
        samples: arrays with the dtype of each value.
    """

    def __init__(
        self,
        proto: ModelProto,
        path: Path,
        engine: str,
        options: dict[str, Any],
        samples: Values,
    ) -> None:
        self._proto = proto
        self._path = path
        self._engine = engine
        self._options = options
        self._samples = samples

    def run(self, inputs: Mapping[str, Array], names: Sequence[str]) -> Values:
        """The values of these names."""
        model = self._with_outputs(names)
        with tempfile.TemporaryDirectory(prefix="stateport.") as folder:
            path = Path(folder) / self._path.name
            onnx.save(model, path)
            engine = open_engine(self._engine, read(path), None, self._options)
            return dict(zip(names, engine.run(inputs, names), strict=True))

    def _with_outputs(self, names: Sequence[str]) -> ModelProto:
        """A copy of the model that also has these values as outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self._proto)
        outputs = {value.name for value in model.graph.output}
        for name in dict.fromkeys(names):
            if name not in outputs:
                dtype = helper.np_dtype_to_tensor_dtype(self._samples[name].dtype)
                info = helper.make_tensor_value_info(name, dtype, None)
                model.graph.output.append(info)
        return model


def _locate_in_file(
    path: Path, proto: ModelProto, vectors: Vectors, trace: Trace, node_path: Path
) -> LocatedFault:
    """The first node whose values are not those of the exported graph."""
    case = next(case for case in vectors.cases if case.name == trace.case)
    inputs = first_call(path, vectors.contract, case)
    call = _Call(case, 0, case.chunks[0], inputs)
    computed, failing_node = _compute_as_far_as_possible(proto, inputs)

    def truths_of(node: NodeProto, position: int) -> list[Array]:
        return _traced_values(trace, node, position)

    suspect = first_suspect(
        proto.graph,
        computed,
        truths_of,
        _allowed_in_float64,
        known=lambda node: node.name in trace.nodes,
        steps=call.steps,
    )
    if suspect is None and failing_node is not None:
        output = next(iter(failing_node.output), "")
        suspect = Suspect(failing_node, output, float("inf"), 0.0, None)
    if suspect is None:
        raise StateportError(
            "Every node gives what it gave when the file was exported, for the one call that was "
            "recorded. The fault shows only in other calls, or in no node: in names or outputs."
        )

    truth = {}
    for position, name in enumerate(suspect.node.output):
        truths = truths_of(suspect.node, position)
        if name and truths:
            truth[name] = truths[-1]
    floors = {name: _floor(value, value.astype(np.float32)) for name, value in truth.items()}
    came = _rounded_values(proto, inputs)
    return _as_located("file", proto, suspect, call, truth, floors, came, node_path)


def _traced_values(trace: Trace, node: NodeProto, position: int) -> list[Array]:
    """The recorded values of a node's output.

    They are those of the output that the node had in this position then, and of the value that has
    the output's name now.
    """
    then = trace.nodes.get(node.name, ())[position : position + 1]
    names = dict.fromkeys([*then, node.output[position]])

    values = []
    for name in names:
        if name in trace.values:
            values.append(trace.values[name])
    return values


def _allowed_in_float64(_: str, truth: Array) -> float:
    finite = truth[np.isfinite(truth)]
    largest = float(np.abs(finite.astype(float)).max(initial=0.0))
    return _SAME * max(1.0, largest)


def _rounded_values(proto: ModelProto, inputs: Mapping[str, Array]) -> Values:
    """The graph's values in its own dtypes; none if it cannot be run."""
    try:
        return values(proto, inputs, double=False)
    except Exception:  # then the node cannot be run either, and is not written
        return {}


def _compute_as_far_as_possible(
    proto: ModelProto, inputs: Mapping[str, Array]
) -> tuple[Values, NodeProto | None]:
    """The values in float64, up to the first node that cannot be run; and that node."""
    try:
        return values(proto, inputs), None
    except Exception:  # noqa: S110  # the search below finds the node
        pass

    # The first `low` nodes can be run, the first `high` nodes cannot.
    low, high = 0, len(proto.graph.node)
    computed: Values = dict(inputs)
    while high - low > 1:
        middle = (low + high) // 2
        part = _first_nodes(proto, middle)
        try:
            computed = values(part, inputs)
            low = middle
        except Exception:
            high = middle
    return computed, proto.graph.node[low]


def _first_nodes(proto: ModelProto, count: int) -> ModelProto:
    """The model up to a node, without outputs."""
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    del part.graph.node[count:]
    del part.graph.output[:]
    return part


def _as_located(
    fault: str,
    proto: ModelProto,
    suspect: Suspect,
    call: _Call,
    truth: Values,
    floors: Mapping[str, float],
    came: Values,
    node_path: Path,
) -> LocatedFault:
    """The fault as it is reported; writes the node, if possible.

    Args:
        fault: what is wrong, "engine" or "file".
        proto: the model.
        suspect: the node, and its output that is wrong.
        call: the call in which it is wrong.
        truth: what the node's outputs should be.
        floors: what rounding to float32 alone costs, by output.
        came: the graph's values as they are.
        node_path: the file to write the node to.
    """
    node = suspect.node
    operands = {**came, **call.inputs}
    written = False
    if all(name in came for name in node.output if name in truth):
        with suppress(FileError):  # the name of the node matters more than its file
            written = write_node(proto, node, operands, truth, floors, came, node_path)

    step = None if suspect.step is None else call.start + suspect.step
    return LocatedFault(
        fault=fault,
        node=node.name,
        operator=node.op_type,
        output=suspect.output,
        case=call.case.name,
        step=step,
        error=suspect.error,
        allowed=suspect.allowed,
        file=str(node_path) if written else None,
    )


def _floor(truth: Array, rounded: Array) -> float:
    """What rounding to float32 costs: at least half an ulp of the largest value."""
    if truth.dtype.kind != "f" or not truth.size:
        return 0.0

    error = difference(rounded, truth).max()
    largest = np.abs(truth[np.isfinite(truth)]).max(initial=0.0)
    half_ulp = np.spacing(np.float32(largest)) / 2
    return float(max(error, half_ulp))

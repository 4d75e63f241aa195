"""`stateport verify --locate`: the first node, and the first step, that leave the truth.

Two things can be wrong. If an engine does not give what its graph says, computed in float64, the
engine is at fault, and the truth of every value is that graph's. Otherwise the graph is not the one
that was exported, and the truth is the trace that was recorded then.
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

#: In float64, a value that is off by more than this share of its largest element was not computed
#: by the same graph.
_SAME: Final = 1e-12


class _NotComputableError(Exception):
    """A graph that onnx's reference cannot run."""


@dataclass(frozen=True)
class _Call:
    """One call of a case: all its inputs, the state among them."""

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
    place: Path,
) -> LocatedFault:
    """Finds the first node that is off, and writes it as a file of its own.

    Args:
        path: the model's file.
        model: the model, loaded into the engine that failed.
        options: the engine's options.
        vectors: the recorded answers.
        report: what was measured.
        place: where to write the node alone.

    Raises:
        StateportError: nothing can be said, and why.
    """
    proto = onnx.load(path)
    call = _failing_call(path, model, vectors, report)
    reason = "No call could be made at all"
    if call is not None:
        try:
            found = _in_engine(path, proto, model, options, call, place)
            reason = "The engine gives what the graph in the file says, so the graph is at fault"
        except _NotComputableError as error:
            found = None
            reason = f"onnx's reference cannot compute the graph ({error})"
        if found is not None:
            return found
    if vectors.trace is None:
        raise StateportError(
            f"{reason}; and its vectors hold no trace of what was exported. Export the network "
            "again; float16 files and those of other operators than ONNX's own have none."
        )
    return _in_file(path, proto, vectors, vectors.trace, place)


def _failing_call(path: Path, model: Model, vectors: Vectors, report: EngineReport) -> _Call | None:
    """The cheapest call that is off; None where no call could be made at all.

    The state before it is the case's own, or what the engine itself had come to.
    """
    failed = [m for m in report.measurements if m.first_off is not None]
    if not failed:
        return None
    cases = {case.name: case for case in vectors.cases}
    one = min(failed, key=lambda m: (_number(cases[m.case], m.first_off), cases[m.case].chunks[0]))
    case = fitted(model, cases[one.case])
    number = _number(case, one.first_off)
    if number == 0:
        return _Call(case, 0, case.chunks[0], first_call(path, model.contract, case))
    inputs = list(call_inputs(vectors.contract, case))[number]
    state = dict(run_case(model, case, last=number)[1] or {})
    return _Call(case, case.ends[number - 1], case.chunks[number], {**inputs, **state})


def _number(case: Case, step: int | None) -> int:
    """The number of the call that a step belongs to."""
    return next(n for n, end in enumerate(case.ends) if (step or 0) < end)


def _in_engine(
    path: Path,
    proto: ModelProto,
    model: Model,
    options: dict[str, Any],
    call: _Call,
    place: Path,
) -> LocatedFault | None:
    """The first node that the engine computes wrongly; None if it computes what the file says."""
    try:
        truth = values(proto, call.inputs)
        rounded = values(proto, call.inputs, double=False)
    except Exception as error:  # an operator that onnx's reference has not, or stumbles over
        raise _NotComputableError(in_words(error)) from error
    floors = {name: _floor(truth[name], rounded[name]) for name in truth}
    budget = BUDGETS.get(model.precision)

    def allowed(name: str, value: Array) -> float:
        if budget is not None and value.size:
            return float(np.sqrt(np.mean(np.square(value.astype(float))))) * 10 ** (-budget / 20)
        return FLOOR_FACTOR * floors[name]

    engine = _Exposed(proto, path, model.engine, options, rounded)
    outputs = [value.name for value in proto.graph.output]
    came = engine.run(call.inputs, outputs)
    if not any(_is_off(came[n], truth[n], allowed(n, truth[n])) for n in outputs):
        return None
    names = [name for node in proto.graph.node for name in node.output if name]
    for exposed in chain([names], _bisect(engine, call, names, truth, allowed)):
        came = engine.run(call.inputs, exposed)
        suspect = first_suspect(
            proto.graph,
            came,
            lambda node, number: [truth[node.output[number]]] if node.output[number] else [],
            allowed,
            known=lambda _: True,
            steps=call.steps,
        )
        if suspect is not None:
            return _as_located(
                "engine", proto, suspect, call, truth, floors, {**rounded, **came}, place
            )
    raise StateportError("The engine is wrong, but no single value of its graph shows where.")


def _bisect(
    engine: _Exposed, call: _Call, names: Sequence[str], truth: Values, allowed: Any
) -> Iterator[list[str]]:
    """Where the fault goes away while all is exposed, the value that is off when alone.

    Engines fuse what nobody looks at. So one value is exposed at a time, and the first that is off
    is found by halving.
    """
    low, high = 0, len(names)
    while low < high:
        middle = (low + high) // 2
        name = names[middle]
        came = engine.run(call.inputs, [name])
        if _is_off(came[name], truth[name], allowed(name, truth[name])):
            high = middle
        else:
            low = middle + 1
    if low < len(names):
        yield [names[low]]


class _Exposed:
    """An engine that can be asked for any values of a graph."""

    def __init__(
        self, proto: ModelProto, path: Path, name: str, options: dict[str, Any], like: Values
    ) -> None:
        self._proto, self._path, self._name, self._options = proto, path, name, options
        self._like = like

    def run(self, inputs: Mapping[str, Array], names: Sequence[str]) -> Values:
        """The values of these names."""
        model = onnx.ModelProto()
        model.CopyFrom(self._proto)
        there = {value.name for value in model.graph.output}
        kinds = {name: self._like[name].dtype for name in names}
        model.graph.output.extend(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), None)
            for name, kind in kinds.items()
            if name not in there
        )
        with tempfile.TemporaryDirectory(prefix="stateport.") as folder:
            place = Path(folder) / self._path.name
            onnx.save(model, place)
            engine = open_engine(self._name, read(place), None, self._options)
            return dict(zip(names, engine.run(inputs, names), strict=True))


def _in_file(
    path: Path, proto: ModelProto, vectors: Vectors, trace: Trace, place: Path
) -> LocatedFault:
    """The first node whose answer is not what the exported one gave."""
    case = next(case for case in vectors.cases if case.name == trace.case)
    inputs = first_call(path, vectors.contract, case)
    call = _Call(case, 0, case.chunks[0], inputs)
    found, broken = _as_far_as_possible(proto, inputs)

    def truths_of(node: NodeProto, number: int) -> list[Array]:
        then = trace.nodes.get(node.name, ())[number : number + 1]
        names = dict.fromkeys([*then, node.output[number]])
        return [trace.values[name] for name in names if name in trace.values]

    suspect = first_suspect(
        proto.graph,
        found,
        truths_of,
        lambda _, truth: _SAME * max(1.0, float(np.abs(truth.astype(float)).max(initial=0.0))),
        known=lambda node: node.name in trace.nodes,
        steps=call.steps,
    )
    if suspect is None and broken is not None:
        suspect = Suspect(broken, next(iter(broken.output), ""), float("inf"), 0.0, None)
    if suspect is None:
        raise StateportError(
            "Every node gives what it gave when the file was exported, for the one call that was "
            "recorded. The fault shows only in other calls, or in no node: in names or outputs."
        )
    node = suspect.node
    truths = {name: truths_of(node, number) for number, name in enumerate(node.output)}
    truth = {name: found[-1] for name, found in truths.items() if name and found}
    floors = {name: _floor(value, value.astype(np.float32)) for name, value in truth.items()}
    try:
        rounded = values(proto, inputs, double=False)
    except Exception:  # what cannot be run whole cannot be run alone either
        rounded = {}
    return _as_located("file", proto, suspect, call, truth, floors, rounded, place)


def _as_far_as_possible(
    proto: ModelProto, inputs: Mapping[str, Array]
) -> tuple[Values, NodeProto | None]:
    """The values in float64, up to the first node that cannot be run; and that node."""
    try:
        return values(proto, inputs), None
    except Exception:  # noqa: S110  # which node it is, is found below
        pass
    low, high = 0, len(proto.graph.node)  # so many nodes can be run; so many cannot
    found: Values = dict(inputs)
    while high - low > 1:
        middle = (low + high) // 2
        part = onnx.ModelProto()
        part.CopyFrom(proto)
        del part.graph.node[middle:]
        del part.graph.output[:]
        try:
            found = values(part, inputs)
            low = middle
        except Exception:
            high = middle
    return found, proto.graph.node[low]


def _as_located(
    fault: str,
    proto: ModelProto,
    suspect: Suspect,
    call: _Call,
    truth: Values,
    floors: Mapping[str, float],
    came: Values,
    place: Path,
) -> LocatedFault:
    node = suspect.node
    given = {**came, **call.inputs}
    written = False
    if all(name in came for name in node.output if name in truth):
        with suppress(FileError):  # the name of the node matters more than its file
            written = write_node(proto, node, given, truth, floors, came, place)
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
        file=str(place) if written else None,
    )


def _floor(truth: Array, rounded: Array) -> float:
    """What float32 loses, and at least half a unit in the last place of the largest value."""
    if truth.dtype.kind != "f" or not truth.size:
        return 0.0
    off = difference(rounded, truth).max()
    largest = np.abs(truth[np.isfinite(truth)]).max(initial=0.0)
    return float(max(off, np.spacing(np.float32(largest)) / 2))


def _is_off(value: Array, truth: Array, allowed: float) -> bool:
    return bool((difference(value, truth) > allowed).any())

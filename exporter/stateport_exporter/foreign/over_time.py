# SPDX-License-Identifier: Apache-2.0
"""A file that takes one step per call, (1, 1, n), becomes one that takes any number of them.

The whole graph becomes the body of a `Scan`, which carries the states:
https://onnx.ai/onnx/operators/onnx__Scan.html. Which axis is time follows from the recurrent
operators: the axes of size 1 get names, and shape inference carries these to the operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stateport import Contract, Model, State, load
from stateport.contract import ArraySpec, Axis, Streaming, has_time
from stateport.engines import open_engine
from stateport.files.writing import written_together
from stateport.model_file.onnx_outline import read
from stateport.parity.vectors import vectors_path
from stateport.picking import among

from ..errors import ExportError
from ..graph.dataflow import axes, map_dims
from ..graph.serialization import save
from ..states.naming import set_contract
from .axes import find_axes
from .lifted_file import LiftResult, write_draft
from .precision import declare_precision
from .source_cases import Source
from .source_sizes import accepted_sizes
from .whole_sequences import measure_source_streaming, record_from_source

Array = NDArray[Any]

#: Before this version, Scan had a batch axis of its own.
_FIRST_OPSET: Final = 9
#: From this version on, Squeeze and Unsqueeze take their axes as an operand.
_AXES_AS_OPERAND: Final = 13


def write_over_time(step: LiftResult, path: Path, origin: Mapping[str, object]) -> LiftResult:
    """Writes a lifted file of one step per call again, as one that takes any number of steps.

    The new file is compared with the old one called step by step, on whole sequences and chunks.

    Args:
        step: the lifted file of one step per call.
        path: the file to write.
        origin: a note on where the file came from, which goes into its metadata.

    Raises:
        ExportError: the file has a time axis already, no input has an axis of size 1 that is time,
            its opset is too old, or the new file gives other answers.
    """
    contract = step.contract
    model = ir.load(step.path)
    _check_is_step(model, contract)
    times = _time_axes(step.path)
    if not any(spec.name in times for spec in contract.inputs):
        times = _first_axes(contract)
    if not any(spec.name in times for spec in contract.inputs):
        raise ExportError(
            "No input has an axis of size 1 that may be time; one was expected, as in (1, 1, n). "
            "Lift the file without over_time, and call it step by step. If its states are inputs "
            "and outputs already, `stateport contract` takes it as it is."
        )

    model = _over_time(model, contract, times)
    contract = _contract_over_time(contract, times)
    source = _step_by_step(load(step.path), contract, times)
    initial = read(step.path).initial
    with written_together(path) as folder:
        draft = folder / path.name
        save(model, draft)
        engine = open_engine("ort-cpu", read(draft), None, {})
        precision = declare_precision(model)
        runner = Model(contract, engine, initial, precision)
        sizes = accepted_sizes(source, contract)
        contract = replace(contract, streaming=measure_source_streaming(source, runner, sizes))
        vectors = record_from_source(source, Model(contract, engine, initial, precision), sizes)
        set_contract(model, contract, origin)
        report = write_draft(model, draft, vectors, path, _refusal)

    notes = []
    for spec in contract.inputs:
        if spec.name not in times:
            notes.append(f"{spec.name} has one value for all steps of a call")
    return replace(
        step,
        path=path,
        vectors=vectors_path(path),
        contract=contract,
        report=report,
        notes=tuple(notes),
    )


def _refusal(worst: str) -> str:
    """The error for a file that gives other answers; `worst` is a sentence on the largest error."""
    return (
        "The file over time does not give the answers of single steps, so it was not written. "
        f"{worst} Please report this file."
    )


def _check_is_step(model: ir.Model, contract: Contract) -> None:
    if has_time(contract):
        raise ExportError(
            "The file has a time axis already, and over_time is for a file of one step per call. "
            "Leave over_time out."
        )

    opset = model.opset_imports.get("", 0)
    if opset < _FIRST_OPSET:
        raise ExportError(
            f"The file has opset {opset}, and a Scan over time needs {_FIRST_OPSET} or later. "
            "Convert it first: onnx.version_converter.convert_version(model, 13)."
        )


def _time_axes(path: Path) -> dict[str, int]:
    """By input and output, the position of the axis of size 1 that is time."""
    model = ir.load(path)
    map_dims(lambda dim: None if dim == 1 else dim, model.graph.inputs)
    results = list(model.graph.outputs)
    for value in results:
        _append_copy(model.graph, value)  # what is no output gets the shape that is inferred
    find_axes(model)

    times = {}
    for value in (*model.graph.inputs, *results):
        names = axes(value)
        if "time" in names:
            times[str(value.name)] = names.index("time")
    return times


def _first_axes(contract: Contract) -> dict[str, int]:
    """The first axis of each input and output of several axes, where it has the size 1.

    It is time where the operators do not show which axis is, as behind a reshape by fixed sizes.
    """
    times = {}
    for spec in (*contract.inputs, *contract.outputs):
        if len(spec.shape) > 2 and spec.shape[0] == 1:
            times[spec.name] = 0
    return times


def _append_copy(graph: ir.Graph, value: ir.Value) -> None:
    """Makes a copy of an output the output."""
    copy = ir.node("Identity", [value])
    copy.outputs[0].name = f"{value.name} copy"
    copy.outputs[0].type = value.type
    graph.append(copy)
    graph.outputs[list(graph.outputs).index(value)] = copy.outputs[0]


def _over_time(step: ir.Model, contract: Contract, times: Mapping[str, int]) -> ir.Model:
    """A model whose only node is a Scan with the step's graph as its body."""
    body = step.graph
    opset = step.opset_imports[""]
    fed: list[ArraySpec] = []
    fixed: list[ArraySpec] = []
    for spec in contract.inputs:
        if spec.name in times:
            fed.append(spec)
        else:
            fixed.append(spec)

    untouched = _values(body.inputs, fixed)

    # What goes into the Scan, and comes out of it, has the names of the step's inputs and outputs,
    # so that these get other names in the body.
    before = _values(body.inputs, contract.state_inputs)
    signals = _values(body.inputs, fed)
    after = _values(body.outputs, contract.state_outputs)
    answers = _values(body.outputs, contract.outputs)
    outer_states = _outside(before)
    outer_signals = _outside(signals)
    finals = _outside(after)
    outer_answers = _outside(answers)
    _set_shapes(outer_signals, fed, times)
    _set_shapes(outer_answers, contract.outputs, times)
    parts = _change_axes(body, signals, answers, contract, times, opset)

    weights = list(body.initializers.values())
    body.initializers.clear()
    _replace_ports(body, [*before, *signals], [*after, *parts])
    output_axes = [times.get(spec.name, 0) for spec in contract.outputs]
    attributes: dict[str, Any] = {
        "body": body,
        "num_scan_inputs": len(fed),
        "scan_input_axes": [times[spec.name] for spec in fed],
        "scan_output_axes": output_axes,
    }
    operands = [*outer_states, *outer_signals]
    outputs = [*finals, *outer_answers]
    scan = ir.node("Scan", operands, attributes, outputs=outputs, name="over_time")
    graph = ir.Graph(
        [*outer_signals, *untouched, *outer_states],
        [*outer_answers, *finals],
        nodes=[scan],
        initializers=weights,
        opset_imports=dict(step.opset_imports),
        name="over_time",
    )
    return ir.Model(
        graph,
        ir_version=step.ir_version,
        functions=[*step.functions.values()],
        metadata_props=dict(step.metadata_props),
    )


def _values(values: Sequence[ir.Value], specs: Sequence[ArraySpec]) -> list[ir.Value]:
    """The values with the names of these inputs or outputs, in their order."""
    by_name = {value.name: value for value in values}
    return [by_name[spec.name] for spec in specs]


def _change_axes(
    body: ir.Graph,
    signals: Sequence[ir.Value],
    answers: Sequence[ir.Value],
    contract: Contract,
    times: Mapping[str, int],
    opset: int,
) -> list[ir.Value]:
    """Puts the time axis back onto the signals of a body, and takes it off its answers."""
    axes = []
    for spec in contract.inputs:
        if spec.name in times:
            axes.append(times[spec.name])

    for value, axis in zip(signals, axes, strict=True):
        _enter(body, value, axis, opset)
        value.shape = None  # a Scan gives its parts a shape

    parts = []
    for value, spec in zip(answers, contract.outputs, strict=True):
        parts.append(_leave(body, value, times.get(spec.name), opset))
    return parts


def _outside(values: Sequence[ir.Value]) -> list[ir.Value]:
    return [*map(_renamed, values)]


def _set_shapes(
    values: Sequence[ir.Value], specs: Sequence[ArraySpec], times: Mapping[str, int]
) -> None:
    for value, spec in zip(values, specs, strict=True):
        value.shape = ir.Shape(_shape_over_time(spec, times).shape)


def _replace_ports(body: ir.Graph, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> None:
    body.name = "step"
    body.inputs.clear()
    body.inputs.extend(inputs)
    body.outputs.clear()
    body.outputs.extend(outputs)


def _renamed(inner: ir.Value) -> ir.Value:
    """A new value with the name, type and shape of one, which gets another name."""
    outer = ir.Value(name=inner.name, type=inner.type, shape=inner.shape)
    inner.name = f"{inner.name}_step"
    return outer


def _enter(body: ir.Graph, value: ir.Value, axis: int, opset: int) -> None:
    """Puts the time axis, which a Scan takes off, back onto an input of the body."""
    node = _axis_node("Unsqueeze", body, value, axis, opset)

    uses = []
    for use in value.uses():
        if use.node is not node:
            uses.append(use)

    for use in uses:
        use.node.replace_input_with(use.idx, node.outputs[0])
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    body.insert_before(body[0], node)


def _leave(body: ir.Graph, value: ir.Value, axis: int | None, opset: int) -> ir.Value:
    """A result of the body without its time axis; as it is where it has none."""
    if axis is None:
        node = ir.node("Identity", [value])
    else:
        node = _axis_node("Squeeze", body, value, axis, opset)
    node.outputs[0].name = f"{value.name}_answer"
    node.outputs[0].type = value.type
    body.append(node)
    return node.outputs[0]


def _axis_node(kind: str, body: ir.Graph, value: ir.Value, axis: int, opset: int) -> ir.Node:
    """A node that adds or takes off an axis of size 1."""
    if opset < _AXES_AS_OPERAND:
        return ir.node(kind, [value], {"axes": [axis]})

    name = f"{value.name}_axis"
    axes = ir.Value(name=name, const_value=ir.tensor(np.array([axis]), name=name))
    body.register_initializer(axes)
    return ir.node(kind, [value, axes])


def _shape_over_time(spec: ArraySpec, times: Mapping[str, int]) -> ArraySpec:
    """The array with time; an output without a time axis gets one in front."""
    shape: list[Axis] = list(spec.shape)
    if spec.name in times:
        shape[times[spec.name]] = "time"
    else:
        shape.insert(0, "time")
    return replace(spec, shape=tuple(shape))


def _contract_over_time(contract: Contract, times: Mapping[str, int]) -> Contract:
    inputs = []
    for spec in contract.inputs:
        described = _shape_over_time(spec, times) if spec.name in times else spec
        inputs.append(described)
    outputs = [_shape_over_time(spec, times) for spec in contract.outputs]
    return replace(contract, inputs=tuple(inputs), outputs=tuple(outputs), streaming=Streaming())


def _step_by_step(step: Model, contract: Contract, times: Mapping[str, int]) -> Source:
    """A function that gives the outputs of a whole sequence, one call for each step."""
    axes = {spec.name: times.get(spec.name) for spec in contract.outputs}

    def answer_whole(arrays: Mapping[str, Array]) -> dict[str, Array]:
        fed = among(arrays, times)
        count = arrays[fed[0]].shape[times[fed[0]]]
        state: State | None = None
        calls: list[dict[str, Array]] = []
        for number in range(count):
            parts = {n: arrays[n].take([number], times[n]) for n in fed}
            outputs, state = step.run({**arrays, **parts}, state)
            calls.append(outputs)

        whole = {}
        for name, axis in axes.items():
            parts_of = [call[name] for call in calls]

            if axis is None:
                whole[name] = np.stack(parts_of)
            else:
                whole[name] = np.concatenate(parts_of, axis)
        return whole

    return answer_whole

"""Faults in the values of the first output: single elements, all of them, steps, rows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import ModelProto

from stateport import ArraySpec

from .fault import Applied, Change, Fault, at
from .graph import behind, constant, contract_of, detach, insert, number, recurrent, result_of

_FAR: Final = 2**31


def _output(model: ModelProto) -> ArraySpec:
    """The first output."""
    return contract_of(model).outputs[0]


def _axis(spec: ArraySpec, name: str) -> int:
    return spec.shape.index(name)


def _element(value: float, step: int, *, state: bool = False) -> Change:
    """Sets one element, of a step of the output or of the first state."""

    def apply(model: ModelProto) -> Applied | None:
        contract = contract_of(model)
        spec = contract.state_outputs[0] if state else contract.outputs[0]
        place = [step if axis == "time" else 0 for axis in spec.shape]
        index, update = constant(model, [place]), constant(model, [value], np.float32)
        return at(behind(model, spec.name, "ScatterND", index, update))

    return apply


def _each(kind: str, *operands: float, **attributes: Any) -> Change:
    """An operator with these numbers behind the output."""

    def apply(model: ModelProto) -> Applied | None:
        names = [number(model, value) for value in operands]
        return at(behind(model, _output(model).name, kind, *names, **attributes))

    return apply


def _one_unit_scaled(model: ModelProto) -> Applied | None:
    spec = _output(model)
    assert isinstance(spec.shape[-1], int)
    scales = np.ones(spec.shape[-1])
    scales[-1] = 1.001
    return at(behind(model, spec.name, "Mul", constant(model, scales, np.float32)))


def _rounded(model: ModelProto) -> Applied | None:
    """To four decimals."""
    inner, outer = detach(model, _output(model).name)
    scaled = result_of(model, "Mul", [inner, number(model, 1e4)])
    whole = result_of(model, "Round", [scaled])
    return at(insert(model, "Div", [whole, number(model, 1e4)], outer).name)


def _dropout(model: ModelProto) -> Applied | None:
    ratio, training = number(model, 0.1), constant(model, True, np.bool_)
    return at(behind(model, _output(model).name, "Dropout", ratio, training, seed=0))


def _moved(steps: int) -> Change:
    """The output late by a step, or early."""

    def apply(model: ModelProto) -> Applied | None:
        spec = _output(model)
        pads = np.zeros((2, len(spec.shape)))
        pads[:, _axis(spec, "time")] = steps, -steps
        return at(behind(model, spec.name, "Pad", constant(model, pads.ravel(), np.int64)))

    return apply


def _sliced(name: str, start: int, end: int, step: int = 1) -> Change:
    """A slice of the output along an axis."""

    def apply(model: ModelProto) -> Applied | None:
        spec = _output(model)
        values = (start, end, _axis(spec, name), step)
        operands = [constant(model, [value]) for value in values]
        return at(behind(model, spec.name, "Slice", *operands))

    return apply


def _cut(model: ModelProto, value: str, axis: int, start: int, end: int) -> str:
    operands = [constant(model, [place]) for place in (start, end, axis)]
    return result_of(model, "Slice", [value, *operands])


def _rolled(name: str, *, state: bool = False) -> Change:
    """The output, or the first state, moved by one along an axis."""

    def apply(model: ModelProto) -> Applied | None:
        contract = contract_of(model)
        spec = contract.state_outputs[0] if state else contract.outputs[0]
        axis = spec.shape.index(name)
        inner, outer = detach(model, spec.name)
        last, rest = _cut(model, inner, axis, -1, _FAR), _cut(model, inner, axis, 0, -1)
        return at(insert(model, "Concat", [last, rest], outer, axis=axis).name)

    return apply


def _mean_added(name: str) -> Change:
    """A little of the mean along an axis, as a network that looks across it would have."""

    def apply(model: ModelProto) -> Applied | None:
        spec = _output(model)
        inner, outer = detach(model, spec.name)
        axes = constant(model, [_axis(spec, name)])
        mean = result_of(model, "ReduceMean", [inner, axes])
        part = result_of(model, "Mul", [mean, number(model, 1e-4)])
        return at(insert(model, "Add", [inner, part], outer).name)

    return apply


def _first_of(name: str, *, state: bool = False) -> Change:
    """The first row, or step, in place of all."""

    def apply(model: ModelProto) -> Applied | None:
        contract = contract_of(model)
        spec = contract.state_outputs[0] if state else contract.outputs[0]
        inner, outer = detach(model, spec.name)
        shape = result_of(model, "Shape", [inner])
        first = _cut(model, inner, spec.shape.index(name), 0, 1)
        return at(insert(model, "Expand", [first, shape], outer).name)

    return apply


def _recurrent_input(steps: int) -> Change:
    """What the first recurrent node reads, late by a step or early."""

    def apply(model: ModelProto) -> Applied | None:
        node = recurrent(model)[0]
        position = len(contract_of(model).states) if node.op_type == "Scan" else 0
        rank = 3  # (time, batch, features)
        pads = np.zeros((2, rank), np.int64)
        pads[:, 0] = steps, -steps
        return at(behind(model, node.input[position], "Pad", constant(model, pads.ravel())))

    return apply


def _first_step_dropped(model: ModelProto) -> Applied | None:
    """The recurrence reads zeros in the first step."""
    node = recurrent(model)[0]
    position = len(contract_of(model).states) if node.op_type == "Scan" else 0
    inner, outer = detach(model, node.input[position])
    rest = _cut(model, inner, 0, 1, _FAR)
    pads = constant(model, [1, 0, 0, 0, 0, 0])
    return at(insert(model, "Pad", [rest, pads], outer).name)


def _input_cut(model: ModelProto) -> Applied | None:
    """Only the first 64 steps are read."""
    spec = contract_of(model).inputs[0]
    operands = [constant(model, [value]) for value in (0, 64, _axis(spec, "time"))]
    return at(behind(model, spec.name, "Slice", *operands))


RESULTS: Final = (
    Fault("not a number in one element of the last step", "values", _element(np.nan, -1)),
    Fault("infinity in one element of the last step", "values", _element(np.inf, -1)),
    Fault("zero in one element of the first step", "values", _element(0.0, 0)),
    Fault("not a number in one element of the state", "values", _element(np.nan, 0, state=True)),
    Fault("zero in one element of the state", "values", _element(0.0, 0, state=True)),
    Fault("output negated", "values", _each("Neg")),
    Fault("output without signs", "values", _each("Abs")),
    Fault("output off by 1e-4 of itself", "values", _each("Mul", 1.0001)),
    Fault("output off by 1e-5 of itself", "values", _each("Mul", 1.00001)),
    Fault("output off by 1e-4", "values", _each("Add", 1e-4)),
    Fault("output off by 1e-5", "values", _each("Add", 1e-5)),
    Fault("output clipped", "values", _each("Clip", -0.1, 0.1)),
    Fault("output as probabilities", "values", _each("Softmax", axis=-1)),
    Fault("one unit of the output off by 1e-3 of itself", "values", _one_unit_scaled),
    Fault("output rounded to four decimals", "precision", _rounded),
    Fault("dropout left on", "structure", _dropout),
    Fault("output one step late", "steps", _moved(1)),
    Fault("output one step early", "steps", _moved(-1)),
    Fault("last step of the output missing", "steps", _sliced("time", 0, -1)),
    Fault("output backwards in time", "steps", _sliced("time", -1, -_FAR, -1)),
    Fault("first step of the output in place of all", "steps", _first_of("time")),
    Fault("steps of the output mixed", "steps", _mean_added("time")),
    Fault("recurrence reads one step late", "steps", _recurrent_input(1)),
    Fault("recurrence reads one step early", "steps", _recurrent_input(-1)),
    Fault("first step dropped from the recurrence", "steps", _first_step_dropped),
    Fault("input cut to 64 steps", "axes", _input_cut),
    Fault("rows of the output reversed", "rows", _sliced("batch", -1, -_FAR, -1)),
    Fault("rows of the output moved by one", "rows", _rolled("batch")),
    Fault("first row of the output in place of all", "rows", _first_of("batch")),
    Fault("rows of the output mixed", "rows", _mean_added("batch")),
    Fault("rows of the state moved by one", "rows", _rolled("batch", state=True)),
    Fault("first row of the state in place of all", "rows", _first_of("batch", state=True)),
)

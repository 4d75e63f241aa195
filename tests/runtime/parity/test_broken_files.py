"""Can the check be trusted? Files broken on purpose, each of which must fail it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from stateport import cli

ENGINES = ("ort-cpu", "openvino", "tract", "onnx-reference")

Break = Callable[[ModelProto], None]
BREAKS: dict[str, Break] = {}


def breaks(function: Break) -> Break:
    BREAKS[function.__name__.replace("_", " ")] = function
    return function


def edit_weight(model: ModelProto, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith(name))
    array = edit(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def before(model: ModelProto, node: NodeProto) -> None:
    model.graph.node.insert(0, node)


def wrap_output(model: ModelProto, name: str, kind: str, *inputs: str, **attributes: Any) -> None:
    """Puts an operator behind an output."""
    for node in model.graph.node:
        node.output[:] = [f"{name}_inner" if o == name else o for o in node.output]
        node.input[:] = [f"{name}_inner" if i == name else i for i in node.input]
    operands = [f"{name}_inner", *inputs]
    model.graph.node.append(helper.make_node(kind, operands, [name], **attributes))


def constant(model: ModelProto, name: str, array: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def lstm(model: ModelProto) -> NodeProto:
    node: NodeProto = next(node for node in model.graph.node if node.op_type == "LSTM")
    return node


def swap_gates(array: np.ndarray) -> np.ndarray:
    gates = np.split(array, 4, axis=1)
    return np.concatenate([gates[0], gates[2], gates[1], gates[3]], axis=1)


def fix_axis(model: ModelProto, axis: str, size: int) -> None:
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == axis:
                dim.dim_value = size


@breaks
def two_gates_swapped(model: ModelProto) -> None:
    edit_weight(model, "l0.W", swap_gates)


@breaks
def two_gates_of_the_recurrence_swapped(model: ModelProto) -> None:
    edit_weight(model, "l0.R", swap_gates)


@breaks
def states_crossed_on_the_way_out(model: ModelProto) -> None:
    node = lstm(model)
    node.output[1], node.output[2] = node.output[2], node.output[1]


@breaks
def states_crossed_on_the_way_in(model: ModelProto) -> None:
    node = lstm(model)
    node.input[5], node.input[6] = node.input[6], node.input[5]


@breaks
def hidden_state_not_updated(model: ModelProto) -> None:
    lstm(model).output[1] = "unused"
    model.graph.node.append(helper.make_node("Identity", ["h0"], ["hn"]))


@breaks
def cell_state_not_updated(model: ModelProto) -> None:
    lstm(model).output[2] = "unused"
    model.graph.node.append(helper.make_node("Identity", ["c0"], ["cn"]))


@breaks
def first_state_ignored(model: ModelProto) -> None:
    node = lstm(model)
    node.input[5] = ""


@breaks
def time_frozen(model: ModelProto) -> None:
    fix_axis(model, "time", 7)


@breaks
def batch_frozen(model: ModelProto) -> None:
    fix_axis(model, "batch", 2)


@breaks
def direction_reversed(model: ModelProto) -> None:
    (attribute,) = (a for a in lstm(model).attribute if a.name == "direction")
    attribute.s = b"reverse"


@breaks
def one_weight_perturbed(model: ModelProto) -> None:
    def perturb(array: np.ndarray) -> np.ndarray:
        array[0, 3, 2] += 1e-3
        return array

    edit_weight(model, "l0.R", perturb)


@breaks
def weights_rounded_to_half_precision(model: ModelProto) -> None:
    edit_weight(model, "l0.W", lambda array: array.astype(np.float16).astype(np.float32))


@breaks
def bias_dropped(model: ModelProto) -> None:
    lstm(model).input[3] = ""


@breaks
def activations_swapped(model: ModelProto) -> None:
    names = ["Sigmoid", "Sigmoid", "Tanh"]
    lstm(model).attribute.append(helper.make_attribute("activations", names))


@breaks
def output_missing(model: ModelProto) -> None:
    (cn,) = (o for o in model.graph.output if o.name == "cn")
    model.graph.output.remove(cn)


@breaks
def not_a_number_in_a_weight(model: ModelProto) -> None:
    edit_weight(model, "l0.B", lambda array: np.where(np.arange(array.size) == 3, np.nan, array))


@breaks
def not_a_number_in_one_element_of_the_last_step(model: ModelProto) -> None:
    index = constant(model, "index", np.array([[[0, -1, 0]]], np.int64))
    nan = constant(model, "nan", np.array([[np.nan]], np.float32))
    wrap_output(model, "y", "ScatterND", index, nan)


@breaks
def wrong_dtype(model: ModelProto) -> None:
    wrap_output(model, "y", "Cast", to=TensorProto.DOUBLE)
    (y,) = (o for o in model.graph.output if o.name == "y")
    y.type.tensor_type.elem_type = TensorProto.DOUBLE


@breaks
def wrong_rank(model: ModelProto) -> None:
    axes = constant(model, "axes", np.array([0], np.int64))
    wrap_output(model, "y", "Unsqueeze", axes)
    (y,) = (o for o in model.graph.output if o.name == "y")
    y.type.tensor_type.shape.dim.insert(0, y.type.tensor_type.shape.dim[0])


@breaks
def state_reset_in_mid_chain(model: ModelProto) -> None:
    """When an input exceeds 4, as about one in 30,000 does, the cell state starts again."""
    four = constant(model, "four", np.array(4, np.float32))
    zero = constant(model, "zero", np.array(0, np.float32))
    for node in model.graph.node:
        node.input[:] = ["c0_inner" if i == "c0" else i for i in node.input]
    before(model, helper.make_node("Where", ["large", zero, "c0"], ["c0_inner"]))
    before(model, helper.make_node("Greater", ["most", four], ["large"]))
    before(model, helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0))


@breaks
def rows_of_the_batch_crossed(model: ModelProto) -> None:
    ends = [constant(model, n, np.array([v], np.int64)) for n, v in (("a", -1), ("b", -99))]
    rest = [constant(model, n, np.array([v], np.int64)) for n, v in (("axis", 0), ("step", -1))]
    wrap_output(model, "y", "Slice", *ends, *rest)


@breaks
def one_step_late(model: ModelProto) -> None:
    pads = constant(model, "pads", np.array([0, 1, 0, 0, -1, 0], np.int64))
    wrap_output(model, "y", "Pad", pads)


@breaks
def state_transposed(model: ModelProto) -> None:
    """Right for one row, where (1, 1, 10) and (1, 1, 10) are the same."""
    wrap_output(model, "hn", "Transpose", perm=[1, 0, 2])


@breaks
def contract_absent(model: ModelProto) -> None:
    model.metadata_props.clear()


#: What an engine ignores, so that it gives PyTorch's answers all the same.
IGNORED = {
    ("activations swapped", "onnx-reference"),
    ("activations swapped", "tract"),
    ("direction reversed", "tract"),
}


def verdict(path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> object:
    monkeypatch.setattr(sys, "argv", ["stateport", "verify", str(path), "--engine", engine])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code


@pytest.mark.parametrize("engine", ENGINES)
def test_the_file_itself_passes(copied: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    assert verdict(copied, monkeypatch, engine) == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_file_fails(
    name: str,
    engine: str,
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = onnx.load(copied)
    BREAKS[name](model)
    onnx.save(model, copied)
    if (name, engine) in IGNORED:
        assert verdict(copied, monkeypatch, engine) == 0
        return
    assert verdict(copied, monkeypatch, engine) == 1
    printed = capsys.readouterr()
    assert "FAIL" in printed.out or "Error:" in printed.err
    assert "Traceback" not in printed.err

# SPDX-License-Identifier: Apache-2.0
"""`lift` on values that Scan and Loop carry over time, as tf2onnx writes recurrent layers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import stateport
from stateport_exporter import ExportError, LiftResult, lift
from tests.exporter.test_contract_file import floats, port, written

HIDDEN, SIZE = 4, 3
INT64 = TensorProto.INT64


def integers(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, "i8"), name)


WEIGHTS = [
    floats("Wx", SIZE, HIDDEN),
    floats("Wh", HIDDEN, HIDDEN),
    *(integers(name, number) for name, number in (("one", 1), ("two", 2), ("four", 4))),
    *(integers(name, number) for name, number in (("nought", 0), ("many", 1 << 60))),
]
CELL = [
    helper.make_node("MatMul", ["xi", "Wx"], ["a"]),
    helper.make_node("MatMul", ["h_in", "Wh"], ["b"]),
    helper.make_node("Add", ["a", "b"], ["ab"]),
    helper.make_node("Tanh", ["ab"], ["h_out"]),
    helper.make_node("Identity", ["h_out"], ["scan"]),
]


def zeros(x: str, value: float = 0.0) -> list[onnx.NodeProto]:
    """A first value (batch, HIDDEN), from the size of axis 1 of x."""
    fill = numpy_helper.from_array(np.array([value], "f4"))
    return [
        helper.make_node("Shape", [x], ["sizes"]),
        helper.make_node("Slice", ["sizes", "one", "two"], ["rows"]),
        helper.make_node("Concat", ["rows", "four"], ["h_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["h_shape"], ["h_first"], value=fill),
    ]


def scanned(path: Path, *, first: float = 0.0, axes: Any = ("time", "batch"), **more: Any) -> Path:
    body = helper.make_graph(
        CELL,
        "body",
        [port("h_in", "n", HIDDEN), port("xi", "n", SIZE)],
        [port("h_out", "n", HIDDEN), port("scan", "n", HIDDEN)],
    )
    scan = helper.make_node(
        "Scan", ["h_first", "x"], ["last", "y"], body=body, num_scan_inputs=1, **more
    )
    outputs = [port("y", *axes, HIDDEN)]
    return written(path, [*zeros("x", first), scan], [port("x", *axes, SIZE)], outputs, WEIGHTS)


def looped(
    path: Path, *, counts: bool = True, axes: tuple[str | None, ...] = ("time", "batch")
) -> Path:
    """A Loop that gathers its step from x, as tf2onnx writes `while_loop`."""
    counted = [helper.make_node("Add", ["count", "one"], ["count_out"])]
    nodes = [
        helper.make_node("Gather", ["x", "count" if counts else "number"], ["step"], axis=0),
        helper.make_node("Squeeze", ["step", "nought"], ["xi"])
        if counts
        else helper.make_node("Identity", ["step"], ["xi"]),
        *CELL,
        helper.make_node("Identity", ["going"], ["going_out"]),
        *(counted if counts else []),
    ]
    ins = [port("number", kind=INT64), port("going", kind=TensorProto.BOOL)]
    outs = [port("going_out", kind=TensorProto.BOOL)]
    if counts:
        ins.append(port("count", 1, kind=INT64))
        outs.append(port("count_out", 1, kind=INT64))
    ins.append(port("h_in", "n", HIDDEN))
    outs += [port("h_out", "n", HIDDEN), port("scan", "n", HIDDEN)]
    body = helper.make_graph(nodes, "body", ins, outs)

    starts, ends = (["nought"], ["count_last"]) if counts else ([], [])
    loop = helper.make_node(
        "Loop", ["steps", "", *starts, "h_first"], [*ends, "last", "y"], body=body
    )
    steps = [
        helper.make_node("Slice", ["sizes", "nought", "one"], ["steps_1"]),
        helper.make_node("Squeeze", ["steps_1", "nought"], ["steps"]),
    ]
    return written(
        path,
        [*zeros("x"), *steps, loop],
        [port("x", *axes, SIZE)],
        [port("y", *axes, HIDDEN)],
        WEIGHTS,
    )


def check(source: Path, result: LiftResult, states: int = 1) -> None:
    """Chunks of the lifted file give what the source gives for the whole."""
    assert len(result.contract.states) == states
    assert result.contract.streaming.ok
    assert result.report.passed
    x = np.random.default_rng(0).standard_normal((9, 2, SIZE)).astype("f4")
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    whole = session.run(["y"], {"x": x})[0]

    stream = stateport.load(result.path).stream()
    parts = [stream(x[:1]), stream(x[1:6]), stream(x[6:])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    pool = stateport.load(result.path).pool(2)
    np.testing.assert_allclose(pool.step(pool.open(2), x), whole, atol=1e-6)


@pytest.mark.parametrize("axes", [("time", "batch"), ("unk__5", "unk__6"), (None, None)])
def test_a_scan_over_time(tmp_path: Path, axes: tuple[str | None, ...]) -> None:
    source = scanned(tmp_path / "m.onnx", axes=axes)
    result = lift(source, tmp_path / "l.onnx")
    check(source, result)
    assert [(each.operator, each.what) for each in result.outcomes] == [("Scan", "lifted")]
    assert result.contract.states[0].shape == ("batch", HIDDEN)
    assert result.contract.states[0].initial == "zeros"
    assert result.lifted == ("h0",)


def test_a_first_value_other_than_zeros_is_in_the_file(tmp_path: Path) -> None:
    source = scanned(tmp_path / "m.onnx", first=0.5)
    result = lift(source, tmp_path / "l.onnx")
    check(source, result)
    assert result.contract.states[0].initial == "file"


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("axes", [("time", "batch"), ("unk__5", "unk__6"), (None, None)])
def test_a_loop_over_time(tmp_path: Path, counts: bool, axes: tuple[str | None, ...]) -> None:
    source = looped(tmp_path / "m.onnx", counts=counts, axes=axes)
    result = lift(source, tmp_path / "l.onnx")
    check(source, result)
    assert [(each.operator, each.what) for each in result.outcomes] == [("Loop", "lifted")]


def with_condition(source: Path, path: Path, *nodes: onnx.NodeProto) -> Path:
    """A file with another condition of its Loop, "going_out"; "limit" is 0.9, "many" is large."""
    model = onnx.load(source)
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    body = loop.attribute[0].g
    for node in body.node:
        if node.output[0] == "going_out":
            body.node.remove(node)
    body.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.9, "f4"), "limit"))
    onnx.save(model, path)
    return path


def test_a_loop_that_the_data_may_end_is_left(tmp_path: Path) -> None:
    source = with_condition(
        looped(tmp_path / "m.onnx"),
        tmp_path / "ends.onnx",
        helper.make_node("ReduceMax", ["h_out"], ["largest"], keepdims=0),
        helper.make_node("Less", ["largest", "limit"], ["going_out"]),
    )
    with pytest.raises(ExportError, match=r"Loop.*its condition depends on the data"):
        lift(source, tmp_path / "l.onnx")


def test_numbers_of_steps_may_be_compared_as_floats(tmp_path: Path) -> None:
    """tf2onnx writes `while i < n` so, because Less took no integers in old opsets."""
    source = with_condition(
        looped(tmp_path / "m.onnx"),
        tmp_path / "counts.onnx",
        helper.make_node("Cast", ["number"], ["number_float"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["many", "nought"], ["most"]),
        helper.make_node("Cast", ["most"], ["most_float"], to=TensorProto.FLOAT),
        helper.make_node("Less", ["number_float", "most_float"], ["going_out"]),
    )
    check(source, lift(source, tmp_path / "l.onnx"))


def test_a_scan_carries_integers_and_truth_values(tmp_path: Path) -> None:
    """A number of steps that is added to the result, and whether a step was above a threshold."""
    first = helper.make_node("Constant", [], ["n_first"], value=integers("n", 2))
    flag = numpy_helper.from_array(np.array([[False]]), "flag")
    body = helper.make_graph(
        [
            *CELL[:-1],
            helper.make_node("Add", ["n_in", "one"], ["n_out"]),
            helper.make_node("ReduceMax", ["h_out"], ["largest"], axes=[1], keepdims=1),
            helper.make_node("Greater", ["largest", "limit"], ["above"]),
            helper.make_node("Or", ["above", "f_in"], ["f_out"]),
            helper.make_node("Cast", ["n_in"], ["n_float"], to=1),
            helper.make_node("Cast", ["f_in"], ["f_float"], to=1),
            helper.make_node("Sum", ["h_out", "n_float", "f_float"], ["scan"]),
        ],
        "body",
        [
            port("h_in", "n", HIDDEN),
            port("n_in", 1, kind=INT64),
            port("f_in", "n", 1, kind=TensorProto.BOOL),
            port("xi", "n", SIZE),
        ],
        [
            port("h_out", "n", HIDDEN),
            port("n_out", 1, kind=INT64),
            port("f_out", "n", 1, kind=TensorProto.BOOL),
            port("scan", "n", HIDDEN),
        ],
    )
    nodes = [
        *zeros("x"),
        first,
        helper.make_node("Concat", ["rows", "one"], ["f_shape"], axis=0),
        helper.make_node("Expand", ["flag", "f_shape"], ["f_first"]),
        helper.make_node(
            "Scan",
            ["h_first", "n_first", "f_first", "x"],
            ["h_last", "n_last", "f_last", "y"],
            body=body,
            num_scan_inputs=1,
        ),
    ]
    axes = ("time", "batch")
    tensors = [*WEIGHTS, flag, numpy_helper.from_array(np.array(0.9, "f4"), "limit")]
    source = written(
        tmp_path / "m.onnx", nodes, [port("x", *axes, SIZE)], [port("y", *axes, HIDDEN)], tensors
    )
    result = lift(source, tmp_path / "l.onnx")
    assert {state.dtype for state in result.contract.states} == {"float32", "int64", "bool"}
    assert result.contract.streaming.ok

    x = np.random.default_rng(0).standard_normal((9, 2, SIZE)).astype("f4")
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    stream = stateport.load(result.path).stream()
    parts = [stream(part) for part in np.split(x, [1, 6])]
    np.testing.assert_allclose(np.concatenate(parts), session.run(["y"], {"x": x})[0], atol=1e-6)


def unshaped(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def in_branch(number: int, first: float) -> onnx.GraphProto:
    """A branch with a first value and a Scan; its names end in a number of its own."""
    step = ["MatMul", "MatMul", "Add", "Tanh", "Identity"]
    operands = [["xi", "Wx"], ["h", "Wh"], ["a", "b"], ["ab"], ["h_out"]]
    results = ["a", "b", "ab", "h_out", "scan"]

    def own(name: str) -> str:
        return name if name in ("Wx", "Wh") else f"{name}_{number}"

    cell = []
    for operator, names, result in zip(step, operands, results, strict=True):
        cell.append(helper.make_node(operator, [*map(own, names)], [own(result)]))
    body = helper.make_graph(
        cell,
        "body",
        [port(own("h"), "n", HIDDEN), port(own("xi"), "n", SIZE)],
        [port(own("h_out"), "n", HIDDEN), port(own("scan"), "n", HIDDEN)],
    )
    fill = numpy_helper.from_array(np.array([first], "f4"))
    nodes = [
        helper.make_node("Shape", ["x"], [own("sizes")]),
        helper.make_node("Slice", [own("sizes"), "one", "two"], [own("rows")]),
        helper.make_node("Concat", [own("rows"), "four"], [own("shape")], axis=0),
        helper.make_node("ConstantOfShape", [own("shape")], [own("first")], value=fill),
        helper.make_node(
            "Scan", [own("first"), "x"], [own("last"), own("y")], body=body, num_scan_inputs=1
        ),
    ]
    return helper.make_graph(nodes, "branch", [], [unshaped(own("y"))])


def without_state(number: int) -> onnx.GraphProto:
    node = helper.make_node("MatMul", ["x", "Wx"], [f"y_{number}"])
    return helper.make_graph([node], "branch", [], [unshaped(f"y_{number}")])


def chosen(
    name: str, then: onnx.GraphProto, otherwise: onnx.GraphProto, result: str = "y"
) -> onnx.NodeProto:
    return helper.make_node("If", [name], [result], then_branch=then, else_branch=otherwise)


@pytest.mark.parametrize(
    ("node", "states"),
    [
        (chosen("first", in_branch(1, 0.0), without_state(2)), 1),
        (chosen("first", without_state(1), in_branch(2, 0.5)), 1),
        (chosen("first", in_branch(1, 0.0), in_branch(2, 0.5)), 2),
        (
            chosen(
                "first",
                helper.make_graph(
                    [chosen("second", in_branch(1, 0.5), without_state(2), "y_inner")],
                    "branch",
                    [],
                    [unshaped("y_inner")],
                ),
                without_state(3),
            ),
            1,
        ),
    ],
    ids=["then", "else", "both", "a branch in a branch"],
)
def test_a_scan_in_a_branch(tmp_path: Path, node: onnx.NodeProto, states: int) -> None:
    """The branch that is not taken passes the state on."""
    ports = [port("x", "time", "batch", SIZE)]
    ports += [port(name, kind=TensorProto.BOOL) for name in ("first", "second")]
    outputs = [port("y", "time", "batch", HIDDEN)]
    source = written(tmp_path / "m.onnx", [node], ports, outputs, WEIGHTS)
    result = lift(source, tmp_path / "l.onnx")
    assert len(result.lifted) == states
    assert {each.what for each in result.outcomes} == {"lifted"}

    model = stateport.load(result.path)
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((9, 2, SIZE)).astype("f4")
    for first, second in itertools.product([True, False], repeat=2):
        flags = {"first": np.array(first), "second": np.array(second)}
        state, parts = None, []
        for chunk in np.split(x, [1, 6]):
            output, state = model.run({"x": chunk, **flags}, state)
            parts.append(output["y"])
        whole = session.run(["y"], {"x": x, **flags})[0]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_a_last_value_that_is_an_output_stays_one(tmp_path: Path) -> None:
    source = scanned(tmp_path / "m.onnx")
    model = onnx.load(source)
    model.graph.output.append(port("last", "batch", HIDDEN))
    onnx.save(model, source)
    result = lift(source, tmp_path / "l.onnx")
    check_names = [spec.name for spec in result.contract.outputs]
    assert check_names == ["y", "last"]


def test_a_masked_cell_with_two_values(tmp_path: Path) -> None:
    """Keras' masks: where a step is masked, the state and the last output stay as they were."""
    nodes = [
        *CELL[:4],
        helper.make_node("ReduceSum", ["xi", "one_axis"], ["weight"], keepdims=1),
        helper.make_node("Greater", ["weight", "limit"], ["is_on"]),
        helper.make_node("Where", ["is_on", "h_out", "h_in"], ["h_next"]),
        helper.make_node("Where", ["is_on", "h_out", "y_in"], ["y_next"]),
        helper.make_node("Identity", ["y_next"], ["scan"]),
    ]
    ins = [port(name, "n", HIDDEN) for name in ("h_in", "y_in")]
    outs = [port(name, "n", HIDDEN) for name in ("h_next", "y_next", "scan")]
    body = helper.make_graph(nodes, "body", [*ins, port("xi", "n", SIZE)], outs)
    scan = helper.make_node(
        "Scan", ["h_first", "h_first", "x"], ["h", "l", "y"], body=body, num_scan_inputs=1
    )
    limit = numpy_helper.from_array(np.zeros(1, "f4"), "limit")
    source = written(
        tmp_path / "m.onnx",
        [*zeros("x"), scan],
        [port("x", "time", "batch", SIZE)],
        [port("y", "time", "batch", HIDDEN)],
        [*WEIGHTS, integers("one_axis", 1), limit],
    )
    check(source, lift(source, tmp_path / "l.onnx"), states=2)


def test_a_scan_that_runs_backwards_is_left(tmp_path: Path) -> None:
    source = scanned(tmp_path / "m.onnx", scan_input_directions=[1])
    with pytest.raises(ExportError, match="Scan 'Scan': it runs backwards"):
        lift(source, tmp_path / "l.onnx")


def test_a_scan_over_something_else_than_time_is_left(tmp_path: Path) -> None:
    source = scanned(tmp_path / "m.onnx")
    model = onnx.load(source)
    # The sequence that is scanned has two steps in every call, whatever the length of x.
    model.graph.node.insert(4, helper.make_node("Slice", ["x", "nought", "two"], ["x2"]))
    model.graph.node.insert(5, helper.make_node("Reshape", ["x2", "fixed"], ["x3"]))
    model.graph.initializer.append(integers("fixed", 2, -1, SIZE))
    model.graph.node[6].input[1] = "x3"
    onnx.save(model, source)
    with pytest.raises(ExportError, match="it always makes 2 iterations"):
        lift(source, tmp_path / "l.onnx")


def test_a_loop_that_only_counts_has_no_state(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["count", "one"], ["count_out"]),
            helper.make_node("Identity", ["xi"], ["scan"]),
        ],
        "body",
        [port("count", 1, kind=INT64), port("xi", "n", SIZE)],
        [port("count_out", 1, kind=INT64), port("scan", "n", SIZE)],
    )
    scan = helper.make_node("Scan", ["nought", "x"], ["c", "y"], body=body, num_scan_inputs=1)
    shape = ("time", "batch", SIZE)
    source = written(tmp_path / "m.onnx", [scan], [port("x", *shape)], [port("y", *shape)], WEIGHTS)
    with pytest.raises(ExportError, match="no loop that carries a value"):
        lift(source, tmp_path / "l.onnx")

"""Files in older or less usual forms: weights as inputs, nodes out of order, batch first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import stateport
from stateport_exporter import lift
from tests.exporter.foreign.files import (
    HIDDEN,
    SIZE,
    answers,
    array,
    constant,
    in_chunks,
    port,
    stepped,
    weights,
    write,
)

X = ["time", "batch", SIZE]
Y = ["time", 1, "batch", HIDDEN]


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("ir_version", [3, 8])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_weights_that_are_inputs_too_stay_in_the_file(
    tmp_path: Path, kind: str, ir_version: int
) -> None:
    tensors = [*weights(kind), constant("h", np.zeros((1, 1, HIDDEN)))]
    nodes = [
        helper.make_node(kind, ["x", "W", "R", "B", "", "h"], ["y4"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y4"], ["y"], axes=[1]),
    ]
    inputs = [port("x", ["t", 1, SIZE]), *(port(each.name, each.dims) for each in tensors)]
    outputs = [port("y", ["t", 1, HIDDEN])]
    source = write(
        tmp_path / "m.onnx", nodes, inputs, outputs, tensors, opset=9, ir_version=ir_version
    )
    result = lift(source, tmp_path / "l.onnx")

    x = array(6, 1, SIZE)
    assert [spec.name for spec in result.contract.inputs] == ["x"]
    close(in_chunks(result.path, x), answers(source, x=x)["y"])
    lifted = onnx.load(result.path)
    assert [each.name for each in lifted.graph.input] == ["x", *result.lifted]


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["y0", "y0"], ["y"]),
        helper.make_node("LSTM", ["copy", "W", "R", "B"], ["y0"], hidden_size=HIDDEN),
        helper.make_node("Identity", ["x"], ["copy"]),
    ]
    source = write(tmp_path / "m.onnx", nodes, [port("x", X)], [port("y", Y)], weights("LSTM"))
    result = lift(source, tmp_path / "l.onnx")

    x = array(6, 2, SIZE)
    close(in_chunks(result.path, x), answers(source, x=x)["y"])


def test_a_branch_in_front_of_what_it_reads_is_sorted(tmp_path: Path) -> None:
    branches = []
    for number in range(2):
        gru = helper.make_node("GRU", ["copy", "W", "R"], [f"y{number}"], hidden_size=HIDDEN)
        branches.append(helper.make_graph([gru], f"g{number}", [], [port(f"y{number}", Y)]))
    choice = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]
    )
    copy = helper.make_node("Identity", ["x"], ["copy"])
    inputs = [port("x", X), port("flag", [], onnx.TensorProto.BOOL)]
    source = write(tmp_path / "m.onnx", [choice, copy], inputs, [port("y", Y)], weights("GRU"))
    result = lift(source, tmp_path / "l.onnx")

    x, flag = array(6, 2, SIZE), np.array(True)
    chunks = [{"x": part, "flag": flag} for part in (x[:2], x[2:])]
    got = np.concatenate([output["y"] for output in stepped(result.path, chunks)])
    close(got, answers(source, x=x, flag=flag)["y"])


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_layout_one_is_rewritten(tmp_path: Path, kind: str, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    node = helper.make_node(
        kind, ["x", "W", "R", "B"], ["y", "last"], hidden_size=HIDDEN, layout=1, direction=direction
    )
    outputs = [
        port("y", ["batch", "time", directions, HIDDEN]),
        port("last", ["batch", directions, HIDDEN]),
    ]
    inputs = [port("x", ["batch", "time", SIZE])]
    source = write(tmp_path / "m.onnx", [node], inputs, outputs, weights(kind, directions))
    result = lift(source, tmp_path / "l.onnx")

    contract = result.contract
    assert contract.inputs[0].shape == ("batch", "time", SIZE)
    assert {spec.shape for spec in contract.states} == {(directions, "batch", HIDDEN)}
    assert contract.streaming.ok == (direction == "forward")

    # ONNX Runtime takes the same layer with time first.
    node = helper.make_node(
        kind, ["x", "W", "R", "B"], ["y", "last"], hidden_size=HIDDEN, direction=direction
    )
    outputs = [port("y", ["time", directions, "batch", HIDDEN]), port("last", None)]
    other = write(tmp_path / "o.onnx", [node], [port("x", X)], outputs, weights(kind, directions))
    x = array(2, 6, SIZE)
    want = answers(other, x=x.transpose(1, 0, 2))
    (got,) = stepped(result.path, [{"x": x}])
    close(got["y"], want["y"].transpose(2, 0, 1, 3))
    close(got["last"], want["last"].transpose(1, 0, 2))
    if direction == "forward":
        close(in_chunks(result.path, x, axis=1), got["y"])


def test_layout_one_with_first_states_and_further_operators(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "GRU", ["x", "W", "R", "B", "", "h"], ["y4"], hidden_size=HIDDEN, layout=1
        ),
        helper.make_node("Squeeze", ["y4", "two"], ["y3"]),
        helper.make_node("Relu", ["y3"], ["y"]),
    ]
    first = array(1, 1, HIDDEN, seed=7)
    tensors = [*weights("GRU"), constant("h", first), constant("two", [2], "int64")]
    inputs, outputs = [port("x", ["N", "L", SIZE])], [port("y", ["N", "L", HIDDEN])]
    source = write(tmp_path / "m.onnx", nodes, inputs, outputs, tensors)
    result = lift(source, tmp_path / "l.onnx")

    x = array(1, 6, SIZE)
    assert stateport.load(result.path).contract.states[0].initial == "file"
    time_first = helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["y"], hidden_size=HIDDEN)
    other = write(tmp_path / "o.onnx", [time_first], [port("x", X)], [port("y", Y)], tensors)
    want = np.maximum(answers(other, x=x.transpose(1, 0, 2))["y"], 0)[:, 0].transpose(1, 0, 2)
    close(in_chunks(result.path, x, axis=1), want)


def test_a_function_of_the_file_is_written_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R"], ["y4"], hidden_size=HIDDEN),
        helper.make_node("Tanh", ["y4"], ["y"]),
    ]
    own = helper.make_function(
        "own", "Recurrent", ["x", "W", "R"], ["y"], nodes, [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Recurrent", ["x", "W", "R"], ["y"], domain="own")
    w, r, _ = weights("LSTM")
    graph = helper.make_graph([call], "graph", [port("x", X)], [port("y", Y)], [w, r])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[own], ir_version=8)
    source = tmp_path / "m.onnx"
    onnx.save(model, source)
    result = lift(source, tmp_path / "l.onnx")

    assert len(result.lifted) == 2
    x = array(6, 2, SIZE)
    close(in_chunks(result.path, x), answers(source, x=x)["y"])


@pytest.mark.parametrize(
    "nodes",
    [
        [
            helper.make_node("SplitToSequence", ["x"], ["parts"], axis=2, keepdims=1),
            helper.make_node("ConcatFromSequence", ["parts"], ["copy"], axis=2),
        ],
        [
            helper.make_node("Optional", ["x"], ["maybe"]),
            helper.make_node("OptionalGetElement", ["maybe"], ["copy"]),
        ],
    ],
    ids=["sequence", "optional"],
)
def test_values_inside_that_are_no_arrays_stay(tmp_path: Path, nodes: list[onnx.NodeProto]) -> None:
    lstm = helper.make_node("LSTM", ["copy", "W", "R", "B"], ["y"], hidden_size=HIDDEN)
    source = write(
        tmp_path / "m.onnx", [*nodes, lstm], [port("x", X)], [port("y", Y)], weights("LSTM")
    )
    result = lift(source, tmp_path / "l.onnx")
    x = array(6, 2, SIZE)
    close(
        stateport.load(result.path).run({"x": x})[0]["y"],
        answers(source, x=x)["y"],
    )

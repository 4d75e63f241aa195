"""Files whose outputs are last states, constants, or nothing that a state needs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import stateport
from stateport import State
from stateport_exporter import ExportError, lift
from tests.exporter.foreign.files import (
    HIDDEN,
    SIZE,
    answers,
    array,
    constant,
    port,
    stepped,
    weights,
    write,
)

# ONNX computes its cases when they are imported. With some processors a product of small matrices
# sets the flag of an invalid number for a lane that holds no result; NumPy warns of it then.
with np.errstate(invalid="ignore"):
    from onnx.backend.test.case.node.gru import GRU
    from onnx.backend.test.case.node.lstm import LSTM
    from onnx.backend.test.case.node.rnn import RNN

X = ["time", "batch", SIZE]
LAST = [1, "batch", HIDDEN]
#: Each case of ONNX for these operators is a method that tells it to `expect`.
METHODS = [
    pytest.param(method, id=f"{case.__name__}-{name}")
    for case in (GRU, LSTM, RNN)
    for name, method in inspect.getmembers(case, inspect.isfunction)
]


def encoder(path: Path, kind: str, results: list[str]) -> Path:
    node = helper.make_node(kind, ["x", "W", "R", "B"], results, hidden_size=HIDDEN)
    outputs = [port(name, LAST) for name in results if name]
    return write(path, [node], [port("x", X)], outputs, weights(kind))


@pytest.mark.parametrize(
    ("kind", "results"),
    [
        ("GRU", ["", "last"]),
        ("RNN", ["", "last"]),
        ("LSTM", ["", "last"]),
        ("LSTM", ["", "", "cell"]),
        ("LSTM", ["", "last", "cell"]),
    ],
)
def test_a_last_state_that_is_all_stays_an_output(
    tmp_path: Path, kind: str, results: list[str]
) -> None:
    source = encoder(tmp_path / "m.onnx", kind, results)
    result = lift(source, tmp_path / "l.onnx")
    names = [name for name in results if name]
    assert [spec.name for spec in result.contract.outputs] == names
    assert {(s.input, s.output) for s in result.contract.states} == {
        (name, f"{name[0]}n") for name in result.lifted
    }
    assert result.contract.streaming.ok

    x = array(7, 2, SIZE)
    want = answers(source, x=x)
    got = stepped(result.path, [{"x": part} for part in (x[:2], x[2:3], x[3:])])[-1]
    for name in names:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("method", METHODS)
def test_onnx_own_cases_are_lifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    cases: list[dict[str, Any]] = []
    module = inspect.getmodule(method)
    monkeypatch.setattr(module, "expect", lambda node, **case: cases.append({**case, "node": node}))
    method()

    for case in cases:
        node = case["node"]
        arrays = dict(zip(filter(None, node.input), case["inputs"], strict=True))
        wanted = dict(zip(filter(None, node.output), case["outputs"], strict=True))
        kinds = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in arrays.items()}
        inputs = [port(name, a.shape, kinds[name]) for name, a in arrays.items()]
        outputs = [port(name, a.shape) for name, a in wanted.items()]
        source = write(tmp_path / "m.onnx", [node], inputs, outputs, [], opset=22, ir_version=10)
        result = lift(source, tmp_path / "l.onnx")

        model = stateport.load(result.path)
        given = {s.input: arrays[s.input] for s in model.contract.states if s.input in arrays}
        state = State(given) if given else None
        feed = {spec.name: arrays[spec.name] for spec in model.contract.inputs}
        outputs_, after = model.run(feed, state)
        got = {**{s.output: after[s.input] for s in model.contract.states}, **outputs_}
        assert outputs_
        for name, array_ in wanted.items():
            np.testing.assert_allclose(got[name], array_, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_states_that_are_taken_and_not_returned_are_returned(tmp_path: Path, kind: str) -> None:
    names = ["first", "cell"] if kind == "LSTM" else ["first"]
    node = helper.make_node(kind, ["x", "W", "R", "B", "", *names], ["y"], hidden_size=HIDDEN)
    inputs = [port("x", X), *(port(name, LAST) for name in names)]
    outputs = [port("y", ["time", 1, "batch", HIDDEN])]
    source = write(tmp_path / "m.onnx", [node], inputs, outputs, weights(kind))
    result = lift(source, tmp_path / "l.onnx")
    assert result.lifted == ()
    assert {(s.input, s.output) for s in result.contract.states} == {
        (name, f"{name}_n") for name in names
    }

    x = array(7, 2, SIZE)
    zeros = {name: np.zeros((1, 2, HIDDEN), "f4") for name in names}
    want = answers(source, x=x, **zeros)["y"]
    got = stepped(result.path, [{"x": part} for part in (x[:2], x[2:])])
    np.testing.assert_allclose(np.concatenate([g["y"] for g in got]), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("move", ["Unsqueeze", "Reshape", "Transpose"])
def test_a_moved_state_that_is_not_returned_is_returned(tmp_path: Path, move: str) -> None:
    shapes: dict[str, list[int | str]] = {
        "Unsqueeze": ["batch", HIDDEN],
        "Reshape": ["batch", HIDDEN],
        "Transpose": ["batch", 1, HIDDEN],
    }
    moves = {
        "Unsqueeze": helper.make_node("Unsqueeze", ["first", "zero"], ["h"]),
        "Reshape": helper.make_node("Reshape", ["first", "sizes"], ["h"]),
        "Transpose": helper.make_node("Transpose", ["first"], ["h"], perm=[1, 0, 2]),
    }
    nodes = [
        moves[move],
        helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["y"], hidden_size=HIDDEN),
    ]
    tensors = [
        *weights("GRU"),
        constant("zero", [0], "int64"),
        constant("sizes", [1, -1, HIDDEN], "int64"),
    ]
    inputs = [port("x", X), port("first", shapes[move])]
    outputs = [port("y", ["time", 1, "batch", HIDDEN])]
    source = write(tmp_path / "m.onnx", nodes, inputs, outputs, tensors)
    result = lift(source, tmp_path / "l.onnx")
    (state,) = result.contract.states
    assert (state.input, state.output, state.shape) == ("first", "first_n", tuple(shapes[move]))

    x = array(7, 2, SIZE)
    zeros = np.zeros([2 if axis == "batch" else int(axis) for axis in shapes[move]], "f4")
    want = answers(source, x=x, first=zeros)["y"]
    got = stepped(result.path, [{"x": part} for part in (x[:2], x[2:])])
    np.testing.assert_allclose(np.concatenate([g["y"] for g in got]), want, rtol=0, atol=2e-6)


def test_constant_outputs_stay_beside_the_others(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=HIDDEN),
        helper.make_node("Identity", ["number"], ["version"]),
        helper.make_node("Constant", [], ["size"], value=constant("s", [2.5])),
    ]
    outputs = [
        port("y", ["time", 1, "batch", HIDDEN]),
        port("version", [1], TensorProto.INT64),
        port("size", [1]),
        port("number", [1], TensorProto.INT64),
    ]
    tensors = [*weights("GRU"), constant("number", [3], "int64")]
    source = write(tmp_path / "m.onnx", nodes, [port("x", X)], outputs, tensors)
    result = lift(source, tmp_path / "l.onnx")
    assert result.contract.streaming.ok
    x = array(7, 2, SIZE)
    got = stepped(result.path, [{"x": part} for part in (x[:2], x[2:])])
    for output in got:
        assert output["version"].tolist() == output["number"].tolist() == [3]
        assert output["size"].tolist() == [2.5]
    want = answers(source, x=x)["y"]
    np.testing.assert_allclose(np.concatenate([g["y"] for g in got]), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_external_data_are_taken_from_their_file(tmp_path: Path, kind: str) -> None:
    node = helper.make_node(kind, ["x", "W", "R", "B"], ["y"], hidden_size=HIDDEN)
    folder = tmp_path / "theirs"
    folder.mkdir()
    source = write(
        folder / "m.onnx",
        [node],
        [port("x", X)],
        [port("y", ["time", 1, "batch", HIDDEN])],
        weights(kind),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (folder / "weights.bin").exists()
    result = lift(source, tmp_path / "l.onnx")
    x = array(7, 2, SIZE)
    want = answers(source, x=x)["y"]
    (folder / "weights.bin").unlink()  # the new file stands alone
    got = stepped(result.path, [{"x": part} for part in (x[:2], x[2:])])
    np.testing.assert_allclose(np.concatenate([g["y"] for g in got]), want, rtol=0, atol=2e-6)
    assert onnx.load(result.path).graph.initializer[0].data_location == TensorProto.DEFAULT


def test_a_file_that_has_all_its_states_is_refused_still(tmp_path: Path) -> None:
    node = helper.make_node("GRU", ["x", "W", "R", "B", "", "h0"], ["y", "hn"], hidden_size=HIDDEN)
    outputs = [port("y", ["time", 1, "batch", HIDDEN]), port("hn", LAST)]
    inputs = [port("x", X), port("h0", LAST)]
    source = write(tmp_path / "m.onnx", [node], inputs, outputs, weights("GRU"))
    with pytest.raises(ExportError, match="All its states are inputs and outputs already"):
        lift(source, tmp_path / "l.onnx")


@pytest.mark.parametrize("outputs", [["last"], ["y", "last"]])
def test_a_last_state_of_another_shape_is_no_next_value(tmp_path: Path, outputs: list[str]) -> None:
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B", "", "first"], ["y", "l"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["l", "zero"], ["last"]),
    ]
    ports = {"y": port("y", ["time", 1, "batch", HIDDEN]), "last": port("last", ["batch", HIDDEN])}
    inputs = [port("x", X), port("first", LAST)]
    tensors = [*weights("GRU"), constant("zero", [0], "int64")]
    source = write(tmp_path / "m.onnx", nodes, inputs, [ports[name] for name in outputs], tensors)
    result = lift(source, tmp_path / "l.onnx")
    (state,) = result.contract.states
    assert (state.input, state.output, state.shape) == ("first", "first_n", tuple(LAST))
    assert [spec.name for spec in result.contract.outputs] == outputs

    x = array(7, 2, SIZE)
    want = answers(source, x=x, first=np.zeros((1, 2, HIDDEN), "f4"))["last"]
    got = stepped(result.path, [{"x": part} for part in (x[:2], x[2:])])[-1]["last"]
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("results", [["y"], ["y", "hn"], ["", "hn"]])
def test_batch_first_states_of_the_author_are_carried(tmp_path: Path, results: list[str]) -> None:
    node = helper.make_node(
        "GRU", ["x", "W", "R", "B", "", "h0"], results, hidden_size=HIDDEN, layout=1
    )
    ports = {
        "y": port("y", ["batch", "time", 1, HIDDEN]),
        "hn": port("hn", ["batch", 1, HIDDEN]),
    }
    names = [name for name in results if name]
    inputs = [port("x", ["batch", "time", SIZE]), port("h0", ["batch", 1, HIDDEN])]
    outputs = [ports[name] for name in names]
    source = write(tmp_path / "m.onnx", [node], inputs, outputs, weights("GRU"))
    result = lift(source, tmp_path / "l.onnx")
    (state,) = result.contract.states
    assert (state.input, state.shape) == ("h0", ("batch", 1, HIDDEN))
    assert result.contract.streaming.ok

    time_first = helper.make_node("GRU", ["x", "W", "R", "B"], ["y", "hn"], hidden_size=HIDDEN)
    outputs = [port("y", ["time", 1, "batch", HIDDEN]), port("hn", LAST)]
    other = write(tmp_path / "o.onnx", [time_first], [port("x", X)], outputs, weights("GRU"))
    x = array(2, 7, SIZE)
    want = answers(other, x=x.transpose(1, 0, 2))
    model = stateport.load(result.path)
    _, after = model.run({"x": x[:, :2]})
    got, after = model.run({"x": x[:, 2:]}, after)
    np.testing.assert_allclose(after["h0"], want["hn"].transpose(1, 0, 2), rtol=0, atol=2e-6)
    if "y" in names:
        y = want["y"].transpose(2, 0, 1, 3)[:, 2:]
        np.testing.assert_allclose(got["y"], y, rtol=0, atol=2e-6)

"""What the contract of a lifted file says beyond what random sequences show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

import stateport
from stateport_exporter import lift
from tests.exporter.foreign.files import (
    HIDDEN,
    SIZE,
    answers,
    array,
    constant,
    port,
    weights,
    write,
)


def test_what_random_data_does_not_show_is_seen_in_the_operators(tmp_path: Path) -> None:
    """The file scales a sequence by its largest sample, if that is above 10."""
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["peak"], axes=[0], keepdims=1),
        helper.make_node("Max", ["peak", "ten"], ["divisor"]),
        helper.make_node("Div", ["x", "divisor"], ["scaled"]),
        helper.make_node("LSTM", ["scaled", "W", "R", "B"], ["y"], hidden_size=HIDDEN),
    ]
    inputs = [port("x", ["time", "batch", SIZE])]
    outputs = [port("y", ["time", 1, "batch", HIDDEN])]
    tensors = [*weights("LSTM"), constant("ten", [[[10.0]]])]
    source = write(tmp_path / "m.onnx", nodes, inputs, outputs, tensors)

    streaming = lift(source, tmp_path / "l.onnx").contract.streaming
    assert not streaming.ok
    assert "maximum over time" in (streaming.reason or "")


def test_a_state_is_returned_though_another_is_computed(tmp_path: Path) -> None:
    """The cell state is taken as it is, and the hidden one is computed; neither is returned."""
    nodes = [
        helper.make_node("Neg", ["h"], ["first"]),
        helper.make_node("LSTM", ["x", "W", "R", "B", "", "first", "c"], ["y"], hidden_size=HIDDEN),
    ]
    state = [1, "batch", HIDDEN]
    inputs = [port("x", ["time", "batch", SIZE]), port("h", state), port("c", state)]
    outputs = [port("y", ["time", 1, "batch", HIDDEN])]
    source = write(tmp_path / "m.onnx", nodes, inputs, outputs, weights("LSTM"))

    contract = lift(source, tmp_path / "l.onnx").contract
    assert [state.input for state in contract.states] == ["c"]
    assert not contract.streaming.ok
    feeds = {"x": array(4, 2, SIZE), "h": array(1, 2, HIDDEN, seed=3)}
    y = stateport.load(tmp_path / "l.onnx").run(feeds)[0]["y"]
    expected = answers(source, **feeds, c=array(1, 2, HIDDEN) * 0)["y"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)

"""What the contract of a lifted file says beyond what random sequences show."""

from __future__ import annotations

from pathlib import Path

from onnx import helper

from stateport_exporter import lift
from tests.exporter.foreign.files import HIDDEN, SIZE, constant, port, weights, write


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

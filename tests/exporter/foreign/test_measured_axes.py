"""Axes of inputs that no name and no inference tells: the file is run to find them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import stateport
from stateport_exporter import lift
from stateport_exporter.foreign import measured_axes
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

GRU = helper.make_node("GRU", ["both", "W", "R", "B"], ["y4"], hidden_size=HIDDEN)
SQUEEZED = helper.make_node("Squeeze", ["y4", "one"], ["y"])
ONE = constant("one", [1], "int64")


def check(source: Path, path: Path, **inputs: np.ndarray) -> None:
    """A lifted file with one time-first input x gives in chunks what its source gives whole."""
    model = stateport.load(path)
    others = {name: value for name, value in inputs.items() if name != "x"}
    state, parts = None, []
    for chunk in np.split(inputs["x"], [2, 3]):
        output, state = model.run({"x": chunk, **others}, state)
        parts.append(output["y"])
    whole = answers(source, **inputs)["y"]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "names", [("x_b", "x_t", "e_b"), ("batch_size", "seq_len", "n_speakers"), ("s0", "s1", "s2")]
)
def test_each_input_has_a_name_of_its_own_for_the_batch(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    """x (time, batch, features) plus a vector of each row (batch, features)."""
    batch, time, other = names
    nodes = [helper.make_node("Add", ["x", "e"], ["both"]), GRU, SQUEEZED]
    inputs = [port("x", [time, batch, SIZE]), port("e", [other, SIZE])]
    outputs = [port("y", ["?", "?", HIDDEN])]
    source = write(tmp_path / "m.onnx", nodes, inputs, outputs, [*weights("GRU"), ONE])

    contract = lift(source, tmp_path / "l.onnx").contract
    assert [spec.shape for spec in contract.inputs] == [("time", "batch", SIZE), ("batch", SIZE)]
    assert [spec.shape for spec in contract.outputs] == [("time", "batch", HIDDEN)]
    assert contract.states[0].shape == (1, "batch", HIDDEN)
    check(source, tmp_path / "l.onnx", x=array(6, 3, SIZE), e=array(3, SIZE, seed=2))


@pytest.mark.parametrize("names", [("b", "t"), ("N", "T"), ("x0", "x1")])
def test_names_that_shape_inference_loses(tmp_path: Path, names: tuple[str, str]) -> None:
    """A reshape by computed sizes, as PyTorch's older exporter writes one, hides all names."""
    batch, time = names
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Mul", ["sizes", "ones"], ["computed"]),
        helper.make_node("Reshape", ["x", "computed"], ["both"]),
        GRU,
        SQUEEZED,
    ]
    inputs, outputs = [port("x", [time, batch, SIZE])], [port("y", [time, batch, HIDDEN])]
    tensors = [*weights("GRU"), ONE, constant("ones", [1, 1, 1], "int64")]
    source = write(tmp_path / "m.onnx", nodes, inputs, outputs, tensors)

    contract = lift(source, tmp_path / "l.onnx").contract
    assert contract.states[0].shape == (1, "batch", HIDDEN)
    assert contract.streaming.ok
    check(source, tmp_path / "l.onnx", x=array(6, 3, SIZE))


def test_an_encoder_and_a_decoder_have_two_lengths(tmp_path: Path) -> None:
    """The decoder starts from the encoder's last state."""
    nodes = [
        helper.make_node("GRU", ["x", "W", "R", "B"], ["", "last"], hidden_size=HIDDEN),
        helper.make_node("GRU", ["target", "W", "R", "B", "", "last"], ["y4"], hidden_size=HIDDEN),
        SQUEEZED,
    ]
    inputs = [port("x", ["source_length", "batch", SIZE])]
    inputs.append(port("target", ["target_length", "batch", SIZE]))
    outputs = [port("y", ["target_length", "batch", HIDDEN])]
    source = write(tmp_path / "m.onnx", nodes, inputs, outputs, [*weights("GRU"), ONE])

    lift(source, tmp_path / "l.onnx")
    x, target = array(9, 2, SIZE), array(4, 2, SIZE, seed=2)
    y = stateport.load(tmp_path / "l.onnx").run({"x": x, "target": target})[0]["y"]
    np.testing.assert_allclose(y, answers(source, x=x, target=target)["y"], rtol=0, atol=2e-6)


def test_a_batch_that_constants_fix_is_not_probed_away(tmp_path: Path) -> None:
    """First states of four rows that differ: the file takes no other batch."""
    node = helper.make_node("GRU", ["x", "W", "R", "B", "", "first"], ["y4"], hidden_size=HIDDEN)
    first = constant("first", array(1, 4, HIDDEN, seed=9))
    inputs, outputs = [port("x", ["t", "b", SIZE])], [port("y", ["t", "b", HIDDEN])]
    source = write(
        tmp_path / "m.onnx", [node, SQUEEZED], inputs, outputs, [*weights("GRU"), ONE, first]
    )
    contract = lift(source, tmp_path / "l.onnx").contract
    assert contract.inputs[0].shape == ("time", 4, SIZE)
    assert onnx.load(tmp_path / "l.onnx").graph.input[0].name == "x"
    check(source, tmp_path / "l.onnx", x=array(6, 4, SIZE))


def test_a_graph_is_not_run_on_large_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gru = helper.make_node("GRU", ["x", "W", "R", "B"], ["y"], hidden_size=HIDDEN)
    inputs, outputs = [port("x", ["t", "b", SIZE])], [port("y", ["t", 1, "b", HIDDEN])]
    model = ir.load(write(tmp_path / "m.onnx", [gru], inputs, outputs, weights("GRU")))
    assert measured_axes.measured_meanings(model, ["t", "b"]) == {"t": "time", "b": "batch"}
    assert [value.name for value in model.graph.outputs] == ["y"]

    monkeypatch.setattr(measured_axes, "_MOST_ELEMENTS", 1000)
    assert measured_axes.measured_meanings(model, ["t", "b"]) == {}

"""First states and lengths that are constants of the file, made for a batch of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import stateport
from stateport import InputError
from stateport_exporter import lift
from tests.exporter.foreign.files import (
    HIDDEN,
    SIZE,
    answers,
    array,
    constant,
    in_chunks,
    port,
    weights,
    write,
)

X = ["time", "batch", SIZE]


def one_layer(
    path: Path,
    kind: str,
    first: np.ndarray | list[int],
    *,
    directions: int = 1,
    batch: int | str = "batch",
    extra: str = "",
) -> Path:
    """A layer whose first states are `first`; or zeros of this shape, if it is a list."""
    tensors = weights(kind, directions)
    nodes = []
    if isinstance(first, list):
        tensors.append(constant("shape", first, "int64"))
        nodes.append(helper.make_node("ConstantOfShape", ["shape"], ["z"]))
    else:
        tensors.append(constant("z", first))

    states = ["z", "z"] if kind == "LSTM" else ["z"]
    direction = "bidirectional" if directions == 2 else "forward"
    nodes.append(
        helper.make_node(
            kind,
            ["x", "W", "R", "B", "", *states],
            ["y0" if extra else "y"],
            hidden_size=HIDDEN,
            direction=direction,
        )
    )
    if extra:
        tensors.append(constant("sizes", [0, directions, int(extra), HIDDEN], "int64"))
        nodes.append(helper.make_node("Reshape", ["y0", "sizes"], ["y"]))

    outputs = [port("y", ["time", directions, batch, HIDDEN])]
    return write(path, nodes, [port("x", ["time", batch, SIZE])], outputs, tensors)


def check(source: Path, lifted: Path, batch: int) -> None:
    """Chunks give what the source gives for the whole."""
    x = array(7, batch, SIZE)
    want = answers(source, x=x)["y"]
    np.testing.assert_allclose(in_chunks(lifted, x), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_zeros_for_one_batch_serve_every_batch(tmp_path: Path, kind: str, batch: int) -> None:
    source = one_layer(tmp_path / "m.onnx", kind, [1, batch, HIDDEN])
    result = lift(source, tmp_path / "l.onnx")
    assert result.contract.inputs[0].shape == ("time", "batch", SIZE)
    assert result.contract.outputs[0].shape == ("time", 1, "batch", HIDDEN)
    assert result.contract.streaming.ok
    check(source, result.path, batch)

    # Each row of another batch is what the source gives for it alone.
    x = array(5, 3, SIZE)
    rows = [x[:, [row] * batch] for row in range(3)]
    want = np.concatenate([answers(source, x=row)["y"][:, :, :1] for row in rows], 2)
    np.testing.assert_allclose(in_chunks(result.path, x), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("batch", [1, 4])
def test_equal_rows_become_one_row(tmp_path: Path, batch: int, directions: int) -> None:
    first = np.repeat(array(directions, 1, HIDDEN, seed=8), batch, 1)
    source = one_layer(tmp_path / "m.onnx", "LSTM", first, directions=directions)
    result = lift(source, tmp_path / "l.onnx")
    assert {state.initial for state in result.contract.states} == {"file"}
    assert {state.shape for state in result.contract.states} == {(directions, "batch", HIDDEN)}
    x = array(7, batch, SIZE)
    got = np.asarray(stateport.load(result.path)(x)[0])
    np.testing.assert_allclose(got, answers(source, x=x)["y"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_rows_that_differ_fix_the_batch(tmp_path: Path, kind: str) -> None:
    source = one_layer(tmp_path / "m.onnx", kind, array(1, 2, HIDDEN, seed=9))
    result = lift(source, tmp_path / "l.onnx")
    assert result.contract.inputs[0].shape == ("time", 2, SIZE)
    assert {state.shape for state in result.contract.states} == {(1, 2, HIDDEN)}
    check(source, result.path, 2)
    with pytest.raises(InputError):
        stateport.load(result.path)(array(7, 3, SIZE))


def test_rows_that_differ_in_a_file_of_a_fixed_batch(tmp_path: Path) -> None:
    source = one_layer(tmp_path / "m.onnx", "GRU", array(1, 3, HIDDEN, seed=9), batch=3)
    result = lift(source, tmp_path / "l.onnx")
    check(source, result.path, 3)


def test_one_row_for_a_fixed_batch_is_repeated(tmp_path: Path) -> None:
    first = np.repeat(array(1, 1, HIDDEN, seed=9), 3, 1)
    source = one_layer(tmp_path / "m.onnx", "GRU", first, batch=3)
    result = lift(source, tmp_path / "l.onnx")
    check(source, result.path, 3)


def test_a_batch_that_something_else_fixes_too_is_said(tmp_path: Path) -> None:
    source = one_layer(tmp_path / "m.onnx", "GRU", [1, 4, HIDDEN], extra="4")
    result = lift(source, tmp_path / "l.onnx")
    assert result.contract.inputs[0].shape == ("time", 4, SIZE)
    assert result.contract.states[0].shape == (1, 4, HIDDEN)
    check(source, result.path, 4)


@pytest.mark.parametrize("lengths", [[3, 5], [5, 5, 5]])
def test_constant_lengths_fix_the_batch(tmp_path: Path, lengths: list[int]) -> None:
    batch = len(lengths)
    tensors = [*weights("GRU"), constant("lengths", lengths, "int32")]
    node = helper.make_node(
        "GRU", ["x", "W", "R", "B", "lengths"], ["y", "last"], hidden_size=HIDDEN
    )
    outputs = [port("y", ["time", 1, "batch", HIDDEN]), port("last", [1, "batch", HIDDEN])]
    source = write(tmp_path / "m.onnx", [node], [port("x", X)], outputs, tensors)
    result = lift(source, tmp_path / "l.onnx")
    contract = result.contract
    assert contract.inputs[0].shape == ("time", batch, SIZE)
    assert "lengths" in str(contract.streaming.reason)
    x = array(6, batch, SIZE)
    got, state = stateport.load(result.path).run({"x": x})
    want = answers(source, x=x)
    np.testing.assert_allclose(got["y"], want["y"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(state["h0"], want["last"], rtol=0, atol=2e-6)


def test_constant_lengths_of_all_steps_are_of_no_account(tmp_path: Path) -> None:
    tensors = [*weights("GRU"), constant("lengths", [6, 6], "int32")]
    node = helper.make_node("GRU", ["x", "W", "R", "B", "lengths"], ["y"], hidden_size=HIDDEN)
    inputs, outputs = [port("x", [6, 2, SIZE])], [port("y", [6, 1, 2, HIDDEN])]
    source = write(tmp_path / "m.onnx", [node], inputs, outputs, tensors)
    result = lift(source, tmp_path / "l.onnx")
    x = array(6, 2, SIZE)
    got, _ = stateport.load(result.path).run({"x": x})
    np.testing.assert_allclose(got["y"], answers(source, x=x)["y"], rtol=0, atol=2e-6)

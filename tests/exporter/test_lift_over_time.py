# SPDX-License-Identifier: Apache-2.0
"""`lift` on files that take one step per call, (1, 1, n), and `over_time` on the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import stateport
from stateport_exporter import ExportError, lift
from tests.exporter.test_contract_file import floats, in_float16, port, written

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(
    path: Path,
    time: int | str,
    batch: int | str = 1,
    *,
    kind: str = "LSTM",
    batch_first: bool = False,
    squeezed: bool = False,
) -> Path:
    """A layer of one operator: x -> y, time first, or batch first by two transposes."""
    gates = GATES[kind] * 4
    weights = [floats("W", 1, gates, 3), floats("R", 1, gates, 4), floats("B", 1, 2 * gates)]
    name, axis = ("nought", 0) if squeezed else ("one", 1)
    weights.append(numpy_helper.from_array(np.array([axis]), name))
    x, y = ("xt", "yt") if batch_first else ("x", "y")
    nodes = [helper.make_node(kind, [x, "W", "R", "B"], ["Y", "last"], hidden_size=4)]
    shape: list[Any] = [time, batch]
    if squeezed:
        nodes.append(helper.make_node("Squeeze", ["last", "nought"], ["y"]))
        return written(path, nodes, [port("x", *shape, 3)], [port("y", batch, 4)], weights)

    nodes.append(helper.make_node("Squeeze", ["Y", "one"], [y]))
    if batch_first:
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]))
        nodes.append(helper.make_node("Transpose", ["yt"], ["y"], perm=[1, 0, 2]))
        shape.reverse()
    return written(path, nodes, [port("x", *shape, 3)], [port("y", *shape, 4)], weights)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("f4")


def answer(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize("kind", sorted(GATES))
def test_a_file_of_single_steps_streams(tmp_path: Path, kind: str) -> None:
    one, many = (layer(tmp_path / f"{n}.onnx", n, kind=kind) for n in (1, "time"))
    result = lift(one, tmp_path / "l.onnx")
    assert result.contract.streaming.ok
    x = drawn(6, 1, 3)
    stream = stateport.load(result.path).stream()
    parts = [stream(x[k : k + 1]) for k in range(6)]
    np.testing.assert_allclose(np.concatenate(parts), answer(many, x), atol=1e-6)


def test_a_longer_call_of_fixed_length_does_not_stream(tmp_path: Path) -> None:
    result = lift(layer(tmp_path / "m.onnx", 5), tmp_path / "l.onnx")
    assert result.contract.streaming.ok is False
    assert "fixed length" in str(result.contract.streaming.reason)


@pytest.mark.parametrize("kind", sorted(GATES))
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_over_time_takes_many_steps_in_one_call(
    tmp_path: Path, kind: str, batch_first: bool, batch: int | str
) -> None:
    one, many = (
        layer(tmp_path / f"{n}.onnx", n, batch, kind=kind, batch_first=batch_first)
        for n in (1, "time")
    )
    result = lift(one, tmp_path / "l.onnx", over_time=True)
    assert result.contract.streaming.ok
    assert result.report.passed
    assert [node.op_type for node in onnx.load(result.path).graph.node] == ["Scan"]

    rows = 1 if batch == 1 else 2
    x = drawn(rows, 9, 3) if batch_first else drawn(9, rows, 3)
    model = stateport.load(result.path)
    whole = answer(many, x)
    np.testing.assert_allclose(model(x)[0], whole, atol=1e-6)

    axis = 1 if batch_first else 0
    stream = model.stream()
    parts = [stream(part) for part in np.split(x, [1, 4], axis)]
    np.testing.assert_allclose(np.concatenate(parts, axis), whole, atol=1e-6)
    assert stateport.verify(result.path).passed


def test_an_output_without_time_gets_it_in_front(tmp_path: Path) -> None:
    one = layer(tmp_path / "m.onnx", 1, kind="GRU", squeezed=True)
    result = lift(one, tmp_path / "l.onnx", over_time=True)
    assert result.contract.outputs[0].shape == ("time", 1, 4)
    many = layer(tmp_path / "many.onnx", "time", kind="GRU")
    x = drawn(5, 1, 3)
    np.testing.assert_allclose(stateport.load(result.path)(x)[0], answer(many, x), atol=1e-6)


@pytest.mark.parametrize("kind", sorted(GATES))
def test_float16_stays_float16_over_time(tmp_path: Path, kind: str) -> None:
    one, many = (in_float16(layer(tmp_path / f"{n}.onnx", n, kind=kind)) for n in (1, "time"))
    result = lift(one, tmp_path / "l.onnx", over_time=True)
    assert result.contract.streaming.ok, result.contract.streaming.reason
    model = stateport.load(result.path)
    assert model.precision == "float16"
    x = drawn(9, 1, 3).astype("f2")
    np.testing.assert_allclose(model(x)[0], answer(many, x), atol=3e-3)


def test_what_is_no_single_step_is_refused(tmp_path: Path) -> None:
    for time, reason in ((5, "No input has an axis of size 1"), ("time", "a time axis already")):
        source = layer(tmp_path / "m.onnx", time)
        with pytest.raises(ExportError, match=reason):
            lift(source, tmp_path / "l.onnx", over_time=True)
        assert not (tmp_path / "l.onnx").exists()


def gated(path: Path, how: str) -> Path:
    """A layer over what `how` makes of x (1, 1, 3), beside a second input m."""
    gates = GATES["GRU"] * 4
    weights = [floats("W", 1, gates, 3), floats("R", 1, gates, 4), floats("B", 1, 2 * gates)]
    weights += [
        numpy_helper.from_array(np.array(v), n) for n, v in (("one", [1]), ("flat", [1, 3]))
    ]
    weights += [numpy_helper.from_array(np.array([1, 1, 3]), "steps"), floats("P", 3, 3)]
    ways = {
        "times a mask": [helper.make_node("Mul", ["x", "m"], ["z"])],
        "through a matrix": [
            helper.make_node("Reshape", ["x", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "P"], ["product"]),
            helper.make_node("Reshape", ["product", "steps"], ["z"]),
        ],
        "plus a vector": [helper.make_node("Add", ["x", "m"], ["z"])],
    }
    m = {"times a mask": [1, 1, 1], "plus a vector": [3]}.get(how)
    nodes = [
        *ways[how],
        helper.make_node("GRU", ["z", "W", "R", "B"], ["Y"], hidden_size=4),
        helper.make_node("Squeeze", ["Y", "one"], ["y"]),
    ]
    inputs = [port("x", 1, 1, 3), *([port("m", *m)] if m else [])]
    return written(path, nodes, inputs, [port("y", 1, 1, 4)], weights)


@pytest.mark.parametrize(
    ("how", "notes"),
    [
        ("times a mask", ()),
        ("through a matrix", ()),
        ("plus a vector", ("m has one value for all steps of a call",)),
    ],
)
def test_steps_whose_operators_do_not_show_time(
    tmp_path: Path, how: str, notes: tuple[str, ...]
) -> None:
    source = gated(tmp_path / "m.onnx", how)
    result = lift(source, tmp_path / "l.onnx", over_time=True)
    assert result.notes == notes
    assert result.contract.streaming.ok

    step = stateport.load(lift(source, tmp_path / "step.onnx").path)
    inputs, state, steps = {"x": drawn(6, 1, 3)}, None, []
    if how == "times a mask":
        inputs["m"] = np.array([1, 0, 1, 1, 0, 1], "f4").reshape(6, 1, 1)
    for number in range(6):
        one = {name: array[number : number + 1] for name, array in inputs.items()}
        if how == "plus a vector":
            one["m"] = inputs["m"] = np.array([1, 2, 3], "f4")
        output, state = step.run(one, state)
        steps.append(output["y"])
    whole = stateport.load(result.path).run(inputs)[0]["y"]
    np.testing.assert_allclose(whole, np.concatenate(steps), atol=1e-6)

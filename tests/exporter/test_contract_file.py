# SPDX-License-Identifier: Apache-2.0
"""`add_contract`: files of other exporters whose states are inputs and outputs already."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import stateport
from stateport import ContractError, InputError
from stateport.model_file.infer_contract import infer_contract
from stateport.model_file.onnx_outline import read
from stateport.parity.vectors import Vectors
from stateport_exporter import ExportError, add_contract, lift, quantize
from stateport_exporter.foreign.arguments import with_row_lengths

Array = NDArray[Any]


def floats(name: str, *shape: int) -> onnx.TensorProto:
    random = np.random.default_rng(len(name) + sum(shape))
    return numpy_helper.from_array(random.normal(0, 0.4, shape).astype("f4"), name)


def port(name: str, *shape: int | str | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def written(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto],
    domains: Mapping[str, int] | None = None,
) -> Path:
    graph = helper.make_graph(nodes, "theirs", inputs, outputs, weights)
    opsets = [helper.make_opsetid(name, v) for name, v in {"": 13, **(domains or {})}.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, path)
    return path


def lstm(path: Path, x: Sequence[Any], states: Sequence[Sequence[Any]], y: Sequence[Any]) -> Path:
    """An LSTM of time first, with axes as given: those of x, of h and c in and out, and of y."""
    names = ("h_in", "c_in", "h_out", "c_out")
    ports = [port(name, *shape) for name, shape in zip(names, states, strict=True)]
    node = helper.make_node(
        "LSTM", ["x", "W", "R", "B", "", "h_in", "c_in"], ["y", "h_out", "c_out"], hidden_size=4
    )
    weights = [floats("W", 1, 16, 3), floats("R", 1, 16, 4), floats("B", 1, 32)]
    return written(path, [node], [port("x", *x), *ports[:2]], [port("y", *y), *ports[2:]], weights)


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    state = (1, "batch", 4)
    return lstm(tmp_path / "usual.onnx", ("time", "batch", 3), [state] * 4, ("time", 1, "batch", 4))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """One step per call: obs and a memory go in, actions, a constant and the memory come out."""
    nodes = [
        helper.make_node("Concat", ["obs", "memory_in"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "K"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["memory_out"]),
        helper.make_node("MatMul", ["memory_out", "A"], ["actions"]),
    ]
    return written(
        tmp_path / "policy.onnx",
        nodes,
        [port("obs", "n", 3), port("memory_in", "n", 5)],
        [port("actions", "n", 2), port("version", 1), port("memory_out", "n", 5)],
        [
            floats("K", 8, 5),
            floats("A", 5, 2),
            numpy_helper.from_array(np.ones(1, "f4"), "version"),
        ],
    )


def test_copy_verifies_quantizes_streams_and_pools(usual: Path, tmp_path: Path) -> None:
    result = add_contract(usual, tmp_path / "c.onnx")
    assert result.truth == "float64"
    assert result.report.passed
    assert result.contract.streaming.ok
    assert stateport.verify(result.path).passed

    quantized = quantize(result.path, tmp_path / "int8.onnx")
    assert quantized.report is not None
    assert quantized.report.passed

    model = stateport.load(result.path)
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("f4")
    whole, _ = model(x)
    stream = model.stream()
    parts = [stream(x[start : start + 2]) for start in (0, 2, 4)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)

    pool = model.pool(4)
    streams = pool.open(2)
    np.testing.assert_allclose(pool.step(streams, x), whole, atol=1e-6)


def test_states_are_those_that_the_caller_pairs(policy: Path, tmp_path: Path) -> None:
    result = add_contract(policy, tmp_path / "c.onnx", states={"memory_in": "memory_out"})
    assert [state.input for state in result.contract.states] == ["memory_in"]
    with pytest.raises(InputError, match="no input 'memory'"):
        add_contract(policy, tmp_path / "d.onnx", states={"memory": "memory_out"})
    assert not (tmp_path / "d.onnx").exists()


def test_vectors_are_the_graph_in_float64(policy: Path, tmp_path: Path) -> None:
    result = add_contract(policy, tmp_path / "c.onnx")
    vectors = Vectors.load(result.vectors)
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(policy).graph.initializer}
    for case in vectors.cases:
        state = case.initial.get("memory_in", np.zeros((case.sizes["batch"], 5)))
        for call in range(len(case.chunks)):
            both = np.concatenate([case.inputs["obs"][call], state], 1).astype("f8")
            state = np.tanh(both @ weights["K"].astype("f8"))
        last = case.truth["memory_out"].reshape(len(case.chunks), -1, 5)[-1]
        np.testing.assert_allclose(last, state, rtol=1e-12)


def test_wrong_weights_fail_the_vectors(policy: Path, tmp_path: Path) -> None:
    result = add_contract(policy, tmp_path / "c.onnx")
    model = onnx.load(result.path)
    weights = next(t for t in model.graph.initializer if t.name == "K")
    wrong = numpy_helper.to_array(weights) * np.float32(1.0001)
    weights.CopyFrom(numpy_helper.from_array(wrong, "K"))
    onnx.save(model, result.path)
    assert not stateport.verify(result.path).passed


def test_pool_gives_each_stream_the_constant_outputs(policy: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 3)).astype("f4")
    for model in (
        stateport.load(policy),
        stateport.load(add_contract(policy, tmp_path / "c.onnx").path),
    ):
        pool = model.pool(4)
        together = pool.step(pool.open(3), x)
        np.testing.assert_allclose(together["actions"], model(x)[0]["actions"], atol=1e-6)
        np.testing.assert_array_equal(together["version"], [1])

        each = pool.step(pool.open(1), [x[0]])
        np.testing.assert_array_equal(each[0]["version"], [1])
        assert each[0]["actions"].shape == (2,)


def test_coroutines_get_the_constant_outputs_too(policy: Path) -> None:
    x = np.random.default_rng(1).standard_normal((2, 3)).astype("f4")

    async def step_both() -> list[dict[str, Array]]:
        async with stateport.AsyncPool(stateport.load(policy), capacity=2) as pool:
            streams = [await pool.open() for _ in x]
            steps = [pool.step(s, part) for s, part in zip(streams, x, strict=True)]
            return list(await asyncio.gather(*steps))

    for answer in asyncio.run(step_both()):
        np.testing.assert_array_equal(answer["version"], [1])


def test_pool_refuses_an_output_that_mixes_the_rows(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "h_in"], ["h_out"]),
        helper.make_node("ReduceMean", ["h_out"], ["y"], axes=[0], keepdims=1),
    ]
    ins = [port("x", "batch", 3), port("h_in", "batch", 3)]
    path = written(
        tmp_path / "m.onnx", nodes, ins, [port("y", 1, 3), port("h_out", "batch", 3)], []
    )
    with pytest.raises(stateport.StateportError, match="'y' has no axis 'batch'"):
        stateport.load(path).pool(2)


@pytest.mark.parametrize("batch_first", [False, True])
def test_every_input_names_its_own_batch(tmp_path: Path, batch_first: bool) -> None:
    own = [(1, f"s{number}_dim_1", 4) for number in range(4)]
    path = lstm(tmp_path / "own.onnx", ("x_0", "x_1", 3), own, ("y_0", 1, "y_1", 4))
    if batch_first:
        proto = onnx.load(path)
        proto.graph.node[0].input[0] = "xt"
        proto.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]))
        onnx.save(proto, path)

    expected = ("batch", "time", 3) if batch_first else ("time", "batch", 3)
    assert stateport.load(path).contract.inputs[0].shape == expected
    result = add_contract(path, tmp_path / "c.onnx")
    assert result.contract.inputs[0].shape == expected
    assert result.contract.outputs[0].shape == ("time", 1, "batch", 4)
    assert result.contract.streaming.ok

    x = np.random.default_rng(0).standard_normal((2, 2, 3)).astype("f4")
    for model in (stateport.load(path), stateport.load(result.path)):
        pool = model.pool(2)
        np.testing.assert_allclose(pool.step(pool.open(2), x), model(x)[0], atol=1e-6)


def test_outputs_without_axes_are_measured(tmp_path: Path) -> None:
    state = (1, "batch", 4)
    path = lstm(tmp_path / "m.onnx", ("time", "batch", 3), [state] * 4, (None, 1, None, 4))
    result = add_contract(path, tmp_path / "c.onnx")
    assert result.contract.outputs[0].shape == ("time", 1, "batch", 4)
    assert len(stateport.load(path).pool(2).open(2)) == 2


def test_an_axis_that_is_free_is_not_taken_for_a_size(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "h_in"], ["h_out"]),
        helper.make_node("Tanh", ["h_out"], ["y"]),
    ]
    ins = [port("x", "batch", "width"), port("h_in", "batch", "width")]
    outs = [port("y", None, None), port("h_out", "batch", "width")]
    path = written(tmp_path / "m.onnx", nodes, ins, outs, [])
    result = add_contract(path, tmp_path / "c.onnx")
    batch, width = result.contract.outputs[0].shape
    assert batch == "batch"
    assert isinstance(width, str)

    x = np.ones((2, 7), "f4")
    y, _ = stateport.load(result.path)(x, stateport.State({"h_in": x}))
    np.testing.assert_allclose(y, np.tanh(2 * x), atol=1e-6)


def in_float16(path: Path) -> Path:
    """The file with all of its inputs, outputs and weights in float16."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype("f2")
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, path)
    return path


def test_float16_is_judged_by_its_bounds(usual: Path, tmp_path: Path) -> None:
    result = add_contract(in_float16(usual), tmp_path / "c.onnx")
    assert stateport.load(result.path).precision == "float16"
    assert result.truth == "float32"
    assert result.contract.streaming.ok, result.contract.streaming.reason
    assert result.report.passed


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_rounding_to_integers_is_judged_as_int8(tmp_path: Path, element: int) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT),
        helper.make_node("DynamicQuantizeLinear", ["x32"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Cast", ["d"], ["a"], to=element),
        helper.make_node("Add", ["a", "h_in"], ["h_out"]),
        helper.make_node("Tanh", ["h_out"], ["y"]),
    ]
    ins = [port(name, "batch", 4, kind=element) for name in ("x", "h_in")]
    outs = [port(name, "batch", 4, kind=element) for name in ("y", "h_out")]
    path = written(tmp_path / "m.onnx", nodes, ins, outs, [])
    result = add_contract(path, tmp_path / "c.onnx")
    assert stateport.load(result.path).precision == "int8"
    assert result.report.passed


def test_lengths_of_rows_need_a_time_axis(tmp_path: Path) -> None:
    state = [1, 2, 4]
    node = helper.make_node(
        "LSTM", ["x", "W", "R", "B", "n", "h_in", "c_in"], ["y", "h_out", "c_out"], hidden_size=4
    )
    ins = [port("x", 1, 2, 3), port("n", 2, kind=TensorProto.INT32)]
    ins += [port("h_in", *state), port("c_in", *state)]
    outs = [port("y", 1, 1, 2, 4), port("h_out", *state), port("c_out", *state)]
    weights = [floats("W", 1, 16, 3), floats("R", 1, 16, 4), floats("B", 1, 32)]
    path = written(tmp_path / "m.onnx", [node], ins, outs, weights)
    contract = with_row_lengths(infer_contract(read(path)), ir.load(path).graph)
    assert contract.inputs[1].lengths_of is None


def test_axes_are_those_that_the_caller_names(tmp_path: Path) -> None:
    own = [(1, "q", 4)] * 4
    path = lstm(tmp_path / "m.onnx", ("p", "q", 3), own, ("p", 1, "q", 4))
    result = add_contract(path, tmp_path / "c.onnx", axes={"x": ("time", "batch", 3)})
    assert result.contract.inputs[0].shape == ("time", "batch", 3)

    with pytest.raises(InputError, match=r"named batch, 3, but the file has"):
        add_contract(path, tmp_path / "d.onnx", axes={"x": ("batch", 3)})
    with pytest.raises(InputError, match=r"sizes that the file fixes stay numbers"):
        add_contract(path, tmp_path / "d.onnx", axes={"x": ("time", "batch", "n")})
    with pytest.raises(InputError, match=r"no input or output 'X'"):
        add_contract(path, tmp_path / "d.onnx", axes={"X": ("time", "batch", 3)})


def test_backward_layer_does_not_stream(tmp_path: Path) -> None:
    state = (1, "batch", 4)
    path = lstm(tmp_path / "m.onnx", ("time", "batch", 3), [state] * 4, ("time", 1, "batch", 4))
    model = onnx.load(path)
    model.graph.node[0].attribute.append(helper.make_attribute("direction", "reverse"))
    onnx.save(model, path)
    result = add_contract(path, tmp_path / "c.onnx")
    assert result.contract.streaming.ok is False
    assert result.report.passed


def test_operators_of_onnx_runtime_alone_are_judged_by_its_answers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FusedMatMul", ["x", "K"], ["a"], domain="com.microsoft", alpha=0.5),
        helper.make_node("Add", ["a", "h_in"], ["h_out"]),
        helper.make_node("Tanh", ["h_out"], ["y"]),
    ]
    ins = [port("x", "batch", 3), port("h_in", "batch", 4)]
    outs = [port("y", "batch", 4), port("h_out", "batch", 4)]
    path = written(tmp_path / "m.onnx", nodes, ins, outs, [floats("K", 3, 4)], {"com.microsoft": 1})
    result = add_contract(path, tmp_path / "c.onnx")
    assert result.truth == "float32"
    assert result.report.passed


def test_unnamed_states_and_contracts_are_refused(usual: Path, tmp_path: Path) -> None:
    node = helper.make_node("Tanh", ["x"], ["y"])
    plain = written(tmp_path / "p.onnx", [node], [port("x", "n", 3)], [port("y", "n", 3)], [])
    with pytest.raises(ContractError, match="match a pairing of states"):
        add_contract(plain, tmp_path / "c.onnx")
    assert add_contract(plain, tmp_path / "c.onnx", states={}).report.passed

    with pytest.raises(ExportError, match="has a contract already"):
        add_contract(tmp_path / "c.onnx", tmp_path / "d.onnx")
    with pytest.raises(ExportError, match="stateport contract"):
        lift(usual, tmp_path / "lifted.onnx")
    with pytest.raises(ContractError, match=r"stateport contract IN\.onnx"):
        quantize(usual, tmp_path / "q.onnx", check=False)


@pytest.mark.parametrize("steps", [1, 3])
def test_lengths_of_rows_are_at_least_one_without_a_time_axis(tmp_path: Path, steps: int) -> None:
    state = [1, 2, 4]
    node = helper.make_node(
        "LSTM", ["x", "W", "R", "B", "n", "h_in", "c_in"], ["y", "h_out", "c_out"], hidden_size=4
    )
    ins = [port("x", steps, 2, 3), port("n", 2, kind=TensorProto.INT32)]
    ins += [port("h_in", *state), port("c_in", *state)]
    outs = [port("y", steps, 1, 2, 4), port("h_out", *state), port("c_out", *state)]
    weights = [floats("W", 1, 16, 3), floats("R", 1, 16, 4), floats("B", 1, 32)]
    path = written(tmp_path / "m.onnx", [node], ins, outs, weights)

    result = add_contract(path, tmp_path / "c.onnx")
    assert result.truth == "float64"
    lengths = [case.inputs["n"] for case in Vectors.load(result.vectors).cases]
    assert min(map(np.min, lengths)) == 1
    assert max(map(np.max, lengths)) == steps


@pytest.fixture
def windowed(tmp_path: Path) -> Path:
    """Takes windows of 40 samples at one rate, whatever its open axes say."""
    nodes = [
        helper.make_node("Cast", ["rate"], ["factor"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["x", "factor"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "K"], ["seen"]),
        helper.make_node("Add", ["seen", "h_in"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["y"]),
    ]
    rate = helper.make_tensor_value_info("rate", TensorProto.INT64, [])
    ins = [port("x", "batch", "samples"), rate, port("h_in", "batch", 5)]
    outs = [port("y", None, None), port("h_out", "batch", 5)]
    return written(tmp_path / "w.onnx", nodes, ins, outs, [floats("K", 40, 5)])


def test_sizes_and_values_that_only_the_caller_knows(windowed: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as refusal:
        add_contract(windowed, tmp_path / "c.onnx")
    for part in ("takes nothing that was tried", "64 steps", "--axes x=batch,576", "--constant"):
        assert part in str(refusal.value)
    assert not (tmp_path / "c.onnx").exists()

    result = add_contract(
        windowed, tmp_path / "c.onnx", axes={"x": ("batch", 40)}, constants={"rate": 3}
    )
    assert [str(spec) for spec in result.contract.inputs] == ["x: float32[batch, 40]"]
    assert [str(spec) for spec in result.contract.outputs] == ["y: float32[batch, 5]"]
    x = np.random.default_rng(0).standard_normal((2, 40)).astype("f4")
    theirs, _ = stateport.load(windowed, constants={"rate": 3})(x)
    np.testing.assert_allclose(stateport.load(result.path)(x)[0], theirs, atol=1e-6)

    with pytest.raises(InputError, match="There is no input 'speed' to hold a constant"):
        add_contract(windowed, tmp_path / "d.onnx", constants={"speed": 3})


def test_an_axis_that_nothing_changes_is_a_size(tmp_path: Path) -> None:
    state = (1, "batch", 4)
    path = lstm(tmp_path / "m.onnx", ("time", "batch", 3), [state] * 4, (None, "one", None, "four"))
    result = add_contract(path, tmp_path / "c.onnx")
    assert result.contract.outputs[0].shape == ("time", 1, "batch", 4)


def test_one_state_that_two_layers_start_from_does_not_stream(usual: Path, tmp_path: Path) -> None:
    model = onnx.load(usual)
    second = onnx.NodeProto()
    second.CopyFrom(model.graph.node[0])
    second.input[1], second.output[:] = "W2", ["y2", "", ""]
    model.graph.node.append(second)
    model.graph.node.append(helper.make_node("Add", ["y", "y2"], ["both"]))
    model.graph.initializer.append(floats("W2", 1, 16, 3))
    model.graph.initializer[-1].CopyFrom(
        numpy_helper.from_array(-numpy_helper.to_array(model.graph.initializer[-1]), "W2")
    )
    model.graph.output[0].name = "both"
    onnx.save(model, usual)
    result = add_contract(usual, tmp_path / "c.onnx")
    assert result.contract.streaming.ok is False
    assert "its last state does not go to 'h_out'" in str(result.contract.streaming.reason)


@pytest.mark.parametrize(
    "axes",
    [
        {"x": ("batch", "time", 3)},
        {"h_in": (1, 1, 4), "c_in": (1, 1, 4)},
    ],
    ids=["time first", "states of one row"],
)
def test_axes_that_contradict_the_operators_are_refused(
    usual: Path, tmp_path: Path, axes: dict[str, tuple[Any, ...]]
) -> None:
    source = usual
    if "h_in" in axes:
        state = (1, "b", 4)
        source = lstm(tmp_path / "m.onnx", ("t", "b", 3), [state] * 4, ("t", 1, "b", 4))
    with pytest.raises(ExportError, match="no other that was tried, so the axis 'batch' is wrong"):
        add_contract(source, tmp_path / "c.onnx", axes=axes)
    assert not (tmp_path / "c.onnx").exists()


def test_batch_and_time_that_are_called_the_wrong_way_round(tmp_path: Path) -> None:
    state = (1, "time", 4)
    source = lstm(tmp_path / "m.onnx", ("batch", "time", 3), [state] * 4, ("batch", 1, "time", 4))
    contract = add_contract(source, tmp_path / "c.onnx").contract
    assert contract.inputs[0].shape == ("time", "batch", 3)
    assert contract.states[0].shape == (1, "batch", 4)

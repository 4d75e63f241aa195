"""`lift`: files that other exporters wrote, their hidden states in the open, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import stateport
from stateport import ContractError, FileError, InputError, State
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import ExportError, LiftResult, lift
from stateport_exporter.foreign.whole_sequences import record_from_source
from tests.exporter.graphs import Builder

Array = np.ndarray
SIZE, HIDDEN = 5, 6


def sequence(build: Builder, name: str = "x") -> str:
    """The input (batch, time, SIZE), with time first."""
    x = build.input(name, ["N", "L", SIZE])
    return str(build.op("Transpose", [x], perm=[1, 0, 2]))


def finish(build: Builder, y: str, path: Path) -> Path:
    build.output(build.op("Transpose", [y], perm=[1, 0, 2]), "y", ["N", "L", None])
    return build.save(path)


def one_layer(path: Path, kind: str = "LSTM", first: str = "absent", **more: Any) -> Path:
    build = Builder()
    return finish(
        build, build.recurrent(kind, sequence(build), SIZE, HIDDEN, first=first, **more), path
    )


def answers(path: Path, **inputs: Array) -> list[Array]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, inputs)
    return found


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def check_same(source: Path, result: LiftResult, **more: Array) -> None:
    """Whole sequences give what they gave; and chunks, where the contract says so."""
    model = stateport.load(result.path)
    contract = model.contract
    x = random(3, 12, SIZE)
    want = answers(source, x=x, **more)
    got, _ = model.run({"x": x, **more})
    for spec, array in zip(contract.outputs, want, strict=False):
        np.testing.assert_allclose(got[spec.name], array, rtol=0, atol=2e-6)
    if not contract.streaming.ok:
        return
    state: State | None = None
    parts = []
    for part in np.split(x, [1, 2, 7], 1):
        outputs, state = model.run({"x": part, **more}, state)
        parts.append(outputs["y"])
    np.testing.assert_allclose(np.concatenate(parts, 1), got["y"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("first", ["absent", "zeros", "constant"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_hidden_first_states_are_lifted(tmp_path: Path, kind: str, first: str) -> None:
    source = one_layer(tmp_path / "m.onnx", kind, first)
    result = lift(source, tmp_path / "l.onnx")
    names = ("h0", "c0") if kind == "LSTM" else ("h0",)
    assert result.lifted == names
    assert [one.what for one in result.outcomes] == ["lifted"]
    contract = result.contract
    assert [(s.name, s.shape) for s in contract.inputs] == [("x", ("batch", "time", SIZE))]
    assert [(s.name, s.shape) for s in contract.outputs] == [("y", ("batch", "time", HIDDEN))]
    initial = "file" if first == "constant" else "zeros"
    assert {(s.input, s.output, s.shape, s.initial) for s in contract.states} == {
        (name, f"{name[0]}n", (1, "batch", HIDDEN), initial) for name in names
    }
    assert contract.streaming.ok
    check_same(source, result)
    vectors = Vectors.load(vectors_path(result.path))
    report = measure_model(stateport.load(result.path), vectors)
    assert report.passed
    assert report.steps == 2048
    assert {case.through for case in vectors.cases} == {"model", "stream"}


def test_two_layers_have_the_names_of_their_operators(tmp_path: Path) -> None:
    build = Builder()
    y = build.recurrent("GRU", sequence(build), SIZE, HIDDEN)
    source = finish(
        build, build.recurrent("LSTM", y, HIDDEN, 4, first="zeros"), tmp_path / "m.onnx"
    )
    result = lift(source, tmp_path / "l.onnx")
    assert len(result.lifted) == 3
    assert all(name.startswith(("GRU_", "LSTM_")) for name in result.lifted)
    check_same(source, result)


def test_a_last_state_that_is_an_output_already_stays_it(tmp_path: Path) -> None:
    build = Builder()
    x = sequence(build)
    y = build.recurrent("GRU", x, SIZE, HIDDEN)
    gru = next(node for node in build.nodes if node.op_type == "GRU")
    gru.output[1] = "final"
    build.also_output("final", [1, "N", HIDDEN])
    source = finish(build, y, tmp_path / "m.onnx")
    result = lift(source, tmp_path / "l.onnx")
    assert [(s.input, s.output) for s in result.contract.states] == [("h0", "final")]
    assert [spec.name for spec in result.contract.outputs] == ["y"]


def test_an_argument_whose_next_value_is_missing_gets_it(tmp_path: Path) -> None:
    build = Builder()
    x = sequence(build)
    start = build.input("start", [1, "N", HIDDEN])
    y = build.recurrent("GRU", x, SIZE, HIDDEN)
    next(node for node in build.nodes if node.op_type == "GRU").input.extend(["", "", start])
    y = build.recurrent("GRU", y, HIDDEN, HIDDEN)
    source = finish(build, y, tmp_path / "m.onnx")
    result = lift(source, tmp_path / "l.onnx")
    assert ("start", "start_n") in {(s.input, s.output) for s in result.contract.states}
    assert result.contract.streaming.ok


def test_a_layer_of_both_directions_is_lifted_and_cannot_stream(tmp_path: Path) -> None:
    source = one_layer(tmp_path / "m.onnx", direction="bidirectional")
    result = lift(source, tmp_path / "l.onnx")
    assert result.contract.states[0].shape == (2, "batch", HIDDEN)
    assert "is bidirectional: its backward half needs" in str(result.contract.streaming.reason)
    check_same(source, result)


def test_what_ties_steps_is_said(tmp_path: Path) -> None:
    build = Builder()
    y = build.recurrent("GRU", sequence(build), SIZE, HIDDEN)
    mean = build.op("ReduceMean", [y, build.constant(np.array([0]))], keepdims=1)
    source = finish(build, build.op("Sub", [y, mean]), tmp_path / "m.onnx")
    result = lift(source, tmp_path / "l.onnx")
    assert "takes the mean over time" in str(result.contract.streaming.reason)
    check_same(source, result)


def test_lengths_of_rows_are_told_to_the_runtime(tmp_path: Path) -> None:
    build = Builder()
    x = sequence(build)
    lengths = build.input("lengths", ["N"], TensorProto.INT32)
    source = finish(
        build, build.recurrent("GRU", x, SIZE, HIDDEN, lengths=lengths), tmp_path / "m.onnx"
    )
    result = lift(source, tmp_path / "l.onnx")
    assert {s.name: s.lengths_of for s in result.contract.inputs} == {"x": None, "lengths": "time"}
    assert not result.contract.streaming.ok
    with pytest.raises(InputError, match="must be 1 to 3 long"):
        stateport.load(result.path).run(
            {"x": random(2, 3, SIZE), "lengths": np.array([3, 0], "i4")}
        )


def branches(path: Path, *, deep: bool = False, nothing: bool = False) -> Path:
    """One of two layers, by a truth value that is given."""
    build = Builder()
    x = sequence(build)
    flag = build.input("flag", [], TensorProto.BOOL)
    graphs = []
    for number, kind in enumerate(["LSTM", "GRU"]):
        inner = build.inner()
        if number and nothing:
            y = inner.op(
                "MatMul", [x, inner.constant(inner.random.standard_normal((SIZE, HIDDEN)))]
            )
        else:
            y = inner.recurrent(kind, x, SIZE, HIDDEN, first="zeros")
        if deep and not number:
            twice = []
            for factor in (1.0, 2.0):
                further = inner.inner()
                z = further.recurrent("RNN", y, HIDDEN, HIDDEN)
                z = further.op("Mul", [z, further.constant(np.array([factor]))])
                twice.append(inner.branch(further, z))
            y = inner.op("If", [flag], then_branch=twice[0], else_branch=twice[1])
        graphs.append(build.branch(inner, y))
    y = build.op("If", [flag], then_branch=graphs[0], else_branch=graphs[1])
    return finish(build, y, path)


@pytest.mark.parametrize("options", [{}, {"deep": True}, {"nothing": True}])
def test_layers_in_branches_are_lifted(tmp_path: Path, options: dict[str, bool]) -> None:
    source = branches(tmp_path / "m.onnx", **options)
    result = lift(source, tmp_path / "l.onnx")
    count = 2 + (0 if options.get("nothing") else 1) + (2 if options.get("deep") else 0)
    assert len(result.lifted) == count
    assert result.contract.streaming.ok
    for flag in (True, False):
        check_same(source, result, flag=np.array(flag))


def test_the_state_of_a_branch_that_is_not_taken_stays(tmp_path: Path) -> None:
    result = lift(branches(tmp_path / "m.onnx"), tmp_path / "l.onnx")
    model = stateport.load(result.path)
    x = random(2, 3, SIZE)
    _, state = model.run({"x": x, "flag": np.array(True)})
    _, after = model.run({"x": x, "flag": np.array(False)}, state)
    same = {name for name in state if np.array_equal(state[name], after[name])}
    assert len(same) == 2  # h and c of the LSTM
    assert all("LSTM" in name for name in same)


def loop(path: Path, kind: str, *, rounds: int | str = 3) -> Path:
    """A layer that runs over each of some bands, (bands, time, batch, SIZE), in a loop."""
    build = Builder()
    x = build.input("x", ["N", "L", SIZE])
    x = build.op("Transpose", [x], perm=[1, 0, 2])
    scales = build.constant(np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1))
    bands = build.op("Mul", [build.op("Unsqueeze", [x, build.constant(np.array([0]))]), scales])
    inner = build.inner()
    if kind == "Scan":
        band = inner.name("band")
        y = inner.recurrent("LSTM", band, SIZE, HIDDEN, first="zeros")
        info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (band, y)]
        body = helper.make_graph(inner.nodes, "body", info[:1], info[1:])
        build.weights += inner.weights
        made = build.op("Scan", [bands], body=body, num_scan_inputs=1)
    else:
        index, going, goes_on = (inner.name(n) for n in ("index", "going", "goes_on"))
        band = inner.op("Gather", [bands, index], axis=0)
        y = inner.recurrent("LSTM", band, SIZE, HIDDEN, first="zeros")
        inner.nodes.append(helper.make_node("Identity", [going], [goes_on]))
        body = helper.make_graph(
            inner.nodes,
            "body",
            [
                helper.make_tensor_value_info(index, TensorProto.INT64, []),
                helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            ],
            [
                helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []),
                helper.make_tensor_value_info(y, TensorProto.FLOAT, None),
            ],
        )
        build.weights += inner.weights
        if rounds == "given":
            most = build.input("rounds", [], TensorProto.INT64)
        else:
            most = build.constant(np.array(rounds))
        made = build.op("Loop", [most, build.constant(np.array(True))], body=body)
    total = build.op("ReduceSum", [made, build.constant(np.array([0]))], keepdims=0)
    return finish(build, total, path)


@pytest.mark.parametrize("kind", ["Scan", "Loop"])
def test_a_layer_in_a_loop_has_a_state_for_each_round(tmp_path: Path, kind: str) -> None:
    source = loop(tmp_path / "m.onnx", kind)
    result = lift(source, tmp_path / "l.onnx")
    assert result.lifted == ("h0", "c0")
    assert {s.shape for s in result.contract.states} == {(3, 1, "batch", HIDDEN)}
    assert result.contract.streaming.ok, result.contract.streaming.reason
    check_same(source, result)


def test_a_loop_of_any_number_of_rounds_is_left_with_the_reason(tmp_path: Path) -> None:
    source = loop(tmp_path / "m.onnx", "Loop", rounds="given")
    with pytest.raises(ExportError, match="does not fix the number of iterations"):
        lift(source, tmp_path / "l.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_computed_first_state_is_left_and_the_others_are_lifted(tmp_path: Path) -> None:
    build = Builder()
    y = build.recurrent("LSTM", sequence(build), SIZE, HIDDEN)
    y = build.recurrent("GRU", y, HIDDEN, HIDDEN, first="computed")
    source = finish(build, y, tmp_path / "m.onnx")
    result = lift(source, tmp_path / "l.onnx")
    assert [one.what for one in result.outcomes] == ["lifted", "left"]
    assert len(result.lifted) == 2
    reason = str(result.contract.streaming.reason)
    assert "does not carry its state to the next call: its initial state is computed" in reason
    check_same(source, result)


def test_constants_of_the_caller_become_the_files(tmp_path: Path) -> None:
    result = lift(branches(tmp_path / "m.onnx"), tmp_path / "l.onnx", constants={"flag": False})
    assert [spec.name for spec in result.contract.inputs] == ["x"]
    x = random(2, 4, SIZE)
    want = answers(tmp_path / "m.onnx", x=x, flag=np.array(False))[0]
    np.testing.assert_allclose(stateport.load(result.path)(x)[0], want, rtol=0, atol=2e-6)


def test_axes_without_names_are_found(tmp_path: Path) -> None:
    build = Builder()
    x = build.input("x", [None, None, SIZE])
    y = build.recurrent("GRU", build.op("Transpose", [x], perm=[1, 0, 2]), SIZE, HIDDEN)
    build.output(build.op("Transpose", [y], perm=[1, 0, 2]), "y")
    result = lift(build.save(tmp_path / "m.onnx"), tmp_path / "l.onnx")
    assert result.contract.inputs[0].shape == ("batch", "time", SIZE)
    assert result.contract.outputs[0].shape[:2] == ("batch", "time")


def test_sizes_that_a_file_says_wrong_are_measured(tmp_path: Path) -> None:
    source = one_layer(tmp_path / "m.onnx")
    model = onnx.load(source)
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 25
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[2].dim_value = 25, HIDDEN
    onnx.save(model, source)
    result = lift(source, tmp_path / "l.onnx")
    assert result.contract.outputs[0].shape == ("batch", "time", HIDDEN)


def nothing_recurrent(path: Path) -> Path:
    build = Builder()
    weight = build.constant(build.random.standard_normal((SIZE, 2)))
    return finish(build, build.op("MatMul", [sequence(build), weight]), path)


def all_explicit(path: Path) -> Path:
    build = Builder()
    x = sequence(build)
    h = build.input("h", [1, "N", HIDDEN])
    y = build.recurrent("GRU", x, SIZE, HIDDEN)
    gru = next(node for node in build.nodes if node.op_type == "GRU")
    gru.input.extend(["", "", h])
    gru.output[1] = "hn"
    build.also_output("hn", [1, "N", HIDDEN])
    return finish(build, y, path)


def ambiguous(path: Path) -> Path:
    all_explicit(path)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Identity", ["hn"], ["h_out"]))
    model.graph.output.append(
        helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [1, "N", HIDDEN])
    )
    onnx.save(model, path)
    return path


def joined_rows(path: Path) -> Path:
    """A layer over a band of frequencies: its rows are batch times bands."""
    build = Builder()
    x = build.input("x", ["N", "bands", "L", SIZE])
    rows = build.op("Reshape", [x, build.constant(np.array([-1, 4, SIZE]))])
    y = build.recurrent(
        "GRU", build.op("Transpose", [rows], perm=[1, 0, 2]), SIZE, HIDDEN, first="computed"
    )
    build.output(y, "y")
    return build.save(path)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (nothing_recurrent, ExportError, "no LSTM, GRU or RNN in the file"),
        (all_explicit, ExportError, "All its states are inputs and outputs already"),
        (ambiguous, ContractError, "more than one pairing of states: 'h' with 'hn' or 'h_out'"),
        (joined_rows, ExportError, "nothing that can be lifted"),
    ],
)
def test_what_cannot_be_lifted_is_refused_and_nothing_is_written(
    tmp_path: Path, make: Callable[[Path], Path], error: type[Exception], says: str
) -> None:
    source = make(tmp_path / "m.onnx")
    with pytest.raises(error) as refusal:
        lift(source, tmp_path / "l.onnx")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_misuse_is_refused(tmp_path: Path, reference: Path) -> None:
    source = one_layer(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="is the source itself; give the new file another name"):
        lift(source, source)
    with pytest.raises(FileError, match="there is no folder"):
        lift(source, tmp_path / "nowhere" / "l.onnx")
    (tmp_path / "bad.onnx").write_bytes(source.read_bytes()[:-100])
    with pytest.raises(FileError, match="is not a whole ONNX file"):
        lift(tmp_path / "bad.onnx", tmp_path / "l.onnx")
    with pytest.raises(ExportError, match="has a contract that names its states"):
        lift(reference, tmp_path / "l.onnx")
    with pytest.raises(InputError, match="no input 'sr' to hold a constant"):
        lift(source, tmp_path / "l.onnx", constants={"sr": 16000})
    with pytest.raises(InputError, match="no input 'h' to be a state"):
        lift(source, tmp_path / "l.onnx", states={"h": "y"})


def test_other_peoples_metadata_stay(tmp_path: Path) -> None:
    source = one_layer(tmp_path / "m.onnx")
    model = onnx.load(source)
    helper.set_model_props(model, {"theirs": "kept"})
    onnx.save(model, source)
    lift(source, tmp_path / "l.onnx")
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "l.onnx").metadata_props}
    assert found["theirs"] == "kept"
    assert {"stateport.contract", "stateport.origin"} <= {*found}


def test_a_lifted_file_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any, **more: Any) -> Vectors:
        vectors = record_from_source(*arguments, **more)
        vectors.cases[0].truth["y"][0] += 1
        return vectors

    monkeypatch.setattr("stateport_exporter.foreign.lifted_file.record_from_source", wrong)
    source = one_layer(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="does not give the answers of the one it came from"):
        lift(source, tmp_path / "l.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]

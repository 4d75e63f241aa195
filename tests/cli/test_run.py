"""`stateport run`: whole or in chunks, and on from a saved state."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import stateport
from stateport import ArraySpec, Contract
from stateport.contract import CONTRACT_KEY

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_writes_what_the_model_gives(command: Command, reference: Path, x: Path) -> None:
    outcome = command("run", reference, "-i", f"x={x}", "-o", "y.npz", "--state-out", "s")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.strip() == "y: float32[2, 40, 10]"
    y, state = stateport.load(reference)(np.load(x))
    np.testing.assert_array_equal(outputs("y.npz")["y"], y)
    assert stateport.State.load("s") == state


@pytest.mark.parametrize("chunk", [1, 16, 40, 100])
def test_chunks_joined_are_the_whole(
    command: Command, reference: Path, x: Path, chunk: int
) -> None:
    assert command("run", reference, "-i", f"x={x}", "-o", "whole.npz").returncode == 0
    line = ["run", reference, "-i", f"x={x}", "-o", "y.npz", "--chunk", chunk]
    assert command(*line).returncode == 0
    np.testing.assert_allclose(outputs("y.npz")["y"], outputs("whole.npz")["y"], rtol=0, atol=1e-6)


def test_a_run_in_chunks_goes_on_from_its_saved_state(
    command: Command, reference: Path, x: Path
) -> None:
    array = np.load(x)
    np.save("first.npy", array[:, :23])
    np.save("second.npy", array[:, 23:])
    first = ["run", reference, "-i", "x=first.npy", "-o", "a.npz", "--chunk", 16]
    second = ["run", reference, "-i", "x=second.npy", "-o", "b.npz", "--chunk", 16]
    assert command(*first, "--state-out", "s").returncode == 0
    assert command(*second, "--state-in", "s", "--state-out", "last").returncode == 0
    whole = ["run", reference, "-i", f"x={x}", "-o", "whole.npz", "--state-out", "whole"]
    assert command(*whole).returncode == 0
    joined = np.concatenate([outputs("a.npz")["y"], outputs("b.npz")["y"]], axis=1)
    np.testing.assert_allclose(joined, outputs("whole.npz")["y"], rtol=0, atol=1e-6)
    expected = stateport.State.load("whole")
    for name, state in stateport.State.load("last").items():
        np.testing.assert_allclose(state, expected[name], rtol=0, atol=1e-6)


def test_a_run_without_an_output_file_only_says_what_came(
    command: Command, reference: Path, x: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    assert command("run", reference, "-i", f"x={x}").stdout.strip() == "y: float32[2, 40, 10]"
    assert sorted(tmp_path.iterdir()) == before


def test_chunks_are_not_joined_along_an_axis_that_is_not_time_alone(
    command: Command, refused: Callable[..., None]
) -> None:
    contract = Contract(
        inputs=(ArraySpec("x", "float32", ("batch", "time")),),
        outputs=(ArraySpec("y", "float32", ("batch*time",)),),
    )
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "time"])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch*time"])
    shape = helper.make_tensor("shape", onnx.TensorProto.INT64, [1], [-1])
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = helper.make_graph([node], "flat", [x], [y], [shape])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    onnx.save(model, "flat.onnx")
    np.save("x.npy", np.ones((2, 3), np.float32))
    line = ["run", "flat.onnx", "-i", "x=x.npy"]
    assert command(*line).stdout.strip() == "y: float32[6]"
    refused(command(*line, "--chunk", 2), "cannot be put together from chunks")


def test_the_real_command_runs(process: Command, reference: Path, x: Path) -> None:
    outcome = process("run", reference, "-i", f"x={x}", "-o", "y.npz", "--chunk", 16)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outputs("y.npz")["y"].shape == (2, 40, 10)


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b"])
def test_an_output_of_any_name_is_written(command: Command, tmp_path: Path, name: str) -> None:
    contract = Contract(
        inputs=(ArraySpec("x", "float32", ("batch",)),),
        outputs=(ArraySpec(name, "float32", ("batch",)),),
    )
    value = [
        helper.make_tensor_value_info(spec, onnx.TensorProto.FLOAT, ["batch"])
        for spec in ("x", name)
    ]
    node = helper.make_node("Neg", ["x"], [name])
    graph = helper.make_graph([node], "named", value[:1], value[1:])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    onnx.save(model, "named.onnx")
    np.save("x.npy", np.ones(3, np.float32))
    outcome = command("run", "named.onnx", "-i", "x=x.npy", "-o", "y.npz")
    assert outcome.returncode == 0, outcome.stderr
    np.testing.assert_array_equal(outputs("y.npz")[name], -np.ones(3))


def outputs(path: str) -> dict[str, NDArray[np.float32]]:
    with np.load(path) as file:
        return dict(file)

"""Files that take the first states of all layers as one array, and do not return the last ones."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, lift
from tests.exporter.foreign.files import HIDDEN, SIZE, array, constant, port, write


class Stack(nn.Module):
    """Layers whose first states are an argument; only the outputs are returned."""

    def __init__(self, kind: str, layers: int, bidirectional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind]
        self.layer = layer(SIZE, HIDDEN, layers, bidirectional=bidirectional)

    def forward(self, x: Tensor, *states: Tensor) -> Tensor:
        y: Tensor = self.layer(x, states if len(states) == 2 else states[0])[0]
        return y


class Cells(nn.Module):
    """Layers that each take their own element of the states, and return some of the last ones."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.first, self.second = nn.GRU(SIZE, HIDDEN), nn.GRU(HIDDEN, HIDDEN)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        if self.how == "elements":
            one, two = h[0][None], h[-1][None]
        elif self.how == "unbound":
            one, two = (part.unsqueeze(0) for part in h.unbind(0))
        else:
            one, two = torch.split(h, 1)
        middle, first_last = self.first(x, one)
        y, second_last = self.second(middle, two)
        return (y, first_last, second_last) if self.how == "returned apart" else (y,)


def write_by_pytorch(
    network: nn.Module, path: Path, states: list[Tensor], outputs: list[str]
) -> None:
    """Writes a file by PyTorch's older exporter; the newer one fixes the length of a sequence."""
    names = ["h", "c"][: len(states)]
    axes = {"x": {0: "time", 1: "batch"}, "h": {1: "batch"}, "c": {1: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        torch.onnx.export(
            network.eval(),
            (torch.zeros(5, 2, SIZE), *states),
            path,
            input_names=["x", *names],
            output_names=outputs,
            dynamic_axes={name: axes[name] for name in ["x", *names]},
            dynamo=False,
        )


@pytest.mark.parametrize(("kind", "layers"), [("LSTM", 2), ("GRU", 3), ("RNN", 2)])
def test_the_states_of_a_stack_are_returned_together(
    kind: str, layers: int, tmp_path: Path
) -> None:
    network = Stack(kind, layers)
    states = [torch.zeros(layers, 2, HIDDEN) for _ in range(2 if kind == "LSTM" else 1)]
    write_by_pytorch(network, tmp_path / "old.onnx", states, ["y"])
    result = lift(tmp_path / "old.onnx", tmp_path / "new.onnx")

    names = [(state.input, state.output) for state in result.contract.states]
    assert names == [("h", "h_n"), ("c", "c_n")][: len(states)]
    _check_against(network, tmp_path / "new.onnx", states)


def test_both_directions_are_a_part_of_two_rows(tmp_path: Path) -> None:
    network = Stack("GRU", 2, bidirectional=True)
    states = [torch.zeros(4, 2, HIDDEN)]
    write_by_pytorch(network, tmp_path / "old.onnx", states, ["y"])
    result = lift(tmp_path / "old.onnx", tmp_path / "new.onnx")

    assert [(state.input, state.output) for state in result.contract.states] == [("h", "h_n")]
    assert not result.contract.streaming.ok
    x, h = array(7, 2, SIZE), array(4, 2, HIDDEN, seed=5)
    outputs, last = stateport.load(result.path).run({"x": x}, stateport.State({"h": h}))
    with torch.no_grad():
        y, expected = network.layer(torch.from_numpy(x), torch.from_numpy(h))
    np.testing.assert_allclose(outputs["y"], y, atol=1e-5)
    np.testing.assert_allclose(last["h"], expected, atol=1e-5)


@pytest.mark.parametrize("how", ["elements", "unbound", "pieces", "returned apart"])
def test_each_layer_takes_its_own_part(how: str, tmp_path: Path) -> None:
    network = Cells(how)
    outputs = ["y", "one", "two"] if how == "returned apart" else ["y"]
    states = [torch.zeros(2, 2, HIDDEN)]
    write_by_pytorch(network, tmp_path / "old.onnx", states, outputs)
    result = lift(tmp_path / "old.onnx", tmp_path / "new.onnx")

    assert [(state.input, state.output) for state in result.contract.states] == [("h", "h_n")]
    assert [spec.name for spec in result.contract.outputs] == outputs
    _check_against(network, tmp_path / "new.onnx", states)


def _check_against(network: nn.Module, path: Path, states: list[Tensor]) -> None:
    """Chunks of a stream give what PyTorch gives for the whole."""
    x = array(7, 2, SIZE)
    with torch.no_grad():
        y = network(torch.from_numpy(x), *states)
    stream = stateport.load(path).stream()
    pieces = [stream.run({"x": piece})["y"] for piece in np.split(x, [1, 4])]
    expected = y[0] if isinstance(y, tuple) else y
    np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-5)


def write_parts(path: Path, parts: list[tuple[int, int]]) -> Path:
    """A GRU for each part of an input of three states, all on one sequence, and their sum."""
    nodes, constants, results = [], [], []
    for number, (start, end) in enumerate(parts):
        names = [f"{name}{number}" for name in ("start", "end", "part", "y", "r")]
        start_name, end_name, part, y, row = names
        constants += [constant(start_name, [start], "int64"), constant(end_name, [end], "int64")]
        nodes += [
            helper.make_node("Slice", ["h", start_name, end_name, "axes"], [part]),
            helper.make_node("GRU", ["x", "W", "R", "", "", part], [y], hidden_size=HIDDEN),
            helper.make_node("Squeeze", [y, "one"], [row]),
        ]
        results.append(row)
    nodes.append(helper.make_node("Sum", results, ["y"]))
    constants += [
        constant("axes", [0], "int64"),
        constant("one", [1], "int64"),
        constant("W", 0.4 * array(1, 3 * HIDDEN, SIZE, seed=2)),
        constant("R", 0.4 * array(1, 3 * HIDDEN, HIDDEN, seed=3)),
    ]
    inputs = [port("x", ["time", "batch", SIZE]), port("h", [3, "batch", HIDDEN])]
    return write(path, nodes, inputs, [port("y", ["time", "batch", HIDDEN])], constants)


def test_parts_in_another_order_and_from_the_end(tmp_path: Path) -> None:
    source = write_parts(tmp_path / "old.onnx", [(1, 2), (-1, 2**31), (0, -2)])
    assert onnx.load(source).graph.input[1].name == "h"
    result = lift(source, tmp_path / "new.onnx")
    assert [(state.input, state.output) for state in result.contract.states] == [("h", "h_n")]

    model = stateport.load(tmp_path / "new.onnx")
    x, h = array(6, 2, SIZE), array(3, 2, HIDDEN, seed=5)
    whole, state = model.run({"x": x}, stateport.State({"h": h}))
    first, middle = model.run({"x": x[:2]}, stateport.State({"h": h}))
    second, last = model.run({"x": x[2:]}, middle)
    np.testing.assert_allclose(np.concatenate([first["y"], second["y"]]), whole["y"], atol=1e-5)
    np.testing.assert_allclose(last["h"], state["h"], atol=1e-5)


@pytest.mark.parametrize(
    "parts",
    [[(0, 1), (1, 2)], [(0, 1), (1, 2), (1, 2)], [(0, 1), (0, 1), (2, 3)]],
    ids=["a state that nothing reads", "a state twice", "a state twice, another one never"],
)
def test_parts_that_are_not_all_of_it_are_no_state(
    parts: list[tuple[int, int]], tmp_path: Path
) -> None:
    source = write_parts(tmp_path / "old.onnx", parts)
    with pytest.raises(ExportError, match="no output was found"):
        lift(source, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()

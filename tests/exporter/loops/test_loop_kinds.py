# SPDX-License-Identifier: Apache-2.0
"""Loops over time: weights in containers, steps by lists, states in one tensor, h[-1] behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.loops import roll_loops
from stateport_exporter.network.example import Example

X = Spec("float32", "batch", "time", 4)
REFUSAL = ExportError("it was not captured")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.gru = nn.GRUCell(4, 4), nn.GRU(4, 4)
        self.head = nn.Linear(4, 2)
        self.first_rows = nn.Parameter(torch.randn(3, 4))


class WeightsInADict(Net):
    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, Any] = {
            "x": torch.randn(4, 4) * 0.3,
            "h": [torch.randn(4, 4) * 0.3],
        }

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] @ self.weights["x"] + h @ self.weights["h"][0])
            ys.append(h)
        return torch.stack(ys, 1)


class ParametersInAList(Net):
    """Seventeen layers, whose weights no module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [nn.Parameter(torch.randn(4, 4) * 0.3) for _ in range(5)]

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            z = x[:, t]
            for weight in self.weights:
                z = torch.tanh(z @ weight)
            h = torch.tanh(z + h @ self.weights[0])
            ys.append(h)
        return torch.stack(ys, 1)


class ByAList(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        h, ys = x.new_zeros(1, x.shape[1], 4), []
        for t in range(x.shape[0]):
            y, h = self.gru(x[[t]], h)
            ys.append(y)
        return torch.cat(ys).transpose(0, 1)


class ByAListAndANumber(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, [t]][:, 0], h)
            ys.append(h)
        return torch.stack(ys, 1)


class InOneTensor(Net):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.GRUCell(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        state, ys = x.new_zeros(2, x.shape[0], 4), []
        for t in range(x.shape[1]):
            z = x[:, t]
            for layer, cell in enumerate(self.cells):
                state[layer] = cell(z, state[layer])
                z = state[layer].clone()
            ys.append(z)
        return torch.stack(ys, 1), state


class LastOfAStack(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, hs = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t : t + 1].squeeze(1), h)
            hs.append(h)
        y: Tensor = self.head(torch.stack(hs)[-1])
        return y


class KeptAxis(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, hs = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            hs.append(h[:, None])
        return torch.stack(hs, 1).squeeze(2)


class ColumnOfTheResult(Net):
    """What a step gives is a column, [:, :, 0], of which one part is stacked."""

    def forward(self, x: Tensor) -> Tensor:
        outer = x[..., None] * self.head(x)[:, :, None]
        state, ys = x.new_zeros(x.shape[0], 4, 2), []
        for t in range(x.shape[1]):
            state = 0.5 * state + outer[:, t]
            ys.append((state @ x[:, t, :2, None])[:, :, 0])
        return torch.stack(ys, -1)


class CornerOfTheResult(Net):
    def forward(self, x: Tensor) -> Tensor:
        state, ys = x.new_zeros(x.shape[0], 4, 2), []
        for t in range(x.shape[1]):
            state = 0.5 * state + x[:, t, :, None]
            ys.append(state[:, 1:2][..., 0])
        return torch.cat(ys, 1)


class BehindConstantRows(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        hs = [row.expand(x.shape[0], -1) for row in self.first_rows]
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            hs.append(h)
        return torch.stack(hs, 1)


class FirstStepBefore(Net):
    """At one step, the loop has none."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(x[:, 0])
        hs = [h]
        for t in range(1, x.shape[1]):
            h = self.cell(x[:, t], h)
            hs.append(h)
        return torch.stack(hs, 1)


class OtherWeights(Net):
    """The weight changes with the number of the step."""

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = torch.tanh(x[:, t] + h * self.first_rows[t % 3])
            ys.append(h)
        return torch.stack(ys, 1)


class ByTwoSteps(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        for t in range(x.shape[1]):
            h = self.cell(x[:, [t, 0]].sum(1), h)
            ys.append(h)
        return torch.stack(ys, 1)


class InChunks(Net):
    def forward(self, x: Tensor) -> Tensor:
        h, ys = None, []
        for chunk in x.transpose(0, 1).split(3):  # type: ignore[no-untyped-call]
            y, h = self.gru(chunk, h)
            ys.append(y)
        return torch.cat(ys).transpose(0, 1)


def rolled(network: nn.Module) -> nn.Module:
    network.eval()
    return roll_loops(network, "forward", Example(network.forward, (X,)), REFUSAL)


@pytest.mark.parametrize(
    "network",
    [
        WeightsInADict(),
        ParametersInAList(),
        ByAList(),
        ByAListAndANumber(),
        InOneTensor(),
        LastOfAStack(),
        KeptAxis(),
        ColumnOfTheResult(),
        CornerOfTheResult(),
        BehindConstantRows(),
        FirstStepBefore(),
    ],
    ids=lambda network: type(network).__name__,
)
def test_the_loop_is_rolled_up(network: nn.Module) -> None:
    folded = rolled(network)
    x = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (OtherWeights(), "does not do the same in every step"),
        (ByTwoSteps(), "does not do the same in every step"),
        (InChunks(), "takes another way at another number.*as many chunks as fit"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_loops_are_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        rolled(network)


class AllStates(Net):
    """Returns the states of all steps, and no last one; `extra` puts the first in front."""

    def __init__(self, *, extra: bool = False, swapped: bool = False) -> None:
        super().__init__()
        self.extra, self.swapped = extra, swapped

    def forward(self, x: Tensor, h: Tensor) -> Any:
        hs = [h] if self.extra else []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            hs.append(h)
        states = torch.stack(hs, 1)
        y = self.head(states[:, -x.shape[1] :])
        return (states, y) if self.swapped else (y, states)


class AllStatesOfALayer(Net):
    def forward(self, x: Tensor, h: Tensor) -> Any:
        y, _ = self.gru(x.transpose(0, 1), h)
        return self.head(y).transpose(0, 1), y


@pytest.mark.parametrize(
    ("network", "state", "streams"),
    [
        (AllStates(), Spec("float32", "batch", 4), True),
        (AllStatesOfALayer(), Spec("float32", 1, "batch", 4), True),
    ],
    ids=["a loop", "a layer"],
)
def test_the_last_of_all_states_is_the_next(
    network: nn.Module, state: Spec, streams: bool, tmp_path: Path
) -> None:
    result = export(network, (X, state), tmp_path / "m.onnx")
    assert [one.input for one in result.contract.states] == ["h"]
    assert result.contract.streaming.ok == streams

    x = np.random.default_rng(0).standard_normal((2, 9, 4)).astype(np.float32)
    model = stateport.load(result.path)
    whole, _ = model.run({"x": x})
    first, carried = model.run({"x": x[:, :5]})
    second, _ = model.run({"x": x[:, 5:]}, carried)
    np.testing.assert_allclose(
        np.concatenate([first["y1"], second["y1"]], 1), whole["y1"], atol=1e-5
    )


def test_states_that_are_the_output_itself_are_no_next_state(tmp_path: Path) -> None:
    network = AllStates(swapped=True)
    result = export(network, (X, Spec("float32", "batch", 4)), tmp_path / "m.onnx", check=False)
    assert not result.contract.states
    assert "its last state is not returned" in str(result.contract.streaming.reason)


PARTS = {
    "an element": lambda h: h[:, 0],
    "the last element": lambda h: h[..., -1],
    "an element as an axis": lambda h: h[:, 1:2],
    "an element of a product": lambda h: (h[:, None] * 2)[:, 0],
    "one of unbind": lambda h: h.unbind(1)[2],
    "one of split": lambda h: h.split(1, 1)[3],
    "an element of an element": lambda h: h[:, None, :, None][:, 0, :, 0][:, 2],
    "a middle axis": lambda h: h.reshape(-1, 2, 2)[:, 1],
    "two elements": lambda h: h[:, 1:3],
}


class PartOfTheState(Net):
    """A loop of which a part of every step is stacked, written or concatenated."""

    def __init__(self, part: Any, form: str) -> None:
        super().__init__()
        self.part, self.form = part, form

    def forward(self, x: Tensor) -> Tensor:
        h, ys = x.new_zeros(x.shape[0], 4), []
        steps = range(x.shape[1])
        for t in reversed(steps) if self.form == "reversed" else steps:
            h = self.cell(x[:, t], h)
            ys.append(self.part(h))

        if self.form == "written":
            y = x.new_zeros(x.shape[0], x.shape[1], *ys[0].shape[1:])
            for t in steps:
                y[:, t] = ys[t]
            return y
        if self.form == "time first":
            return torch.stack(ys)
        if self.form == "concatenated":
            return torch.cat([y[:, None] for y in ys], 1)
        return torch.stack(ys, 1)


@pytest.mark.parametrize("form", ["stacked", "reversed", "written", "time first", "concatenated"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_every_step_is_taken(part: str, form: str) -> None:
    network = PartOfTheState(PARTS[part], form)
    program = rolled(network)
    for time in (1, 2, 9):
        x = torch.randn(3, time, 4)
        torch.testing.assert_close(program(x), network(x))

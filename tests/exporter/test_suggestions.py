"""Names that do not exist: the message asks whether a similar one was meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport import InputError, StateError
from stateport.suggestions import did_you_mean
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.errors import TargetError
from stateport_exporter.network.example import Example
from stateport_exporter.network.loading import load_target


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("hiden_size", ["input_size", "hidden_size"], " Did you mean 'hidden_size'?"),
        ("X", ["x", "y"], " Did you mean 'x'?"),
        ("ort", ["tract", "ort-cpu", "ort-cuda", "ort-web"], " Did you mean 'ort-cpu'?"),
        ("mingu", ["MinGRU", "mingru"], " Did you mean 'mingru'?"),
        ("MinGR", ["mingru", "MinGRUs"], " Did you mean 'mingru'?"),
        ("nothing", ["x", "y"], ""),
        ("x", [], ""),
        (3, ["x"], ""),
    ],
)
def test_the_most_similar_name(name: object, known: list[str], sentence: str) -> None:
    assert did_you_mean(name, known) == sentence


def test_inputs_and_states_of_a_model(reference: Path) -> None:
    model = stateport.load(reference)
    x = np.zeros((1, 2, 5), np.float32)
    with pytest.raises(InputError, match="Did you mean 'x'"):
        model.run({"X": x})
    _, state = model(x)
    with pytest.raises(StateError, match="Did you mean 'h0'"):
        model(x, stateport.State({"h_0": state["h0"], "c0": state["c0"]}))
    with pytest.raises(InputError, match="Did you mean 'x'"):
        stateport.load(reference, constants={"X": 1})


def test_arguments_of_a_target(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\ndef make(hidden_size=3):\n    return nn.GRU(2, 3)\n")
    with pytest.raises(TargetError, match="Did you mean 'hidden_size'"):
        load_target(f"{file}:make", {"hiden_size": 4})
    file.write_text("from torch import nn\ndef make(): return nn.GRU(2, 3)\n")
    with pytest.raises(TargetError, match="takes no arguments, and --arg gives it 'size'"):
        load_target(f"{file}:make", {"size": 4})
    with pytest.raises(TargetError, match="Did you mean 'make'"):
        load_target(f"{file}:maek", {})


def test_arguments_of_an_example() -> None:
    def forward(audio: Tensor) -> Tensor:
        return audio

    with pytest.raises(ExportError, match="Did you mean 'audio'"):
        Example(forward, {"adio": Spec("float32", "batch", "time")})


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        following = self.cell(x, hidden)
        return following * 2, following


EXAMPLE = (Spec("float32", "batch", 3), Spec("float32", "batch", 4))


def test_declared_states(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Did you mean 'hidden'"):
        export(Step(), EXAMPLE, tmp_path / "m.onnx", states={"hiden": 2})
    with pytest.raises(ExportError, match="Did you mean 'following'"):
        export(Step(), EXAMPLE, tmp_path / "m.onnx", states={"hidden": "folowing"})


class TwoOfOneShape(nn.Module):
    """Which result is the next state cannot be told: both are computed from the layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, state = self.gru(x, last)
        return y, state * 2, state * 3


def test_a_state_whose_next_value_is_not_clear_can_be_declared(tmp_path: Path) -> None:
    example = (Spec("float32", "batch", "time", 3), Spec("float32", 1, "batch", 4))
    with pytest.raises(ExportError, match=r"--state last=2") as caught:
        export(TwoOfOneShape(), example, tmp_path / "m.onnx")
    assert "states={'last': 2}" in str(caught.value)

    result = export(TwoOfOneShape(), example, tmp_path / "m.onnx", states={"last": 2})
    assert [state.input for state in result.contract.states] == ["last"]


class Frames(nn.Module):
    """Its convolution carries steps, and a result is called as their next value is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frames = nn.Conv1d(3, 4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        padded = nn.functional.pad(x.transpose(1, 2), (2, 0))
        return {"frames_context_n": self.frames(padded).transpose(1, 2)}


def test_names_that_collide_say_whose_they_are(tmp_path: Path) -> None:
    spec = (Spec("float32", "batch", "time", 3),)
    result = export(Frames(), spec, tmp_path / "m.onnx", check=False)
    state = result.contract.states[0]

    class Colliding(Frames):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            (y,) = super().forward(x).values()
            return {state.output: y}

    with pytest.raises(ExportError) as caught:
        export(Colliding(), spec, tmp_path / "m.onnx", check=False)
    message = str(caught.value)
    assert f"would both be called {state.output!r}" in message
    assert f"the result {state.output!r}" in message
    assert f"the next value of the state {state.input!r}" in message

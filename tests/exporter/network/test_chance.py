"""A network that draws from Python's or NumPy's generator is refused, with the call."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export

X = Spec("float32", "batch", "time", 3)


class Net(nn.Module):
    """Scales its result by a number that is drawn."""

    def __init__(self, draw: Callable[[], Any], *, only_in_training: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 2, batch_first=True)
        self.only_in_training = only_in_training
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.lstm(x)[0]
        if self.training or not self.only_in_training:
            return hidden * float(self.draw())
        return hidden


def numpy_state() -> str:
    return repr(np.random.get_state(legacy=False))


def by_random() -> float:
    return random.random()  # noqa: S311


def by_randint() -> int:
    return random.randint(1, 5)  # noqa: S311


def by_choice() -> float:
    return random.choice([1.0, 2.0])  # noqa: S311


def by_numpy() -> float:
    return float(np.random.rand())


def by_numpy_shuffle() -> float:
    return float(np.random.permutation(4)[0])


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (by_random, r"Python's random .*return random\.random\(\)"),
        (by_randint, r"Python's random .*return random\.randint\(1, 5\)"),
        (by_choice, r"Python's random .*random\.choice"),
        (by_numpy, r"numpy\.random .*np\.random\.rand\(\)"),
        (by_numpy_shuffle, r"numpy\.random .*np\.random\.permutation\(4\)"),
    ],
)
def test_a_draw_is_refused_with_its_line(
    tmp_path: Path, draw: Callable[[], Any], says: str
) -> None:
    python, numpy = random.getstate(), numpy_state()
    with pytest.raises(ExportError, match=says):
        export(Net(draw), X, tmp_path / "m.onnx")
    assert random.getstate() == python
    assert numpy_state() == numpy


def test_a_draw_while_training_alone_does_no_harm(tmp_path: Path) -> None:
    assert export(Net(by_random, only_in_training=True), X, tmp_path / "m.onnx").contract.states


def test_numbers_that_are_drawn_by_a_generator_of_the_networks_own_seed_are_constants(
    tmp_path: Path,
) -> None:
    """A generator that every call creates from the same seed gives the same numbers."""
    net = Net(lambda: np.random.default_rng(3).random())
    assert export(net, X, tmp_path / "m.onnx").contract.states


def test_an_error_of_the_network_is_not_hidden(tmp_path: Path) -> None:
    def fail() -> float:
        raise RuntimeError("no such luck")

    with pytest.raises(ExportError, match="no such luck"):
        export(Net(fail), X, tmp_path / "m.onnx")
    assert torch.is_grad_enabled()

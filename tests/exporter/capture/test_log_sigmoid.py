"""The logarithm of a sigmoid is right where the sigmoid is as good as zero."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stateport import load
from stateport_exporter import Spec, export

Function = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, Function] = {
    "F.logsigmoid": F.logsigmoid,
    "nn.LogSigmoid": nn.LogSigmoid(),
    "log of a sigmoid": lambda x: torch.log(torch.sigmoid(x)),
    "log by a method": lambda x: x.sigmoid().log(),
    "sigmoid used twice": lambda x: x.sigmoid().log() + x.sigmoid(),
}


class Weighted(nn.Module):
    """A running product of gates, whose logarithms are added up, as linear attention has them."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        steps = []
        for step in range(x.shape[1]):
            total = 0.5 * total + self.function(x[:, step])
            steps.append(total)
        return torch.stack(steps, 1)


class Alone(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("network", [Alone, Weighted], ids=["alone", "in a loop"])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_no_logarithm_is_infinite(
    tmp_path: Path, network: type[Alone] | type[Weighted], function: Function
) -> None:
    net = network(function)
    export(net, Spec("float32", "batch", "time", 3), tmp_path / "m.onnx", check=False)

    x = torch.linspace(-60, 60, 2 * 7 * 3).reshape(2, 7, 3)
    answer, _ = load(tmp_path / "m.onnx")(x.numpy())
    np.testing.assert_allclose(answer, net(x), rtol=1e-5, atol=1e-5)

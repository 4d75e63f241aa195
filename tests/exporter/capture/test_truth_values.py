"""Choices between truth values, which ONNX Runtime does not have, are written as logic."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport import load
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.errors import CheckError

X = Spec("float32", "batch", "time", 3)
Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


class Beside(nn.Module):
    """An operation on truth values, beside a recurrent layer."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 3, batch_first=True)
        self.operation = operation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.gru(x)
        return y, self.operation(x > 0.1, x > -0.3, x)


OPERATIONS: dict[str, Operation] = {
    "where": lambda a, b, x: torch.where(x[..., :1] > 0.2, a, b),
    "where of a number": lambda a, b, _: torch.where(a, True, b),
    "where of another number": lambda a, b, _: torch.where(a, b, True),
    "where of two numbers": lambda a, _, __: torch.where(a, False, True),
    "where of floats": lambda a, _, x: torch.where(a, x, -x),
    "masked_fill with True": lambda a, b, _: a.masked_fill(~b, True),
    "masked_fill with False": lambda a, b, _: b.masked_fill(a, False),
    "sum": lambda a, b, _: a + b,
    "sum with True": lambda a, _, __: a + True,
    "sum with False": lambda a, _, __: a + False,
    "sum with nothing of the other": lambda a, b, _: torch.add(a, b, alpha=False),
    "sum with numbers": lambda a, _, x: a + x,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_on_truth_values(tmp_path: Path, operation: Operation) -> None:
    net = Beside(operation).eval()
    export(net, X, tmp_path / "m.onnx", check=False)

    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(x)[1].numpy()
    outputs, _ = load(tmp_path / "m.onnx").run({"x": x.numpy()})
    answer = [*outputs.values()][1]
    assert answer.dtype == expected.dtype
    np.testing.assert_array_equal(answer, expected)


class Voice(nn.Module):
    """Voice that is on above a high bound, and stays on down to a low one."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        voice = torch.sigmoid(self.head(self.gru(x)[0]))[..., 0]
        on = torch.zeros(x.shape[0], dtype=torch.bool)
        steps = []
        for step in range(x.shape[1]):
            on = torch.where(on, voice[:, step] > 0.45, voice[:, step] > 0.55)
            steps.append(on)
        return torch.stack(steps, 1)


def test_a_truth_value_is_carried_by_a_loop(tmp_path: Path) -> None:
    torch.manual_seed(1)
    result = export(Voice(), X, tmp_path / "m.onnx")
    assert result.contract.streaming.ok
    assert [state.dtype for state in result.contract.states] == ["float32", "bool"]


def test_what_onnx_runtime_cannot_load_is_said_in_words(tmp_path: Path) -> None:
    small = Beside(lambda _, __, x: (x * 100).to(torch.int16).clamp(-3, 3))
    with pytest.raises(CheckError, match=r"m\.onnx: .*Where.* not verified, and not written\. .*"):
        export(small, X, tmp_path / "m.onnx")
    assert [*tmp_path.iterdir()] == []


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    middle = Beside(lambda _, __, x: x.median(2).values)
    with pytest.raises(ExportError, match=r"^Beside calls aten\.median, which PyTorch's exporter"):
        export(middle, X, tmp_path / "m.onnx")

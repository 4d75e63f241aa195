"""What float32 loses in a running sum is measured with a sum of float32, as engines add up."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from stateport_exporter.vectors.running_sums import RunningSums


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_sums_and_products_of_float32_are_computed_in_float32(dim: int) -> None:
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    with RunningSums() as sums:
        total, product = x.cumsum(dim), (1 + x / 100).cumprod(dim)

    assert sums.has_run
    np.testing.assert_array_equal(total, np.cumsum(x.numpy(), dim, dtype=np.float32))
    np.testing.assert_array_equal(product, np.cumprod((1 + x / 100).numpy(), dim, dtype=np.float32))


def test_all_else_is_what_pytorch_computes() -> None:
    whole = torch.arange(6).reshape(2, 3)
    with RunningSums() as sums:
        results = [
            whole.cumsum(1),
            whole.double().cumsum(1),
            whole.float().cumsum(1, dtype=torch.float64),
            whole.float() @ whole.float().T,
            torch.tensor(2.0).cumsum(0),
        ]

    expected = [
        whole.cumsum(1),
        whole.double().cumsum(1),
        whole.double().cumsum(1),
        whole.float() @ whole.float().T,
        torch.tensor(2.0),
    ]
    for result, right in zip(results, expected, strict=True):
        assert result.dtype == right.dtype
        assert torch.equal(result, right)
    assert not sums.has_run


class Positions(nn.Module):
    """A running sum of values with a learned position each; it does not stream."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 600, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.positions[:, : x.shape[1]]).cumsum(1)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_sum_of_hundreds_of_steps_is_within_its_floor(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    result = export(Positions(), Spec("float32", "batch", "time", 4), tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed

"""`torch.nn.functional.scaled_dot_product_attention` of arrays without an axis of heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stateport
from stateport_exporter import Spec, export
from stateport_exporter.capture.attention import attention


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 4), (2, 3, 4, 2)], ids=str)
@pytest.mark.parametrize("mask", ["none", "one for all", "one each"])
def test_it_gives_what_pytorch_gives(shape: tuple[int, ...], mask: str) -> None:
    query, key, value = (torch.rand(*shape, time, 6) for time in (5, 7, 7))
    masks = {"none": None, "one for all": torch.rand(5, 7), "one each": torch.rand(*shape, 5, 7)}
    expected = F.scaled_dot_product_attention(query, key, value, masks[mask])
    torch.testing.assert_close(attention(query, key, value, masks[mask]), expected)


def test_options_are_passed_on() -> None:
    query, key, value = (torch.rand(2, 5, 6) for _ in range(3))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=2.0)
    actual = attention(query, key, value, is_causal=True, scale=2.0)
    torch.testing.assert_close(actual, expected)


def test_a_network_without_heads_is_exported(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    path = tmp_path / "m.onnx"
    result = export(Attention().eval(), Spec("float32", "batch", "time", 4), path)
    assert stateport.verify(path).passed
    reason = "forward multiplies steps with one another, as attention does"
    assert result.contract.streaming.reason == reason

"""`torch.nn.functional.unfold` at any length."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stateport_exporter import Spec, export
from stateport_exporter.capture.sliding_blocks import sliding_blocks

KERNELS: list[int | tuple[int, int]] = [(1, 3), (2, 2), 3]
DILATIONS: list[int | tuple[int, int]] = [1, (1, 2), (2, 1)]
PADDINGS: list[int | tuple[int, int]] = [0, (1, 2), 2]
STRIDES: list[int | tuple[int, int]] = [(1, 1), (1, 2), 2]


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "no batch"])
def test_it_gives_what_pytorch_gives(batched: bool) -> None:
    x = torch.rand(2, 3, 6, 9) if batched else torch.rand(3, 6, 9)
    for arguments in product(KERNELS, DILATIONS, PADDINGS, STRIDES):
        assert torch.equal(sliding_blocks(x, *arguments), F.unfold(x, *arguments)), arguments


class Frames(nn.Module):
    """Frames of a sequence, by PyTorch's function for images, before a recurrent layer."""

    def __init__(self, length: int, dilation: int, stride: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.past = dilation * (length - 1) + 1 - stride
        self.frames = nn.Unfold((1, length), dilation=(1, dilation), stride=(1, stride))
        self.gru = nn.GRU(4 * length, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.pad(x.transpose(1, 2), (self.past, 0)).unsqueeze(2)
        y: Tensor = self.gru(self.frames(rows).transpose(1, 2))[0]
        return y


@pytest.mark.parametrize(
    ("length", "dilation", "stride"), [(3, 1, 1), (4, 1, 2), (3, 2, 1)], ids=str
)
def test_a_network_with_frames_streams(
    length: int, dilation: int, stride: int, tmp_path: Path
) -> None:
    network = Frames(length, dilation, stride)
    result = export(network, {"x": Spec("float32", "batch", "time", 4)}, tmp_path / "frames.onnx")
    assert result.contract.streaming.ok
    assert result.contract.streaming.chunk_multiple == stride
    assert [state.input for state in result.contract.states] == ["h0", "frames"]

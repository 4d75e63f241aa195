# SPDX-License-Identifier: Apache-2.0
"""Layers that start anew in every call, beside one whose state the network keeps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from tests.chunks import check_calls_go_on


class Mixed(nn.Module):
    """A bidirectional layer, which sees a call alone, and one that goes on in a buffer."""

    h: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.around = nn.GRU(4, 2, batch_first=True, bidirectional=True)
        self.onward = nn.GRU(4, 8, batch_first=True)
        self.register_buffer("h", torch.zeros(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.around(x, x.new_zeros(2, x.shape[0], 2))
        y, self.h = self.onward(y, self.h)
        result: Tensor = y
        return result


def test_what_is_kept_goes_on_and_the_rest_starts_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Mixed().eval()
    result = export(network, Spec("float32", "batch", "time", 4), tmp_path / "m.onnx")
    assert [state.input for state in result.contract.states] == ["h"]
    assert result.lifted == ("h",)
    assert not result.contract.streaming.ok

    check_calls_go_on(result.path, network, batch=1)

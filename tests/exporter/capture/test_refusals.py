# SPDX-License-Identifier: Apache-2.0
"""The reasons of refusals, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export

LIBRARY: Any = torch.library.Library("stateport_refusals", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define("twice(Tensor x) -> Tensor")
LIBRARY.impl("twice", lambda x: 2 * x, "CPU")


class Extension(nn.Module):
    """Calls an operator of an extension, which has a kernel for the CPU alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.gru(torch.ops.stateport_refusals.twice(x))[0]
        return hidden


def test_an_operator_of_an_extension_is_named(tmp_path: Path) -> None:
    example = Spec("float32", "batch", "time", 3)
    with pytest.raises(ExportError, match=r"that an extension in C\+\+ or CUDA brings.*twice"):
        export(Extension(), example, tmp_path / "m.onnx")


class Box:
    """Holds a tensor, as the caches of transformers do; PyTorch cannot look into it."""

    def __init__(self, inside: Tensor) -> None:
        self.inside = inside


class Boxing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 3, batch_first=True)

    def forward(self, x: Tensor, use_cache: bool = True) -> Any:
        y, state = self.gru(x)
        return (y, Box(state)) if use_cache else y


def test_a_container_that_pytorch_does_not_know_is_named(tmp_path: Path) -> None:
    x = Spec("float32", "batch", "time", 3)
    with pytest.raises(ExportError, match=r"Boxing returns a Box, .*use_cache=False.*Or register"):
        export(Boxing(), {"x": x}, tmp_path / "m.onnx")
    contract = export(Boxing(), {"x": x, "use_cache": False}, tmp_path / "m.onnx").contract
    assert [state.input for state in contract.states] == ["h0"]

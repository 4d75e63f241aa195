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

# SPDX-License-Identifier: Apache-2.0
"""Networks that write into their arguments, and return them or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stateport_exporter import ExportError, Spec, export
from tests.chunks import check_chunks

STEP = Spec("float32", "batch", 4)


class MambaStep(nn.Module):
    """One step as Mamba's own code has it: both states are shifted and scaled in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.delta = nn.Linear(4, 6), nn.Linear(6, 6)
        self.kernel = nn.Parameter(torch.randn(6, 3))
        self.decay = nn.Parameter(-torch.rand(6, 2))
        self.b, self.c = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Any:
        conv_state.copy_(torch.roll(conv_state, shifts=-1, dims=-1))
        conv_state[:, :, -1] = self.inner(x)
        x = F.silu(torch.sum(conv_state * self.kernel, dim=-1))
        delta = F.softplus(self.delta(x))[..., None]
        update = delta * self.b(x)[:, None] * x[..., None]
        ssm_state.copy_(ssm_state * torch.exp(delta * self.decay) + update)
        return torch.einsum("bdn,bn->bd", ssm_state, self.c(x)), conv_state, ssm_state

    def step(self, x: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Any:
        """The same by the name that Mamba gives it."""
        return self.forward(x, conv_state, ssm_state)


class Rows(nn.Module):
    """As RWKV: one tensor has a row for each thing that is kept."""

    def __init__(self, *, returned: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.returned = returned

    def forward(self, x: Tensor, state: Tensor) -> Any:
        y = torch.tanh(self.a(x) + self.b(state[:, 0]))
        state[:, 0] = x
        state[:, 1] = 0.9 * state[:, 1] + y
        y = y + state[:, 1]
        return (y, state) if self.returned else y


@pytest.mark.parametrize(
    ("network", "method", "example", "states"),
    [
        (
            MambaStep(),
            "step",
            (STEP, Spec("float32", "batch", 6, 3), Spec("float32", "batch", 6, 2)),
            {"conv_state": ("batch", 6, 3), "ssm_state": ("batch", 6, 2)},
        ),
        (
            Rows(returned=True),
            "forward",
            (STEP, Spec("float32", "batch", 2, 4)),
            {"state": ("batch", 2, 4)},
        ),
    ],
)
def test_what_is_written_into_and_returned_is_a_state(
    network: nn.Module, method: str, example: Any, states: dict[str, Any], tmp_path: Path
) -> None:
    result = export(network.eval(), example, tmp_path / "model.onnx", method=method)
    assert result.contract.streaming.ok
    assert {state.input: state.shape for state in result.contract.states} == states
    assert len([note for note in result.notes if "writes into its argument" in note]) == len(states)
    check_chunks(tmp_path / "model.onnx")


def test_the_callers_network_stays_as_it_is(tmp_path: Path) -> None:
    network = Rows(returned=True).eval()
    export(network, (STEP, Spec("float32", "batch", 2, 4)), tmp_path / "model.onnx")
    assert type(network) is Rows
    state = torch.zeros(1, 2, 4)
    network(torch.ones(1, 4), state)
    assert state.any()


def test_what_is_written_into_and_not_returned_is_refused(tmp_path: Path) -> None:
    example = (STEP, Spec("float32", "batch", 2, 4))
    with pytest.raises(ExportError, match="writes into its argument 'state'"):
        export(Rows(returned=False).eval(), example, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())

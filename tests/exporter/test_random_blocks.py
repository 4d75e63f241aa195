"""Random stacks of what is carried: convolutions, shifts, sums, windows, layers and loops.

What streams gives in chunks what PyTorch gives for the whole; what does not is right as a whole, or
refused. `make pattern-tests` tries a few, the same every time; `make fuzz` tries 500 new ones.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import stateport
from stateport_exporter import ExportError, Spec, export
from tests.exporter.test_random_networks import SETTINGS

X = Spec("float32", "batch", "time", 4)

#: A block: its kind, and how many steps it looks back where it has a choice.
Block = tuple[str, int]


class Blocks(nn.Module):
    """Blocks behind one another, each from (batch, time, 4) to the same."""

    def __init__(self, blocks: Sequence[Block], seed: int) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.parts = nn.ModuleList(_part(kind, steps) for kind, steps in blocks)

    def forward(self, x: Tensor) -> Tensor:
        for (kind, steps), part in zip(self.blocks, self.parts, strict=True):
            x = _FORWARDS[kind](part, x, steps)
        return x


class Held(nn.Module):
    """Keeps its state in an attribute, which has a batch of 2 from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.state = torch.zeros(1, 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.gru(x, self.state)
        self.state = last.detach()
        result: Tensor = y
        return result


def _part(kind: str, steps: int) -> nn.Module:
    """The weights of a block."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "convolution": lambda: nn.Conv1d(4, 4, steps + 1),
        "dilated": lambda: nn.Conv1d(4, 4, 2, dilation=steps, padding=steps),
        "window": lambda: nn.Linear(4, 12),
        "layer": lambda: nn.GRU(4, 4, batch_first=True),
        "loop": lambda: nn.GRUCell(4, 4),
        "scan": lambda: nn.Linear(4, 8),
        "positions": lambda: nn.Embedding(60 + steps, 4),
        "held": Held,
    }
    return makers[kind]() if kind in makers else nn.Linear(4, 4)


def convolution(part: Any, x: Tensor, steps: int) -> Tensor:
    y: Tensor = part(F.pad(x.transpose(1, 2), (steps, 0))).transpose(1, 2)
    return y


def dilated(part: Any, x: Tensor, steps: int) -> Tensor:
    y: Tensor = part(x.transpose(1, 2))[..., :-steps].transpose(1, 2)
    return y


def shift(part: Any, x: Tensor, steps: int) -> Tensor:
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    y: Tensor = x + part(before)
    return y


def difference(part: Any, x: Tensor, steps: int) -> Tensor:
    y: Tensor = part(torch.diff(x, dim=1, prepend=x[:, :1]))
    return y


def running_sum(part: Any, x: Tensor, steps: int) -> Tensor:
    return torch.tanh(part(x)) + torch.tanh(x.cumsum(1) / 8)


def running_maximum(part: Any, x: Tensor, steps: int) -> Tensor:
    y: Tensor = part(x.cummax(1).values)
    return y


def window(part: Any, x: Tensor, steps: int) -> Tensor:
    q, k, v = part(x).chunk(3, -1)
    numbers = torch.arange(x.shape[1])
    behind = numbers[:, None] - numbers[None, :]
    scores = (q @ k.transpose(1, 2)).masked_fill((behind < 0) | (behind > steps), float("-inf"))
    y: Tensor = scores.softmax(-1) @ v
    return y


def layer(part: Any, x: Tensor, steps: int) -> Tensor:
    y: Tensor = part(x)[0]
    return y


def loop(part: Any, x: Tensor, steps: int) -> Tensor:
    h, ys = x.new_zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = part(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def scan(part: Any, x: Tensor, steps: int) -> Tensor:
    """A gated recurrence in rounds: it takes whole sequences alone."""
    gates: Tensor
    value: Tensor
    gates, value = part(x).chunk(2, -1)
    kept, shift_by = torch.sigmoid(gates), 1
    while shift_by < x.shape[1]:
        value = kept * F.pad(value[:, :-shift_by], (0, 0, shift_by, 0)) + value
        kept = kept * F.pad(kept[:, :-shift_by], (0, 0, shift_by, 0), value=1.0)
        shift_by *= 2
    return value


def positions(part: Any, x: Tensor, steps: int) -> Tensor:
    """Adds a table, which ends after 61 to 64 steps."""
    y: Tensor = x + part.weight[: x.shape[1]]
    return y


def held(part: Any, x: Tensor, steps: int) -> Tensor:
    y: Tensor = part(x)
    return y


def containers(part: Any, x: Tensor, steps: int) -> Tensor:
    """A loop that finds its weights in a dict of lists, and keeps its state in a list."""
    weights = {"inside": [part.weight, part.bias]}
    states, ys = [x.new_zeros(x.shape[0], 4)] * steps, []
    for t in range(x.shape[1]):
        weight, bias = weights["inside"]
        states = [torch.tanh(F.linear(x[:, t], weight, bias) + 0.5 * state) for state in states]
        ys.append(states[-1])
    return torch.stack(ys, 1)


_FORWARDS = {
    function.__name__: function
    for function in (
        convolution,
        dilated,
        shift,
        difference,
        running_sum,
        running_maximum,
        window,
        layer,
        loop,
        scan,
        positions,
        held,
        containers,
    )
}


@pytest.mark.patterns
@SETTINGS
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from(sorted(_FORWARDS)), st.integers(1, 4)), min_size=1, max_size=4
    ),
    seed=st.integers(0, 99),
)
def test_a_stack_of_blocks_is_right_or_refused(blocks: list[Block], seed: int) -> None:
    net = Blocks(blocks, seed).eval()
    x = torch.randn(2, 61, 4, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        whole = copy.deepcopy(net)(x).numpy()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        try:
            export(net, X, path)
        except ExportError as error:
            note(f"refused: {error}")
            return
        model = stateport.load(path)
        streaming = model.contract.streaming
        note(f"{blocks}: {streaming}")
        if dict(model.contract.minimums).get("time", 1) > x.shape[1]:
            return  # a scan is a graph of so many rounds, for so many steps
        close(model.run({"x": x.numpy()})[0][model.contract.outputs[0].name], whole)
        if not streaming.ok:
            return

        for lengths in ([1] * 61, [2, 1, 7, 3, 20, 1, 27]):
            stream = model.stream()
            ends = np.cumsum(lengths)[:-1]
            parts = [stream(part) for part in np.split(x.numpy(), ends, 1)]
            close(np.concatenate(parts, 1), whole)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

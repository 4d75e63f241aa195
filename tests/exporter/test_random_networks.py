"""Random networks of every part that is supported: exported right, or refused. Never wrong.

`make test` tries a few, the same every time; `make fuzz` tries 500 new ones. A failure prints the
network, and `--hypothesis-seed=N` tries the same ones again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree

import stateport
from stateport.contract import resolve
from stateport_exporter import Spec, export

EXAMPLES = int(os.environ.get("STATEPORT_FUZZ", "4"))
SAME_EVERY_TIME = "STATEPORT_FUZZ" not in os.environ
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize=SAME_EVERY_TIME,
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) - {Phase.shrink},  # an export takes seconds
    print_blob=True,
)
KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
CELLS = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN": nn.RNNCell}
HOLDING = ("argument", "argument, not returned", "absent", "zeros", "learned", "attribute")
#: What stands before the layers, and by how many steps: a convolution with a stride, a reshape of
#: steps into features, or a window that takes the last steps alone.
FRONTS = [("none", 1), *((kind, n) for kind in ("stride", "reshape", "last") for n in (2, 3, 5))]


@dataclass(frozen=True)
class Layer:
    kind: str
    hidden: int
    num_layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    projection: int
    holding: str
    packs: bool
    looped: bool  # a cell, in a loop over time

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def features(self) -> int:
        return (self.projection or self.hidden) * self.directions

    def state_sizes(self) -> tuple[int, ...]:
        first = self.projection or self.hidden
        return (first, self.hidden) if self.kind == "LSTM" else (first,)

    def module(self, features: int) -> nn.Module:
        if self.looped:
            cell: nn.Module = CELLS[self.kind](features, self.hidden, bias=self.bias)
            return cell
        options: dict[str, Any] = {"proj_size": self.projection} if self.projection else {}
        rnn: nn.RNNBase = KINDS[self.kind](
            features,
            self.hidden,
            self.num_layers,
            bidirectional=self.bidirectional,
            bias=self.bias,
            batch_first=self.batch_first,
            **options,
        )
        return rnn


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    kind = draw(st.sampled_from(sorted(KINDS)))
    hidden = draw(st.integers(1, 12))
    looped = draw(st.sampled_from([False, False, True]))
    projects = kind == "LSTM" and hidden > 1 and not looped and draw(st.booleans())
    return Layer(
        kind=kind,
        hidden=hidden,
        num_layers=1 if looped else draw(st.integers(1, 3)),
        bidirectional=not looped and draw(st.sampled_from([False, False, True])),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        projection=draw(st.integers(1, hidden - 1)) if projects else 0,
        holding=draw(st.sampled_from(HOLDING)),
        packs=not looped and draw(st.booleans()),
        looped=looped,
    )


def not_packed_beside_loops(stack: list[Layer]) -> list[Layer]:
    """What the exporter refuses is left out: a network that packs and has a loop over time."""
    looped = any(layer.looped for layer in stack)
    return [replace(layer, packs=layer.packs and not looped) for layer in stack]


class Random(nn.Module):
    """A stack of layers, each holding its state in its own way, residuals, and a head."""

    kept: dict[int, Any]

    def __init__(
        self,
        stack: Sequence[Layer],
        head: str,
        residual: bool,
        seed: int,
        front: tuple[str, int] = ("none", 1),
    ) -> None:
        super().__init__()
        self.front_kind, self.front_steps = front
        self.descending = seed % 2 == 0
        self.stack, self.head, self.residual = stack, head, residual
        self.kept = {}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            features = 4 * self.front_steps if self.front_kind == "reshape" else 4
            sizes = [features, *(layer.features for layer in stack)]
            self.front = nn.Conv1d(4, 4, self.front_steps, self.front_steps)
            self.rnn = nn.ModuleList(
                layer.module(size) for layer, size in zip(stack, sizes, strict=False)
            )
            self.first = nn.ParameterList(
                torch.randn(layer.num_layers * layer.directions, 1, size)
                for layer in stack
                for size in layer.state_sizes()
            )
            self.linear = nn.Linear(sizes[-1], 3)
        # Weights in a container of the author's, which is no module.
        self.weights = {"head": [self.linear.weight, self.linear.bias]}
        for number, layer in enumerate(stack):
            if layer.holding == "buffer":
                for i, size in enumerate(layer.state_sizes()):
                    rows = layer.num_layers * layer.directions
                    self.register_buffer(f"buffer_{number}_{i}", torch.zeros(rows, 1, size))

    def _before(self, x: Tensor) -> Tensor:
        """What stands before the layers."""
        if self.front_kind == "stride":
            framed: Tensor = self.front(x.transpose(1, 2))
            return framed.transpose(1, 2)
        if self.front_kind == "reshape":
            return x.reshape(x.shape[0], -1, 4 * self.front_steps)
        return x[:, -self.front_steps :] if self.front_kind == "last" else x

    def forward(self, x: Tensor, states: list[Any], lengths: Tensor | None = None) -> Any:
        x = self._before(x)
        given, returned, last = iter(states), [], x
        for number, (layer, rnn) in enumerate(zip(self.stack, self.rnn, strict=True)):
            z = x if layer.batch_first else x.transpose(0, 1)
            state = self._state(number, layer, x, given)
            if layer.looped:
                y, last = self._looped(rnn, z, state, 1 if layer.batch_first else 0)
            elif layer.packs and lengths is not None:
                y, last = self._packed(rnn, z, state, lengths)
            else:
                y, last = rnn(z, state)
            if layer.holding == "attribute":
                setattr(self, f"kept_{number}", last)
            if layer.holding == "buffer":
                lasts = last if isinstance(last, tuple) else (last,)
                for i, state in enumerate(lasts):
                    setattr(self, f"buffer_{number}_{i}", state)
            if layer.holding == "argument":
                returned.append(last)
            y = y if layer.batch_first else y.transpose(0, 1)
            x = x + y if self.residual and x.shape[-1] == y.shape[-1] else y
        return self._answer(x, last), returned

    def _looped(self, cell: nn.Module, z: Tensor, state: Any, axis: int) -> Any:
        """One step after the other; the state has an axis of layers, as that of a layer has."""
        if state is not None:
            state = pytree.tree_map(lambda tensor: tensor[0], state)
        ys = []
        for t in range(z.size(axis)):
            state = cell(z.select(axis, t), state)
            ys.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(ys, axis), pytree.tree_map(lambda tensor: tensor[None], state)

    def _packed(self, rnn: nn.Module, z: Tensor, state: Any, lengths: Tensor) -> Any:
        """Sorted or not, as the seed of the test has it."""
        assert isinstance(rnn, nn.RNNBase)
        first, time = rnn.batch_first, z.size(1 if rnn.batch_first else 0)
        packed = pack_padded_sequence(z, lengths, first, enforce_sorted=self.descending)
        y, last = rnn(packed, state)
        return pad_packed_sequence(y, first, total_length=time)[0], last

    def _state(self, number: int, layer: Layer, x: Tensor, given: Any) -> Any:
        rows = layer.num_layers * layer.directions
        if layer.holding.startswith("argument"):
            return next(given)
        if layer.holding == "attribute":
            return getattr(self, f"kept_{number}", None)
        if layer.holding == "absent":
            return None
        if layer.holding == "buffer":
            names = [f"buffer_{number}_{i}" for i in range(len(layer.state_sizes()))]
            held = tuple(getattr(self, name) for name in names)
            return held if layer.kind == "LSTM" else held[0]
        if layer.holding == "zeros":
            state = [x.new_zeros(rows, x.size(0), size) for size in layer.state_sizes()]
        else:
            offset = sum(len(one.state_sizes()) for one in self.stack[:number])
            first = [self.first[offset + i] for i in range(len(layer.state_sizes()))]
            state = [one.expand(-1, x.size(0), -1).contiguous() for one in first]
        return tuple(state) if layer.kind == "LSTM" else state[0]

    def _answer(self, x: Tensor, last: Any) -> Any:
        if self.head == "every step":
            return nn.functional.linear(x, *self.weights["head"])
        if self.head == "last step":
            return self.linear(x[:, -1])
        if self.head == "last hidden":
            return (last[0] if isinstance(last, tuple) else last)[-1]
        return x

    def example(self) -> tuple[Any, ...]:
        states: list[Any] = []
        for layer in self.stack:
            if layer.holding.startswith("argument"):
                rows = layer.num_layers * layer.directions
                specs = [Spec("float32", rows, "batch", size) for size in layer.state_sizes()]
                states.append(tuple(specs) if layer.kind == "LSTM" else specs[0])
        lengths = [Spec("int64", "batch")] if any(layer.packs for layer in self.stack) else []
        return Spec("float32", "batch", "time", 4), states, *lengths


@pytest.mark.patterns
@given(
    stack=st.lists(layers(), min_size=1, max_size=3).map(not_packed_beside_loops),
    head=st.sampled_from(["none", "every step", "last step", "last hidden"]),
    residual=st.booleans(),
    seed=st.integers(0, 2**16),
)
@SETTINGS
def test_a_random_network_is_exported_right(
    stack: list[Layer], head: str, residual: bool, seed: int
) -> None:
    net = Random(stack, head, residual, seed).eval()
    note(f"{stack}, head {head}, residual {residual}, seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        # It verifies the file against PyTorch in float64, and raises where it differs.
        result = export(net, net.example(), Path(folder) / "m.onnx")
        assert result.report is not None
        contract = result.contract
        # What a layer starts from without giving the next one is no state, but an input.
        carried = [layer for layer in stack if layer.holding != "argument, not returned"]
        assert len(contract.states) == sum(len(layer.state_sizes()) for layer in carried)
        whole = any(layer.bidirectional or layer.packs for layer in stack)
        assert contract.streaming.ok == (not whole and carried == stack)
        # From its first state, the file says what the network itself says.
        x = np.random.default_rng(seed).standard_normal((2, 5, 4)).astype(np.float32)
        lengths = {"lengths": np.array([4, 2])} if any(layer.packs for layer in stack) else {}
        states = [_zeros(layer, 2) for layer in stack if layer.holding.startswith("argument")]
        given = {
            spec.name: np.zeros(resolve(spec.shape, {"batch": 2}), np.float32)
            for spec in contract.inputs
            if "time" not in spec.shape and spec.name != "lengths"
        }
        outputs, _ = stateport.load(result.path).run({"x": x, **lengths, **given})
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(x), states, *map(torch.from_numpy, lengths.values()))
    np.testing.assert_allclose(outputs["y"], expected, atol=2e-6)


def _zeros(layer: Layer, batch: int) -> Any:
    rows = layer.num_layers * layer.directions
    state = [torch.zeros(rows, batch, size) for size in layer.state_sizes()]
    return tuple(state) if layer.kind == "LSTM" else state[0]


@st.composite
def fronted(draw: st.DrawFn) -> tuple[list[Layer], tuple[str, int]]:
    """Layers behind a front, some of which hold their state in a buffer of one row."""
    stack = draw(st.lists(layers(), min_size=1, max_size=2))
    kind, steps = draw(st.sampled_from(FRONTS))
    # A buffer of one row is found at the usual length, which a reshape may not take.
    holdings = ["absent", "zeros", "attribute"] + ["buffer"] * (kind != "reshape")
    plain = []
    for layer in stack:
        holding = draw(st.sampled_from(holdings))
        plain.append(replace(layer, packs=False, looped=False, holding=holding))
    return plain, (kind, steps)


@pytest.mark.patterns
@given(
    drawn=fronted(),
    head=st.sampled_from(["none", "every step", "last step"]),
    seed=st.integers(0, 2**16),
)
@SETTINGS
def test_a_random_network_takes_the_lengths_that_it_says(
    drawn: tuple[list[Layer], tuple[str, int]], head: str, seed: int
) -> None:
    stack, (kind, steps) = drawn
    net = Random(stack, head, False, seed, (kind, steps)).eval()
    note(f"{stack}, front {kind} of {steps}, head {head}, seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        result = export(net, net.example(), Path(folder) / "m.onnx")
        contract = result.contract
        assert contract.multiples == ((("time", steps),) if kind == "reshape" else ())
        one_way = not any(layer.bidirectional for layer in stack)
        assert contract.streaming.ok == (one_way and kind != "last")
        if contract.streaming.ok:
            assert contract.streaming.chunk_multiple == (1 if kind == "none" else steps)

        x = np.random.default_rng(seed).standard_normal((1, 6 * steps, 4)).astype(np.float32)
        outputs, _ = stateport.load(result.path).run({"x": x})
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(x), [])
    np.testing.assert_allclose(outputs["y"], expected, atol=2e-6)

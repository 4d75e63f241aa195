# SPDX-License-Identifier: Apache-2.0
"""Linear attention in parallel form, whatever the form looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stateport_exporter import Spec, export
from stateport_exporter.loops import roll_rounds
from stateport_exporter.network.example import Example
from stateport_exporter.network.program import Op
from stateport_exporter.network.scan import scan
from tests.chunks import check_chunks
from tests.exporter.loops.rolled import check_rolled

# As many features as steps in one of the traces.
X = Spec("float32", "batch", "time", 5)


class Heads(nn.Module):
    """Queries, keys, values and gates of two heads, each (batch, time, 2, 3)."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend = attend
        self.parts = nn.ModuleList(nn.Linear(5, 6) for _ in range(4))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [part(x).unflatten(2, (2, 3)) for part in self.parts]
        y: Tensor = self.head(self.attend(*parts).flatten(2)) + x
        return y


def distances(like: Tensor) -> Tensor:
    """How many steps a step (rows) is behind another one (columns)."""
    steps = torch.arange(like.shape[1], dtype=like.dtype)
    return steps[:, None] - steps


def retention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Sun et al. 2023, with a decay for each head, which is computed in Python."""
    far, decay = distances(q), torch.tensor([0.9, 0.97])
    weights = torch.where(far >= 0, decay[:, None, None] ** far.clamp(min=0), 0.0)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return ((q @ k.transpose(2, 3) * 3**-0.5 * weights) @ v).transpose(1, 2)


def masked(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Without a decay, by one product of all."""
    seen = (distances(q) >= 0).to(q.dtype)
    return torch.einsum("bthn,bshn,ts,bshp->bthp", F.relu(q), F.relu(k), seen, v)


def without_this_step(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """As RWKV reads its state before it adds to it; each key has its decay."""
    far, decay = distances(q), torch.tensor([[0.5, 0.7, 0.9], [0.6, 0.8, 1.0]])
    weights = torch.where(
        far[..., None, None] >= 1, decay ** (far - 1).clamp(min=0)[..., None, None], 0.0
    )
    return torch.einsum("bthn,tshn,bshn,bshp->bthp", q, weights, k, v)


def with_a_bonus(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """RWKV-5: the same, and this step's own key and value by another factor."""
    bonus = torch.tensor([[0.5, -0.7, 0.9], [0.6, 0.0, 1.0]])
    own: Tensor = (q * bonus * k).sum(-1, keepdim=True) * v
    return without_this_step(q, k, v, g) + own


def gated(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Yang et al. 2024: decays by their logarithms, which are added up."""
    sums = F.logsigmoid(g).cumsum(1)
    scores = torch.einsum("bthn,bshn->bhts", q * sums.exp(), k * (-sums).exp())
    return torch.einsum("bhts,bshp->bthp", scores.tril(), v)


def gated_by_products(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """The same, by products of the decays; they may not be zero."""
    products = (0.5 + torch.sigmoid(g) / 2).cumprod(1)
    scores = torch.einsum("bthn,bshn->bhts", q * products, k / products)
    return torch.einsum("bhts,bshp->bthp", scores.tril(), v)


def segment_sums(logarithms: Tensor) -> Tensor:
    """Sums from one step to another along the last axis; Dao and Gu 2024."""
    steps = logarithms.shape[-1]
    repeated = logarithms[..., None].expand(*logarithms.shape, steps)
    below = torch.ones(steps, steps, dtype=torch.bool).tril(-1)
    sums = repeated.masked_fill(~below, 0).cumsum(-2)
    seen = torch.ones(steps, steps, dtype=torch.bool).tril()
    return sums.masked_fill(~seen, -torch.inf)


def by_sums_of_segments(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Mamba-2 as one matrix: decays are spread over an axis more before they are added up."""
    decay = (F.logsigmoid(g[..., 0]) + F.logsigmoid(k[..., 1])).transpose(1, 2)
    scores = torch.einsum("bthn,bshn->bhts", q, k)
    return torch.einsum("bhts,bshp->bthp", segment_sums(decay).exp() * scores, v)


def chunked(x: Tensor) -> Tensor:
    """(batch, steps, ...) as chunks of 4 steps."""
    return x.reshape(x.shape[0], -1, 4, *x.shape[2:])


def in_chunks(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Mamba-2, in chunks of 4 that are filled up, with a part of v that is not carried."""
    steps, fill = v.shape[1], -v.shape[1] % 4
    direct = torch.tensor([0.3, 0.4])[:, None] * F.pad(v, (0, 0, 0, 0, 0, fill))
    q, k, v = (chunked(F.pad(part, (0, 0, 0, 0, 0, fill))) for part in (q, k, v))
    decay = chunked(F.pad(F.logsigmoid(g[..., 0]), (0, 0, 0, fill)))
    decay = decay.permute(0, 3, 1, 2)
    sums = decay.cumsum(-1)

    inside = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", q, k, segment_sums(decay).exp(), v)
    left = (sums[..., -1:] - sums).exp()
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", k, left, v)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], 1)
    between = segment_sums(F.pad(sums[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    before = torch.einsum("bclhn,bchpn,bhcl->bclhp", q, states, sums.exp())
    return ((inside + before).flatten(1, 2) + direct)[:, :steps]


def moving_average(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """An exponential moving average by a matrix of weights."""
    far = distances(v)
    return torch.einsum("ts,bshp->bthp", (0.8 ** far.clamp(min=0) * 0.2).tril(), v)


def mean(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Katharopoulos et al. 2020: weights that are divided by their sum."""
    scores = torch.einsum("bthn,bshn->bhts", F.elu(q) + 1, F.elu(k) + 1).tril()
    weights = scores / (scores.sum(-1, keepdim=True) + 1e-6)
    return torch.einsum("bhts,bshp->bthp", weights, v)


def gated_mean(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """The same with decays, and without anything that is added to the sum."""
    sums = F.logsigmoid(g[..., 0]).cumsum(1).transpose(1, 2)
    far = (sums[..., :, None] - sums[..., None, :]).masked_fill(distances(q) < 0, -torch.inf)
    scores = torch.einsum("bthn,bshn->bhts", q.exp(), k.exp()) * far.exp()
    return torch.einsum("bhts,bshp->bthp", scores / scores.sum(-1, keepdim=True), v)


def stabilised(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """The mLSTM of Beck et al. 2024, as its authors write it for training."""
    strength, forget = g[..., 0].transpose(1, 2), F.logsigmoid(g[..., 1]).transpose(1, 2)
    sums = forget.cumsum(-1)
    logarithms = sums[..., :, None] - sums[..., None, :] + strength[..., None, :]
    logarithms = logarithms.masked_fill(distances(q) < 0, -torch.inf)
    largest = logarithms.amax(-1, keepdim=True)
    scores = torch.einsum("bthn,bshn->bhts", q, k * 3**-0.5) * (logarithms - largest).exp()
    least = torch.maximum(scores.sum(-1, keepdim=True).abs(), (-largest).exp())
    return torch.einsum("bhts,bshp->bthp", scores / (least + 1e-6), v)


FORMS = {
    form.__name__: form
    for form in (
        retention,
        masked,
        without_this_step,
        with_a_bonus,
        gated,
        gated_by_products,
        by_sums_of_segments,
        in_chunks,
        moving_average,
        mean,
        gated_mean,
        stabilised,
    )
}


def softmax(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    scores = torch.einsum("bthn,bshn->bhts", q, k).masked_fill(distances(q) < 0, -torch.inf)
    return torch.einsum("bhts,bshp->bthp", scores.softmax(-1), v)


def both_ways(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    weights = 0.9 ** distances(q).abs()
    return torch.einsum("bthn,bshn,ts,bshp->bthp", q, k, weights, v)


def by_steps_so_far(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """A mean: its weights depend on the number of the step."""
    seen = (distances(q) >= 0).to(q.dtype)
    return torch.einsum("bthn,bshn,ts,bshp->bthp", q, k, seen / seen.sum(1, keepdim=True), v)


def no_power(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """1 / (1 + distance) is the product of no decays."""
    far = distances(q)
    return torch.einsum("bthn,bshn,ts,bshp->bthp", q, k, (1 / (1 + far.clamp(min=0))).tril(), v)


def until_late(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """A decay that ends after 700 steps, which no short sequence shows."""
    weights = (0.999 ** distances(q).clamp(min=0, max=700)).tril()
    return torch.einsum("bthn,bshn,ts,bshp->bthp", q, k, weights, v)


def bounded(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Scores with a bound that small ones do not show."""
    scores = torch.einsum("bthn,bshn->bhts", q, k).clamp(-20, 20)
    return torch.einsum("bhts,bshp->bthp", scores.tril(), v)


def beside_a_sum(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """A running sum, which is carried as one, and a bound on distances of sums."""
    sums = g.cumsum(1)
    far = (sums[:, :, None] - sums[:, None]).clamp(min=-3).exp()
    seen = (distances(q) >= 0).to(q.dtype)
    return torch.einsum("bthn,bshn,ts,btshn,bshp->bthp", q, k, seen, far, v)


OTHERS = (beside_a_sum, softmax, both_ways, by_steps_so_far, no_power, until_late, bounded)


class AmongLayers(nn.Module):
    """Attention with a bonus behind a causal convolution, then a GRU, and retention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.gru = nn.Conv1d(5, 5, 3), nn.GRU(5, 5, batch_first=True)
        self.first, self.last = Heads(with_a_bonus), Heads(retention)

    def forward(self, x: Tensor) -> Tensor:
        moved = self.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
        y: Tensor = self.last(self.gru(self.first(moved))[0])
        return y


def loops_of(ops: tuple[Op, ...]) -> int:
    return sum(op.target is scan for op in ops)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_any_form_is_a_loop_of_any_length(form: Callable[..., Tensor]) -> None:
    rolled = check_rolled(Heads(form).eval())
    assert loops_of(rolled.program.ops) == 1


@pytest.mark.parametrize("other", OTHERS, ids=[other.__name__ for other in OTHERS])
def test_what_is_no_linear_attention_stays_as_it_is(other: Callable[..., Tensor]) -> None:
    net = Heads(other).eval()
    assert roll_rounds(net, "forward", Example(net.forward, (X,))) is None


@pytest.mark.parametrize("batch", [1, 2])
def test_one_row_is_no_reason(batch: int) -> None:
    net = Heads(retention).eval()
    fixed = Spec("float32", batch, "time", 5)
    rolled = roll_rounds(net, "forward", Example(net.forward, (fixed,)))
    assert rolled is not None


class OneRow(nn.Module):
    """Attention that takes one row alone, and asks PyTorch for a dtype."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.view(-1, 5)
        scores = self.query(steps).double() @ steps.double().T
        y: Tensor = scores.softmax(-1).float() @ steps
        return y[None]


def test_a_network_that_takes_one_row_alone_is_exported_as_before(tmp_path: Path) -> None:
    result = export(OneRow().eval(), Spec("float32", 1, "time", 5), tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    assert result.contract.streaming.reason == (
        "forward multiplies steps with one another, as attention does"
    )


@pytest.mark.patterns
def test_an_mlstm_streams(tmp_path: Path) -> None:
    result = export(Heads(stabilised).eval(), X, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    contract = result.contract
    assert contract.streaming.ok
    shapes = [state.shape for state in contract.states]
    assert shapes == [("batch", 2, 3, 3), ("batch", 2, 1, 3), ("batch", 2, 1, 1)]
    check_chunks(result.path)


@pytest.mark.patterns
def test_it_streams_among_other_layers(tmp_path: Path) -> None:
    result = export(AmongLayers().eval(), X, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    contract = result.contract
    assert contract.streaming.ok
    assert contract.streaming.chunk_multiple == 1
    shapes = {state.shape for state in contract.states}
    assert shapes == {("batch", 2, 3, 3), ("batch", 5, 2), (1, "batch", 5)}
    check_chunks(result.path)

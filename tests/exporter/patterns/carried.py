"""Group 5: what is carried besides recurrent states: former steps, running values, windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch.nn import functional as F

from stateport_exporter import Spec

from .pattern import Outside, Pairs, Pattern, X, gru, network

GROUP: Final = "Carried"
WINDOW: Final = Spec("float32", "batch", 3, 4)
CACHE: Final = Spec("float32", "batch", "past", 4)


def loop(net: Any, x: Tensor) -> Tensor:
    """A GRU's cell over time."""
    h, ys = x.new_zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def convolved(net: Any, x: Tensor, left: int, right: int = 0) -> Tensor:
    y: Tensor = net.conv(F.pad(x.transpose(1, 2), (left, right))).transpose(1, 2)
    return y


def cut_off(net: Any, x: Tensor) -> Any:
    return loop(net, net.padded(x.transpose(1, 2))[..., :-3].transpose(1, 2))


def padded_alike(net: Any, x: Tensor) -> Any:
    return loop(net, net.padded(x.transpose(1, 2))[..., 1:-2].transpose(1, 2))


def padded_in_front(net: Any, x: Tensor) -> Any:
    return net.gru(convolved(net, x, 3))[0]


def padded_behind(net: Any, x: Tensor) -> Any:
    return net.gru(convolved(net, x, 2, 1))[0]


def shifted(net: Any, x: Tensor) -> Any:
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    return loop(net, x + net.mix(before))


def shifted_back(net: Any, x: Tensor) -> Any:
    after = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)
    return loop(net, x + net.mix(after))


def selective_scan(net: Any, x: Tensor) -> Any:
    """Mamba: a convolution, and a scan whose gates depend on the input."""
    u = F.silu(convolved(net, x, 3))
    delta, b, c = F.softplus(net.delta(u)), net.b(u), net.c(u)
    h, ys = x.new_zeros(x.shape[0], 5, 2), []
    for t in range(x.shape[1]):
        step = delta[:, t, :, None]
        h = torch.exp(-step) * h + step * b[:, t, None, :] * u[:, t, :, None]
        ys.append((h * c[:, t, None, :]).sum(-1))
    return torch.stack(ys, 1)


def scan_backwards(net: Any, x: Tensor) -> Any:
    return selective_scan(net, x.flip(1)).flip(1)


def linear_attention(net: Any, x: Tensor) -> Any:
    q, k = F.elu(net.q(x)) + 1, F.elu(net.k(x)) + 1
    memory = (k[..., :, None] * net.v(x)[..., None, :]).cumsum(1)
    return (q[..., None, :] @ memory).squeeze(-2) / (q * k.cumsum(1)).sum(-1, keepdim=True)


def attention_over_all(net: Any, x: Tensor) -> Any:
    q, k = F.elu(net.q(x)) + 1, F.elu(net.k(x)) + 1
    memory = (k[..., :, None] * net.v(x)[..., None, :]).sum(1, keepdim=True)
    return (q[..., None, :] @ memory).squeeze(-2)


def beside_a_sum(net: Any, x: Tensor) -> Any:
    return torch.cat([net.gru(x)[0], x.cumsum(1)], -1)


def beside_a_mean(net: Any, x: Tensor) -> Any:
    return torch.cat([net.gru(x)[0], x.mean(1, keepdim=True).expand_as(x)], -1)


def running_maximum(net: Any, x: Tensor) -> Any:
    return net.gru(x - x.cummax(1).values)[0]


def maximum(net: Any, x: Tensor) -> Any:
    return net.gru(x - x.amax(1, keepdim=True))[0]


def attended(net: Any, x: Tensor, seen: Callable[[Tensor], Tensor]) -> Tensor:
    """Attention to steps at certain distances: how far a key is behind a query."""
    steps = torch.arange(x.shape[1])
    hidden = ~seen(steps[:, None] - steps[None, :])
    scores = (net.q(x) @ net.k(x).transpose(1, 2)).masked_fill(hidden, float("-inf"))
    y: Tensor = scores.softmax(-1) @ net.v(x)
    return y


def attention_window(net: Any, x: Tensor) -> Any:
    return attended(net, x, lambda behind: (behind >= 0) & (behind < 4))


def attention_to_all_before(net: Any, x: Tensor) -> Any:
    return attended(net, x, lambda behind: behind >= 0)


def window_behind_a_gru(net: Any, x: Tensor) -> Any:
    return attention_window(net, net.gru(x)[0])


def window_that_looks_ahead(net: Any, x: Tensor) -> Any:
    return attended(net, net.gru(x)[0], lambda behind: (behind >= -1) & (behind < 4))


def given_window(net: Any, x: Tensor, past_k: Tensor, past_v: Tensor) -> Any:
    """Keys and values of the last 3 steps, given and returned."""
    k = torch.cat([past_k, net.k(x)], 1)
    v = torch.cat([past_v, net.v(x)], 1)
    time = x.shape[1]
    behind = torch.arange(3, time + 3)[:, None] - torch.arange(time + 3)[None, :]
    hidden = (behind < 0) | (behind > 3)
    scores = (net.q(x) @ k.transpose(1, 2)).masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ v, k[:, -3:], v[:, -3:]


def given_cache(net: Any, x: Tensor, past_k: Tensor, past_v: Tensor) -> Any:
    """Keys and values of all steps: they grow with every call."""
    k = torch.cat([past_k, net.k(x)], 1)
    v = torch.cat([past_v, net.v(x)], 1)
    return (net.q(x) @ k.transpose(1, 2)).softmax(-1) @ v, k, v


def conformer(net: Any, x: Tensor) -> Any:
    x = net.q(x)
    x = x + attention_window(net.block, net.norm(x))
    return x + F.silu(convolved(net, x, 3))


def normalised_over_time(net: Any, x: Tensor) -> Any:
    x = net.q(x)
    x = x + attention_window(net.block, F.instance_norm(x.transpose(1, 2)).transpose(1, 2))
    return x + F.silu(convolved(net, x, 3))


def difference(net: Any, x: Tensor) -> Any:
    return net.gru(F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0)))[0]


def difference_to_the_next(net: Any, x: Tensor) -> Any:
    return net.gru(F.pad(x[:, 1:] - x[:, :-1], (0, 0, 0, 1)))[0]


def rounds(a: Tensor, b: Tensor) -> Tensor:
    """y[t] = a[t] y[t - 1] + b[t], by Hillis and Steele."""
    distance = 1
    while distance < b.shape[1]:
        moved = a[:, distance:] * b[:, :-distance] + b[:, distance:]
        b = torch.cat([b[:, :distance], moved], 1)
        a = torch.cat([a[:, :distance], a[:, distance:] * a[:, :-distance]], 1)
        distance *= 2
    return b


def parallel_scan(net: Any, x: Tensor) -> Any:
    gate = torch.sigmoid(net.gate(x))
    return rounds(1 - gate, gate * net.value(x))


def parallel_scan_backwards(net: Any, x: Tensor) -> Any:
    return parallel_scan(net, x.flip(1)).flip(1)


def associated(net: Any, x: Tensor, *, reverse: bool = False) -> Any:
    """PyTorch's own operator for parallel scans."""

    def combine(before: Any, after: Any) -> Any:
        return before[0] * after[0], before[1] * after[0] + after[1]

    gate = torch.sigmoid(net.gate(x))
    pairs = (1 - gate, gate * net.value(x))
    _, y = associative_scan(combine, pairs, dim=1, reverse=reverse, combine_mode="generic")
    return y


def associated_backwards(net: Any, x: Tensor) -> Any:
    return associated(net, x, reverse=True)


def retention(net: Any, x: Tensor, back: int = 0) -> Any:
    """Sun et al. 2023: a matrix of decays, which is `back` steps away from a causal one."""
    steps = torch.arange(x.shape[1], dtype=x.dtype)
    far = steps[:, None] - steps + back
    weights = torch.where(far >= 0, 0.9 ** far.clamp(min=0), 0.0)
    return ((net.q(x) @ net.k(x).transpose(1, 2)) * weights) @ net.v(x)


def retention_of_the_next(net: Any, x: Tensor) -> Any:
    return retention(net, x, back=1)


def numbered(net: Any, x: Tensor) -> Any:
    """A running mean of a cell's states."""
    h = mean = x.new_zeros(x.shape[0], 4)
    ys = []
    for t in range(x.shape[1]):
        h = net.cell(x[:, t], h)
        mean = mean + (h - mean) / (t + 1)
        ys.append(mean)
    return torch.stack(ys, 1)


def numbered_from_the_end(net: Any, x: Tensor) -> Any:
    h, ys = x.new_zeros(x.shape[0], 4), []
    for t in range(x.shape[1]):
        h = net.cell(x[:, t], h)
        ys.append(h / (x.shape[1] - t))
    return torch.stack(ys, 1)


def kept_by_name(net: Any, x: Tensor) -> Any:
    before, previous = x.new_zeros(x.size(0), 4), x.new_zeros(x.size(0), 5)
    h, ys = before, []
    for x_t in x.unbind(1):
        new = torch.tanh(net.inner(x_t - previous) + net.recurrent(torch.cat([h, before], 1)))
        before, h, previous = h, new, x_t
        ys.append(h)
    return torch.stack(ys, 1)


def kept_by_name_backwards(net: Any, x: Tensor) -> Any:
    return kept_by_name(net, x.flip(1)).flip(1)


def heads(inputs: int = 5) -> dict[str, nn.Module]:
    """Layers for queries, keys and values of 4 features."""
    return {name: nn.Linear(inputs, 4) for name in "qkv"}


def row(
    name: str,
    forward: Callable[..., Any],
    outside: Callable[..., Any],
    message: str,
    make: Callable[[], dict[str, nn.Module]],
    states: Pairs,
    *,
    example: Any = (X,),
    outside_example: Any = None,
    refused: bool = False,
) -> Pattern:
    """A pattern, and a network of the same layers that needs whole sequences or is `refused`."""
    beyond = Outside(
        lambda: network(outside, **make()), outside_example or example, message, refused=refused
    )
    return Pattern(GROUP, name, lambda: network(forward, **make()), example, states, beyond)


FRAMES: Final = ("frames", "frames_n")
H0: Final = ("h0", "hn")
WINDOW_X: Final = ("window_x", "window_x_n")
WINDOW_STEPS: Final = ("window_steps", "window_steps_n")
COUNT: Final = ("count", "count_n")
STEPS: Final = (WINDOW_X, WINDOW_STEPS)

CARRIED: Final = (
    row(
        "a causal convolution that is cut off, before a loop",
        cut_off,
        padded_alike,
        "pads 3 steps on the right: it looks ahead",
        lambda: {"padded": nn.Conv1d(5, 5, 4, padding=3), "cell": nn.GRUCell(5, 4)},
        (H0, FRAMES),
    ),
    row(
        "a convolution that is padded in front, before a GRU",
        padded_in_front,
        padded_behind,
        "pads 1 step on the right: it looks ahead",
        lambda: {"conv": nn.Conv1d(5, 5, 4), "gru": gru()},
        (H0, FRAMES),
    ),
    row(
        "a shift of time, before a loop",
        shifted,
        shifted_back,
        "joins steps of its own to the sequence in each call",
        lambda: {"mix": nn.Linear(5, 5), "cell": nn.GRUCell(5, 4)},
        (H0, FRAMES),
    ),
    row(
        "a selective scan, behind a convolution",
        selective_scan,
        scan_backwards,
        "reverses time",
        lambda: {
            "conv": nn.Conv1d(5, 5, 4, groups=5),
            "delta": nn.Linear(5, 5),
            "b": nn.Linear(5, 2),
            "c": nn.Linear(5, 2),
        },
        (H0, FRAMES),
    ),
    row(
        "linear attention by running sums",
        linear_attention,
        attention_over_all,
        "takes the sum over time",
        heads,
        (("sum", "next_sum"), ("sum_2", "next_sum_2")),
    ),
    row(
        "a GRU beside a running sum",
        beside_a_sum,
        beside_a_mean,
        "takes the mean over time",
        lambda: {"gru": gru()},
        (H0, ("sum", "sum_n")),
    ),
    row(
        "a running maximum, before a GRU",
        running_maximum,
        maximum,
        "takes the maximum over time",
        lambda: {"gru": gru()},
        (("loop_h0", "loop_hn"), ("gru_h0", "gru_hn")),
    ),
    row(
        "attention to the last four steps",
        attention_window,
        attention_to_all_before,
        "multiplies steps with one another, as attention does",
        heads,
        STEPS,
    ),
    row(
        "attention to the last four steps, behind a GRU",
        window_behind_a_gru,
        window_that_looks_ahead,
        "multiplies steps with one another, as attention does",
        lambda: {"gru": gru(), **heads(4)},
        (WINDOW_X, ("window_layer", "window_layer_n"), WINDOW_STEPS, H0),
    ),
    row(
        "keys and values of the last steps, given and returned",
        given_window,
        given_cache,
        "argument 'past_k' grows with every call.*Let forward return the last entries",
        heads,
        (("past_k", "past_k_n"), ("past_v", "past_v_n")),
        example=(X, WINDOW, WINDOW),
        outside_example=(X, CACHE, CACHE),
        refused=True,
    ),
    row(
        "a Conformer block: attention to the last steps, and a convolution",
        conformer,
        normalised_over_time,
        "normalises over time",
        lambda: {
            "q": nn.Linear(5, 4),
            "norm": nn.LayerNorm(4),
            "block": network(attention_window, **heads(4)),
            "conv": nn.Conv1d(4, 4, 4, groups=4),
        },
        STEPS,
    ),
    row(
        "a difference of neighbours, before a GRU",
        difference,
        difference_to_the_next,
        "pads 1 step on the right: it looks ahead",
        lambda: {"gru": gru()},
        (*STEPS, H0),
    ),
    row(
        "a parallel scan, in log2(T) rounds",
        parallel_scan,
        parallel_scan_backwards,
        "reverses time",
        lambda: {"gate": nn.Linear(5, 4), "value": nn.Linear(5, 4)},
        (H0,),
    ),
    row(
        "a parallel scan, by `associative_scan`",
        associated,
        associated_backwards,
        "reverses time",
        lambda: {"gate": nn.Linear(5, 4), "value": nn.Linear(5, 4)},
        (H0,),
    ),
    row(
        "retention: linear attention by a matrix of decays",
        retention,
        retention_of_the_next,
        "multiplies steps with one another, as attention does",
        heads,
        (H0,),
    ),
    row(
        "a loop that sees the number of its step",
        numbered,
        numbered_from_the_end,
        "counts the steps from the beginning of each call",
        lambda: {"cell": nn.GRUCell(5, 4)},
        (("s1_0", "s1_n"), ("s2_0", "s2_n"), COUNT),
    ),
    row(
        "a loop that keeps the former input, and the state before the last",
        kept_by_name,
        kept_by_name_backwards,
        "reverses time",
        lambda: {"inner": nn.Linear(5, 4), "recurrent": nn.Linear(8, 4)},
        (("s1_0", "s1_n"), ("s2_0", "s2_n"), ("s3_0", "s3_n")),
    ),
)

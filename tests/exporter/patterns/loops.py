"""Group 2: recurrences written by hand: a Python loop over time, or one step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from stateport_exporter import Spec

from .pattern import HIDDEN, ROW, STEP, Outside, Pattern, X, network

GROUP: Final = "Loops over time"
BATCH_AND_TIME: Final = Spec("float32", "batch", "time")
ONE: Final = (("h", "h_n"),)
TWO: Final = (("h", "h_n"), ("c", "c_n"))

Step = Callable[..., Any]


class GruByHand(nn.Module):
    """The equations of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(9, 8)
        self.candidate = nn.Linear(9, 4)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        r, z = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, 1)
        n = torch.tanh(self.candidate(torch.cat([x, r * h], 1)))
        return (1 - z) * n + z * h


class Peephole(nn.Module):
    """An LSTM whose gates see the cell state (Gers and Schmidhuber, 2000)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(9, 16)
        self.peep = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        i, f = torch.sigmoid(i + self.peep[0] * c), torch.sigmoid(f + self.peep[1] * c)
        c = f * c + i * torch.tanh(g)
        return torch.sigmoid(o + self.peep[2] * c) * torch.tanh(c), c


class Liquid(nn.Module):
    """A liquid time-constant cell, one fused step of its solver (Hasani et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(9, 4)
        self.a = nn.Parameter(torch.randn(4))
        self.tau = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        f = torch.sigmoid(self.inner(torch.cat([x, h], 1)))
        result: Tensor = (h + 0.1 * f * self.a) / (1 + 0.1 * (1 / self.tau + f))
        return result


class Spiking(nn.Module):
    """A leaky integrate-and-fire cell: it leaks, it spikes above a threshold, and it resets."""

    def __init__(self) -> None:
        super().__init__()
        self.current = nn.Linear(5, 4)

    def forward(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.9 * v + self.current(x)
        spike = (v > 0.5).to(v.dtype)
        return spike, v - spike * 0.5


def stacked(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1), h


def steps_of(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for step in x.unbind(1):
        h = net.cell(step, h)
        ys.append(h)
    return torch.stack(ys, 1), h


def joined(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h)
        ys.append(h.unsqueeze(1))
    return torch.cat(ys, 1), h


def written(net: Any, x: Tensor, h: Tensor) -> Any:
    y = x.new_zeros(x.size(0), x.size(1), 4)
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h)
        y[:, t] = h
    return y, h


def only_the_last(net: Any, x: Tensor, h: Tensor) -> Any:
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h)
    return net.head(h), h


def made_inside(net: Any, x: Tensor) -> Any:
    h, ys = x.new_zeros(x.size(0), 4), []
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def of_two_states(net: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h, c = net.cell(x[:, t], h, c)
        ys.append(h)
    return torch.stack(ys, 1), h, c


def spikes(net: Any, x: Tensor, v: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        spike, v = net.cell(x[:, t], v)
        ys.append(spike)
    return torch.stack(ys, 1), v


def lstm_cell(net: Any, x: Tensor, h: Tensor, c: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h, c = net.cell(x[:, t], (h, c))
        ys.append(h)
    return torch.stack(ys, 1), h, c


def two_cells(net: Any, x: Tensor, a: Tensor, b: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        a = net.first(x[:, t], a)
        b = net.second(a, b)
        ys.append(b)
    return torch.stack(ys, 1), a, b


def backwards(net: Any, x: Tensor) -> Any:
    h, ys = x.new_zeros(x.size(0), 4), []
    for t in reversed(range(x.size(1))):
        h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys[::-1], 1)


def backwards_twice_each(net: Any, x: Tensor) -> Any:
    h, ys = x.new_zeros(x.size(0), 4), []
    for t in range(x.size(1) - 1, -1, -1):
        h = net.cell(x[:, t // 2], h)
        ys.append(h)
    return torch.stack(ys[::-1], 1)


def made_by_chance(net: Any, x: Tensor) -> Any:
    h, ys = torch.randn(x.size(0), 4), []
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1)


def both_ways(net: Any, x: Tensor) -> Any:
    a, b = x.new_zeros(x.size(0), 4), x.new_zeros(x.size(0), 4)
    there, back = [], []
    for t in range(x.size(1)):
        a = net.there(x[:, t], a)
        there.append(a)
    for t in range(x.size(1) - 1, -1, -1):
        b = net.back(x[:, t], b)
        back.append(b)
    return torch.cat([torch.stack(there, 1), torch.stack(back[::-1], 1)], 2)


def cleared_at_any_step(net: Any, x: Tensor, h: Tensor, starts: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h * (1 - starts[:, t])[:, None])
        ys.append(h)
    return torch.stack(ys, 1), h


def layer_cleared_at_any_step(net: Any, x: Tensor, h: Tensor, starts: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        y, h = net.gru(x[:, t : t + 1], h * (1 - starts[:, t])[None, :, None])
        ys.append(y)
    return torch.cat(ys, 1), h


def until_it_settles(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        while (net.cell(x[:, t], h) - h).abs().max() > 0.1:
            h = net.cell(x[:, t], h)
        ys.append(h)
    return torch.stack(ys, 1), h


def stops_early(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h)
        ys.append(h)
        if h.sum() > 10:
            break
    return torch.stack(ys, 1), h


def looks_ahead(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell((x[:, t] + x[:, min(t + 1, x.size(1) - 1)]), h)
        ys.append(h)
    return torch.stack(ys, 1), h


def remembers_all(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = [h]
    for t in range(x.size(1)):
        h = net.cell(x[:, t], torch.stack(ys).mean(0))
        ys.append(h)
    return torch.stack(ys[1:], 1), h


def grows(net: Any, x: Tensor, h: Tensor) -> Any:
    for t in range(x.size(1)):
        h = torch.cat([h, net.cell(x[:, t], h[:, -4:])], 1)
    return h[:, -4:], h


def by_the_number(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell(x[:, t] * (t + 1) ** 3, h)
        ys.append(h)
    return torch.stack(ys, 1), h


def by_chance(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell(x[:, t], h + torch.randn_like(h))
        ys.append(h)
    return torch.stack(ys, 1), h


def twice_each(net: Any, x: Tensor, h: Tensor) -> Any:
    ys = []
    for t in range(x.size(1)):
        h = net.cell(x[:, t // 2], h)
        ys.append(h)
    return torch.stack(ys, 1), h


def decoded(net: Any, x: Tensor) -> Iterator[Tensor]:
    """The steps of a decoder, whose loop takes its own last result and no step of a sequence."""
    _, h = net.gru(x)
    h, y = h[0], x.new_zeros(x.size(0), 5)
    for _ in range(x.size(1)):
        h = net.cell(y, h)
        y = net.head(h)
        yield y


def decodes(net: Any, x: Tensor) -> Any:
    return torch.stack([*decoded(net, x)], 1)


def decodes_until_it_ends(net: Any, x: Tensor) -> Any:
    ys = []
    for y in decoded(net, x):
        ys.append(y)
        if y.max() > 3:
            break
    return torch.stack(ys, 1)


def decoder(forward: Step) -> nn.Module:
    return with_h(forward, gru=nn.GRU(5, 4, batch_first=True), head=nn.Linear(4, 5))


def one_step(net: Any, x: Tensor, h: Tensor) -> Any:
    h = net.cell(x, h)
    return net.head(h), h


def one_step_of_two(net: Any, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
    h, c = net.cell(x, *state)
    return net.head(h), (h, c)


def one_step_of_alike(net: Any, x: Tensor, h: Tensor) -> Any:
    a = net.cell(x, h)
    return net.head(a), a, a * 2


def with_h(forward: Step, cell: nn.Module | None = None, **parts: nn.Module) -> nn.Module:
    return network(forward, cell=cell or nn.GRUCell(5, 4), **parts)


def refused(forward: Step, message: str) -> Outside:
    """A loop over `cell` that cannot be written in ONNX; the message is to name it."""
    return Outside(lambda: with_h(forward), (X, ROW), message)


LOOPS: Final = (
    Pattern(
        GROUP,
        "a GRU written by hand",
        lambda: with_h(stacked, GruByHand()),
        (X, ROW),
        ONE,
        refused(
            until_it_settles,
            "until_it_settles takes numbers out of a tensor.*Keep them in the tensor",
        ),
    ),
    Pattern(
        GROUP,
        "an LSTM with peepholes, written by hand",
        lambda: with_h(of_two_states, Peephole()),
        (X, ROW, ROW),
        TWO,
        refused(remembers_all, "remembers_all.*[Rr]ewrite|remembers_all.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "a liquid time-constant cell",
        lambda: with_h(stacked, Liquid()),
        (X, ROW),
        ONE,
        refused(by_the_number, "by_the_number.*[Rr]ewrite|by_the_number.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "a spiking cell (leaky integrate-and-fire)",
        lambda: with_h(spikes, Spiking()),
        (X, ROW),
        (("v", "v_n"),),
        refused(by_chance, "random numbers"),
    ),
    Pattern(
        GROUP,
        "`nn.LSTMCell` in a loop",
        lambda: network(lstm_cell, cell=nn.LSTMCell(5, 4)),
        (X, ROW, ROW),
        TWO,
        refused(stops_early, "stops_early takes numbers out of a tensor.*Keep them in the tensor"),
    ),
    Pattern(
        GROUP,
        "two stacked cells in one loop",
        lambda: network(two_cells, first=nn.GRUCell(5, 4), second=nn.GRUCell(4, 4)),
        (X, ROW, ROW),
        (("a", "a_n"), ("b", "b_n")),
        refused(grows, "grows.*[Rr]ewrite|grows.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "a loop backwards",
        lambda: with_h(backwards),
        (X,),
        HIDDEN,
        Outside(
            lambda: with_h(backwards_twice_each),
            (X,),
            "backwards_twice_each.*[Rr]ewrite|[Ll]et every",
        ),
        streams=False,
    ),
    Pattern(
        GROUP,
        "two loops, there and back",
        lambda: network(both_ways, there=nn.GRUCell(5, 4), back=nn.GRUCell(5, 4)),
        (X,),
        (("there_h0", "there_hn"), ("back_h0", "back_hn")),
        refused(twice_each, "twice_each.*[Rr]ewrite|twice_each.*[Ll]et every"),
        streams=False,
    ),
    Pattern(
        GROUP,
        "steps from `unbind`",
        lambda: with_h(steps_of),
        (X, ROW),
        ONE,
        refused(by_the_number, "by_the_number.*[Rr]ewrite|by_the_number.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "outputs in a list, stacked",
        lambda: with_h(stacked),
        (X, ROW),
        ONE,
        refused(
            until_it_settles,
            "until_it_settles takes numbers out of a tensor.*Keep them in the tensor",
        ),
    ),
    Pattern(
        GROUP,
        "outputs joined by `torch.cat`",
        lambda: with_h(joined),
        (X, ROW),
        ONE,
        refused(remembers_all, "remembers_all.*[Rr]ewrite|remembers_all.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "outputs written into a tensor",
        lambda: with_h(written),
        (X, ROW),
        ONE,
        refused(by_the_number, "by_the_number.*[Rr]ewrite|by_the_number.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "only the last output used",
        lambda: with_h(only_the_last, head=nn.Linear(4, 2)),
        (X, ROW),
        ONE,
        refused(stops_early, "stops_early takes numbers out of a tensor.*Keep them in the tensor"),
    ),
    Pattern(
        GROUP,
        "state made inside",
        lambda: with_h(made_inside),
        (X,),
        HIDDEN,
        refused(grows, "grows.*[Rr]ewrite|grows.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "state made inside a loop of equations",
        lambda: with_h(made_inside, GruByHand()),
        (X,),
        HIDDEN,
        Outside(lambda: with_h(made_by_chance), (X,), "The first state of 'cell' differs"),
    ),
    Pattern(
        GROUP,
        "a state cleared at any step, cell in a loop",
        lambda: with_h(cleared_at_any_step),
        (X, ROW, BATCH_AND_TIME),
        ONE,
        refused(by_the_number, "by_the_number.*[Rr]ewrite|by_the_number.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "a state cleared at any step, layer in a loop",
        lambda: network(layer_cleared_at_any_step, gru=nn.GRU(5, 4, batch_first=True)),
        (X, Spec("float32", 1, "batch", 4), BATCH_AND_TIME),
        ONE,
        refused(twice_each, "twice_each.*[Rr]ewrite|twice_each.*[Ll]et every"),
    ),
    Pattern(
        GROUP,
        "a decoder that goes on from its own results",
        lambda: decoder(decodes),
        (X,),
        (("gru_h0", "gru_hn"),),
        Outside(
            lambda: decoder(decodes_until_it_ends),
            (X,),
            "decodes_until_it_ends takes numbers out of a tensor.*Keep them in the tensor",
        ),
        streams=False,
    ),
    Pattern(
        GROUP,
        "one step of a cell written by hand",
        lambda: with_h(one_step, GruByHand(), head=nn.Linear(4, 2)),
        (STEP, ROW),
        ONE,
        Outside(
            lambda: with_h(one_step_of_alike, GruByHand(), head=nn.Linear(4, 4)),
            (STEP, ROW),
            "not clear",
        ),
    ),
    Pattern(
        GROUP,
        "one step of a cell written by hand, two states",
        lambda: with_h(one_step_of_two, Peephole(), head=nn.Linear(4, 2)),
        (STEP, (ROW, ROW)),
        (("state_0", "next_state_0"), ("state_1", "next_state_1")),
        Outside(
            lambda: with_h(one_step_of_alike, GruByHand(), head=nn.Linear(4, 4)),
            (STEP, ROW),
            "not clear",
        ),
    ),
)

"""Group 3: where a state comes from and where it goes: lifted, passed, kept, cleared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport_exporter import Spec

from .pattern import (
    HIDDEN,
    HIDDEN_AND_CELL,
    H,
    Outside,
    Pattern,
    X,
    gru,
    lstm,
    network,
)

GROUP: Final = "States"
BATCH: Final = Spec("float32", "batch")


class Pair(NamedTuple):
    """h and c as a named tuple."""

    hidden: Tensor
    cell: Tensor


@dataclass
class Memory:
    """h and c as a dataclass that PyTorch knows."""

    hidden: Any
    cell: Any


@dataclass
class Unknown:
    """h and c as a dataclass that PyTorch does not know."""

    hidden: Any
    cell: Any


class Box:
    """One state in a container of the author's own."""

    def __init__(self, state: Any) -> None:
        self.state = state


class NamelessBox(Box):
    """The same, registered without a name for what is in it."""


pytree.register_dataclass(Memory)
pytree.register_pytree_node(
    Box,
    lambda box: ([box.state], None),
    lambda states, _: Box(*states),
    flatten_with_keys_fn=lambda box: ([(pytree.GetAttrKey("state"), box.state)], None),
    serialized_type_name="tests.Box",
)
pytree.register_pytree_node(
    NamelessBox,
    lambda box: ([box.state], None),
    lambda states, _: NamelessBox(*states),
    serialized_type_name="tests.NamelessBox",
)


# No state is passed


def dropped(net: Any, x: Tensor) -> Any:
    return net.gru(x)[0]


def returned(net: Any, x: Tensor) -> Any:
    return net.gru(x)


def returned_with_its_size(net: Any, x: Tensor) -> Any:
    y, h = net.gru(x)
    return y, h, x.size(1)


def only_the_last_hidden(net: Any, x: Tensor) -> Any:
    _, (h, _) = net.lstm(x)
    return net.head(h[-1])


def zeros(net: Any, x: Tensor) -> Any:
    return net.gru(x, x.new_zeros(1, x.size(0), 4))[0]


def zeros_for_each_step(net: Any, x: Tensor) -> Any:
    return net.gru(x, x.new_zeros(1, x.size(1), 4))[0]


def constant(net: Any, x: Tensor) -> Any:
    return net.gru(x, torch.full((1, x.size(0), 4), 0.25))[0]


def constant_by_length(net: Any, x: Tensor) -> Any:
    return net.gru(x, torch.ones(1, x.size(0), 4) / x.size(1))[0]


def learned(net: Any, x: Tensor) -> Any:
    return net.gru(x, net.first.expand(-1, x.size(0), -1).contiguous())[0]


def numbered_rows(net: Any, x: Tensor) -> Any:
    return net.gru(x, torch.arange(x.size(0)).float()[None, :, None].expand(1, -1, 4).contiguous())


def random_start(net: Any, x: Tensor) -> Any:
    return net.gru(x, torch.randn(1, 1, 4).expand(-1, x.size(0), -1).contiguous())[0]


# The state is an argument


def in_a_tuple(net: Any, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
    return net.lstm(x, state)


def crossed(net: Any, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
    h, c = state
    return net.lstm(x, (h + c, c))


def in_lists(net: Any, x: Tensor, states: list[Any]) -> Any:
    z, first = net.encoder(x, states[0][0])
    y, second = net.decoder(z, states[1][0])
    return y, [[first], [second]]


def in_lists_once(net: Any, x: Tensor, states: list[Any]) -> Any:
    z, first = net.encoder(x, states[0][0])
    y, second = net.decoder(z, states[0][0])
    return y, [[first], [second]]


def in_a_dict(net: Any, x: Tensor, state: dict[str, Tensor]) -> Any:
    y, (h, c) = net.lstm(x, (state["hidden"], state["cell"]))
    return {"y": y, "hidden": h, "cell": c}


def in_a_dict_mixed(net: Any, x: Tensor, state: dict[str, Tensor]) -> Any:
    mixed = net.mix(state["hidden"])
    y, (h, c) = net.lstm(x, (mixed + state["cell"], state["cell"]))
    return {"y": y, "hidden": h, "cell": c}


def in_fields(net: Any, x: Tensor, state: Any) -> Any:
    y, (h, c) = net.lstm(x, (state.hidden, state.cell))
    return y, type(state)(h, c)


def in_fields_computed(net: Any, x: Tensor, state: Any) -> Any:
    y, (h, c) = net.lstm(x, (state.hidden - state.cell, state.cell))
    return y, type(state)(h, c)


def in_a_box(net: Any, x: Tensor, box: Any) -> Any:
    y, h = net.gru(x, box.state)
    return y, type(box)(h)


def or_none(net: Any, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:
    return net.lstm(x, state)


def or_learned(net: Any, x: Tensor, h: Tensor | None = None) -> Any:
    if h is None:
        h = net.first.expand(-1, x.size(0), -1).contiguous()
    return net.gru(x, h)


def and_none(net: Any, x: Tensor) -> Any:
    y, h = net.gru(x)
    return y, None, h


# The state is kept from call to call


def in_a_buffer(net: Any, x: Tensor) -> Any:
    y, h = net.gru(x, net.kept.expand(-1, x.size(0), -1).contiguous())
    net.kept = h.detach()
    return y


def scaled_in_a_buffer(net: Any, x: Tensor) -> Any:
    y, h = net.gru(x, net.kept.expand(-1, x.size(0), -1).contiguous())
    net.kept = 0.9 * h.detach()
    return y


def scaled_by_the_calls(net: Any, x: Tensor) -> Any:
    net.calls = getattr(net, "calls", 0) + 1
    y, h = net.gru(x, net.kept.expand(-1, x.size(0), -1).contiguous())
    net.kept = h.detach() / net.calls
    return y


def written_into_a_buffer(net: Any, x: Tensor) -> Any:
    y, h = net.gru(x, net.kept)
    net.kept.copy_(h.detach())
    return y


def in_an_attribute(net: Any, x: Tensor) -> Any:
    y, net.kept = net.lstm(x, net.kept)
    return y


def exchanged_in_an_attribute(net: Any, x: Tensor) -> Any:
    y, (h, c) = net.lstm(x, net.kept)
    net.kept = (c * c.mean(), h)  # of all rows together
    return y


def and_the_last_input(net: Any, x: Tensor) -> Any:
    last = torch.zeros_like(x[:, :1]) if net.last is None else net.last
    net.last = x[:, -1:].mean(0, keepdim=True)  # of all rows together
    y, net.kept = net.gru(x + last, net.kept)
    return y


class Attribute(nn.Module):
    """Keeps its state in an attribute that is a tensor from the start."""

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.gru = gru()
        self.kept = first

    def forward(self, x: Tensor) -> Any:
        y, h = self.gru(x, self.kept.expand(-1, x.size(0), -1).contiguous())
        self.kept = h.detach()
        return y


# The state is cleared


def cleared(net: Any, x: Tensor, h: Tensor, done: Tensor) -> Any:
    return net.gru(x, h * (1 - done)[None, :, None])


def cleared_by_where(net: Any, x: Tensor, h: Tensor, c: Tensor, start: Tensor) -> Any:
    keep = start.logical_not()[None, :, None]
    y, (h, c) = net.lstm(x, (torch.where(keep, h, 0.0), torch.where(keep, c, 0.0)))
    return y, h, c


def replaced(net: Any, x: Tensor, h: Tensor, done: Tensor) -> Any:
    fresh = torch.tanh(h) * done[None, :, None]
    return net.gru(x, h * (1 - done)[None, :, None] + fresh)


def exchanged_for_another(net: Any, x: Tensor, h: Tensor, other: Tensor, start: Tensor) -> Any:
    y, h = net.gru(x, torch.where(start[None, :, None], other, h))
    return y, h


class Policy(nn.Module):
    """The method that is exported is not forward."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = gru()
        self.head = nn.Linear(4, 2)

    def act(self, x: Tensor, h: Tensor) -> Any:
        y, h = self.gru(x, h)
        return self.head(y), h


LIFTING: Final = (
    Pattern(
        GROUP,
        "no state passed, the last one dropped",
        lambda: network(dropped, gru=gru()),
        (X,),
        HIDDEN,
        Outside(
            lambda: network(random_start, gru=gru()),
            (X,),
            "The first state of 'gru' is not the same in every call.*Take it as an argument",
        ),
    ),
    Pattern(
        GROUP,
        "no state passed, the last one returned",
        lambda: network(returned, gru=gru()),
        (X,),
        HIDDEN,
        Outside(
            lambda: network(returned_with_its_size, gru=gru()),
            (X,),
            "'2' is a number.*leave it out",
        ),
    ),
    Pattern(
        GROUP,
        "None among the results",
        lambda: network(and_none, gru=gru()),
        (X,),
        HIDDEN,
        Outside(
            lambda: network(lambda net, x: (net.gru(x)[0], "last"), gru=gru()),
            (X,),
            "'1' is 'last'.*leave it out",
        ),
    ),
    Pattern(
        GROUP,
        "only the last hidden state used",
        lambda: network(only_the_last_hidden, lstm=lstm(num_layers=2), head=nn.Linear(4, 2)),
        (X,),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(only_the_last_hidden, lstm=lstm(), head=nn.Linear(4, 2)),
            (Spec("float32", "time", "batch", 5),),
            "The LSTM 'lstm' runs over the axis 'batch'.*batch_first is wrong",
        ),
    ),
    Pattern(
        GROUP,
        "zeros made in forward",
        lambda: network(zeros, gru=gru()),
        (X,),
        HIDDEN,
        Outside(
            lambda: network(zeros_for_each_step, gru=gru()),
            (X,),
            "could not be traced in 'gru'.*Expected hidden size",
        ),
    ),
    Pattern(
        GROUP,
        "a constant made in forward",
        lambda: network(constant, gru=gru()),
        (X,),
        HIDDEN,
        Outside(
            lambda: network(constant_by_length, gru=gru()),
            (X,),
            "The first state of 'gru' is not the same in every call: it changes with the size",
        ),
    ),
    Pattern(
        GROUP,
        "a learned parameter",
        lambda: network(learned, gru=gru(), first=nn.Parameter(torch.randn(1, 1, 4))),
        (X,),
        HIDDEN,
        Outside(
            lambda: network(numbered_rows, gru=gru()),
            (X,),
            "The first state of 'gru' differs along the axis 'batch'. Take it as an argument",
        ),
    ),
    Pattern(
        GROUP,
        "argument in a tuple",
        lambda: network(in_a_tuple, lstm=lstm()),
        (X, (H, H)),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(crossed, lstm=lstm()),
            (X, (H, H)),
            "The LSTM 'lstm' starts from a hidden state that forward computes.*Pass the state",
        ),
    ),
    Pattern(
        GROUP,
        "arguments in nested lists",
        lambda: network(in_lists, encoder=gru(), decoder=gru(4)),
        (X, [[H], [H]]),
        (("encoder_h0", "encoder_hn"), ("decoder_h0", "decoder_hn")),
        Outside(
            lambda: network(in_lists_once, encoder=gru(), decoder=gru(4)),
            (X, [[H]]),
            "The argument 'states.0.0' holds a state.*not clear: result 2, result 3. Return",
        ),
    ),
    Pattern(
        GROUP,
        "argument in a dict",
        lambda: network(in_a_dict, lstm=lstm()),
        (X, {"hidden": H, "cell": H}),
        (("h0", "hidden"), ("c0", "cell")),
        Outside(
            lambda: network(in_a_dict_mixed, lstm=lstm(), mix=nn.Linear(4, 4)),
            (X, {"hidden": H, "cell": H}),
            "The LSTM 'lstm' starts from a hidden state that forward computes.*Pass the state",
        ),
    ),
    Pattern(
        GROUP,
        "argument in a registered dataclass",
        lambda: network(in_fields, lstm=lstm()),
        (X, Memory(H, H)),
        (("h0", "hidden"), ("c0", "cell")),
        Outside(
            lambda: network(in_fields, lstm=lstm()),
            (X, Unknown(H, H)),
            "'state' is a Unknown.*torch.export.register_dataclass",
        ),
    ),
    Pattern(
        GROUP,
        "argument in a named tuple",
        lambda: network(in_fields, lstm=lstm()),
        (X, Pair(H, H)),  # type: ignore[arg-type]
        (("h0", "hidden"), ("c0", "cell")),
        Outside(
            lambda: network(in_fields_computed, lstm=lstm()),
            (X, Pair(H, H)),  # type: ignore[arg-type]
            "The LSTM 'lstm' starts from a hidden state that forward computes.*Pass the state",
        ),
    ),
    Pattern(
        GROUP,
        "argument in another registered container",
        lambda: network(in_a_box, gru=gru()),
        (X, Box(H)),
        (("h0", "state"),),
        Outside(
            lambda: network(in_a_box, gru=gru()),
            (X, NamelessBox(H)),
            "NamelessBox.*pass a flatten_with_keys_fn argument to register_pytree_node",
        ),
    ),
    Pattern(
        GROUP,
        "argument that may be None",
        lambda: network(or_none, lstm=lstm()),
        (X, (H, H)),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(or_learned, gru=gru(), first=nn.Parameter(torch.randn(1, 1, 4))),
            (X, H),
            "Without 'h', forward starts from other values than zeros. Leave 'h' out",
        ),
    ),
    Pattern(
        GROUP,
        "kept in a buffer",
        lambda: network(in_a_buffer, gru=gru(), kept=torch.zeros(1, 1, 4)),
        (X,),
        HIDDEN,
        Outside(
            lambda: network(scaled_by_the_calls, gru=gru(), kept=torch.zeros(1, 1, 4)),
            (X,),
            "changes the state that it keeps between calls for 'gru'.*Take the state as an arg",
        ),
    ),
    Pattern(
        GROUP,
        "kept in an attribute that starts as None",
        lambda: network(in_an_attribute, lstm=lstm(), kept=None),
        (X,),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(exchanged_in_an_attribute, lstm=lstm(), kept=None),
            (X,),
            "changes the state that it keeps between calls for 'lstm'.*Take the state as an arg",
        ),
    ),
    Pattern(
        GROUP,
        "kept in an attribute that starts as a tensor",
        lambda: Attribute(torch.zeros(1, 1, 4)),
        (X,),
        HIDDEN,
        Outside(
            lambda: Attribute(torch.arange(24.0).reshape(1, 6, 4)),
            (X,),
            "could not be traced.*keeps tensors in 'kept'.*reset them before it is exported",
        ),
    ),
    Pattern(
        GROUP,
        "kept in an attribute, beside what is no state",
        lambda: network(in_an_attribute, lstm=lstm(), kept=None, scale=torch.ones(3)),
        (X,),
        HIDDEN_AND_CELL,
        Outside(
            lambda: network(and_the_last_input, gru=gru(), kept=None, last=None),
            (X,),
            r"remembers something.*\(last\).*take it as an argument of forward",
        ),
    ),
    Pattern(
        GROUP,
        "cleared by a mask at the start of a call",
        lambda: network(cleared, gru=gru()),
        (X, H, BATCH),
        (("h", "h_n"),),
        Outside(
            lambda: network(replaced, gru=gru()),
            (X, H, BATCH),
            "The GRU 'gru' starts from a hidden state that forward computes",
        ),
    ),
    Pattern(
        GROUP,
        "cleared by torch.where at the start of a call",
        lambda: network(cleared_by_where, lstm=lstm()),
        (X, H, H, Spec("bool", "batch")),
        (("h", "h_n"), ("c", "c_n")),
        Outside(
            lambda: network(exchanged_for_another, gru=gru()),
            (X, H, H, Spec("bool", "batch")),
            "The GRU 'gru' starts from a hidden state that forward computes",
        ),
    ),
    Pattern(
        GROUP,
        "a method other than forward",
        Policy,
        (X, H),
        (("h", "h_n"),),
        Outside(Policy, (X, H), "Policy has no forward. Say which method"),
        method="act",
    ),
)

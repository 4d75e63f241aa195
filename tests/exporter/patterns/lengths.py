"""Group 4: sequences of different lengths in one batch, packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from stateport_exporter import Spec

from .pattern import (
    HIDDEN,
    HIDDEN_AND_CELL,
    MAJOR,
    H,
    Outside,
    Pairs,
    Pattern,
    X,
    gru,
    lstm,
    network,
)

GROUP: Final = "Lengths"
COUNTS: Final = Spec("int64", "batch")


def pack(x: Tensor, lengths: Any) -> PackedSequence:
    return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)


def pad(packed: PackedSequence, **options: Any) -> Tensor:
    return pad_packed_sequence(packed, batch_first=True, **options)[0]


def unsorted(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.gru(pack(x, lengths))[0])


def with_its_lengths(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return pad_packed_sequence(net.gru(pack(x, lengths))[0], batch_first=True)


def in_order(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.gru(pack_padded_sequence(x, lengths, batch_first=True))[0])


def time_first(net: Any, x: Tensor, lengths: Tensor) -> Any:
    y, _ = net.lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
    return pad_packed_sequence(y)[0]


def only_the_last(net: Any, x: Tensor, lengths: Tensor) -> Any:
    _, h = net.gru(pack(x, lengths))
    return torch.cat([h[-2], h[-1]], 1)


def on_packed_data(net: Any, x: Tensor, lengths: Tensor) -> Any:
    y, _ = net.gru(pack(x, lengths))
    data = net.linear(y.data).relu()
    z, _ = net.second(PackedSequence(data, y.batch_sizes, y.sorted_indices, y.unsorted_indices))
    return pad(z)


def with_a_state(net: Any, x: Tensor, lengths: Tensor, h0: Tensor) -> Any:
    y, hn = net.gru(pack(x, lengths), h0)
    return pad(y), hn


def packed_to_packed(net: Any, packed: PackedSequence) -> Any:
    return net.gru(packed)[0]


def a_packed_example(batch: int, time: int) -> PackedSequence:
    return pack(torch.zeros(batch, time, 5), torch.tensor([time] + [1] * (batch - 1)))


def lengths_from_a_mask(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.gru(pack(x, (x[..., 0] != 0).sum(1)))[0])


def mean_over_the_padding(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.gru(pack(x, lengths))[0]).mean(1)


def fixed_lengths(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.gru(pack(x, torch.tensor([7, 7, 7])))[0])


def one_step_less(net: Any, x: Tensor, lengths: Tensor) -> Any:
    y, _ = net.lstm(pack_padded_sequence(x[1:], lengths, enforce_sorted=False))
    return pad_packed_sequence(y)[0]


def mean_of_the_data(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return net.gru(pack(x, lengths))[0].data.mean(0)


def numbers_of_the_lengths(net: Any, x: Tensor, lengths: Tensor) -> Any:
    return pad(net.gru(pack(x, lengths.tolist()))[0])


def state_computed(net: Any, x: Tensor, lengths: Tensor, h0: Tensor) -> Any:
    y, hn = net.gru(pack(x, lengths), torch.tanh(net.linear(h0)))
    return pad(y), hn


def packed_batch_sizes(net: Any, packed: PackedSequence) -> Any:
    return net.gru(packed)[1] * packed.batch_sizes.sum()


def row(
    name: str,
    forward: Callable[..., Any],
    outside: Callable[..., Any],
    message: str,
    make: Callable[[], dict[str, nn.Module]] = lambda: {"gru": gru()},
    example: Any = (X, COUNTS),
    states: Pairs = HIDDEN,
) -> Pattern:
    """A pattern, and a network of the same layers just outside it."""
    refused = Outside(lambda: network(outside, **make()), example, message)
    return Pattern(
        GROUP, name, lambda: network(forward, **make()), example, states, refused, streams=False
    )


LENGTHS: Final = (
    row(
        "packed and unpacked, rows in any order",
        unsorted,
        lengths_from_a_mask,
        r"lengths of the GRU 'gru' are computed .*Take the lengths themselves as an argument",
    ),
    row(
        "unpacked together with the lengths",
        with_its_lengths,
        mean_over_the_padding,
        r"GRU 'gru', forward computes with the padding.*Pass total_length",
    ),
    row(
        "packed with `enforce_sorted=True`",
        in_order,
        fixed_lengths,
        "fixed_lengths packs with lengths that are fixed in forward. Take them as an argument",
    ),
    row(
        "packed, time first",
        time_first,
        one_step_less,
        r"LSTM 'lstm' have lengths, but it runs over the axis 'time - 1'",
        lambda: {"lstm": lstm(batch_first=False)},
        (MAJOR, COUNTS),
        HIDDEN_AND_CELL,
    ),
    row(
        "packed, only the last state used",
        only_the_last,
        numbers_of_the_lengths,
        r"takes numbers out of a tensor .*takes lengths.cpu\(\) itself",
        lambda: {"gru": gru(bidirectional=True)},
    ),
    row(
        "from one packed layer to the next",
        on_packed_data,
        mean_of_the_data,
        r"forward may compute with each step's data by itself",
        lambda: {"gru": gru(), "linear": nn.Linear(4, 3), "second": gru(3)},
        states=(("gru_h0", "gru_hn"), ("second_h0", "second_hn")),
    ),
    row(
        "packed, with a state as argument",
        with_a_state,
        state_computed,
        r"The GRU 'gru' starts from a hidden state that forward computes.*Pass the state",
        lambda: {"gru": gru(), "linear": nn.Linear(4, 4)},
        (X, COUNTS, H),
    ),
    row(
        "a `PackedSequence` as argument and as result",
        packed_to_packed,
        packed_batch_sizes,
        r"computes with the batch_sizes.*Compute with the lengths instead",
        example=a_packed_example,
    ),
)

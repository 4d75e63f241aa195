# SPDX-License-Identifier: Apache-2.0
"""Packed sequences: rows of several lengths in one batch.

PyTorch packs such a batch step by step and leaves shorter rows out. So the size of the data depends
on the values of the lengths, which no graph can express. ONNX's recurrent operators take the padded
batch and `sequence_lens` instead. So while a network is traced, packing keeps the padding: the data
are (time * batch, ...) instead of (sum of lengths, ...), and a `Lengths` takes the place of
PyTorch's `batch_sizes`. Rows keep their order, since ONNX does not need them sorted.

Where PyTorch itself runs the network, `Packs` remembers what each packing did.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from stateport.picking import instances_of

from ..errors import ExportError
from .blame import paths_of
from .trees import map_only

#: The functions that PyTorch's packing calls.
PACK: Final = torch._pack_padded_sequence
PAD: Final = torch._pad_packed_sequence

_Size = Any  # int or torch.SymInt, which PyTorch's own types leave out


def is_packed(args: Sequence[Any]) -> bool:
    """Whether torch.lstm or a sibling is called with packed data: (data, batch_sizes, hx, ...)."""
    return len(args) > 3 and isinstance(args[3], list | tuple)


class _StandIn:
    """Takes a tensor's place while a network is traced; refuses all uses that it does not know."""

    _what: str
    _instead: str

    device = torch.device("cpu")

    def cpu(self) -> _StandIn:
        """As a tensor that is there already."""
        return self

    def to(self, *_: object, **__: object) -> _StandIn:
        """As a tensor that is there already."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._refusal(name)

    def __len__(self) -> int:
        raise self._refusal("len")

    def __getitem__(self, index: object) -> Any:
        raise self._refusal(f"[{index}]")

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],  # the protocol's signature
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        raise cls._refusal(func.__name__)

    @classmethod
    def _refusal(cls, use: str) -> ExportError:
        return ExportError(
            f"{here()} computes with {cls._what} of a packed sequence ({use}), which no ONNX file "
            f"has. {cls._instead}"
        )


class Lengths(_StandIn):
    """In place of `batch_sizes`: the length of each row, and the sizes of the padded batch."""

    _what = "the batch_sizes"
    _instead = "Compute with the lengths instead, or unpack first (pad_packed_sequence)."

    dtype = torch.int64

    def __init__(self, rows: Tensor, time: _Size, batch: _Size, batch_first: bool) -> None:
        self.rows = rows
        self.time = time
        self.batch = batch
        self.batch_first = batch_first

    @property
    def shape(self) -> tuple[_Size]:
        """One number per step."""
        return (self.time,)

    def size(self, dim: int | None = None) -> Any:
        """As a tensor of one number per step."""
        return self.shape if dim is None else self.shape[dim]

    def __getitem__(self, index: object) -> Any:
        # batch_sizes[0] is the number of rows with a first step: all.
        return self.batch if index == 0 else super().__getitem__(index)

    def split(self, data: Tensor) -> Tensor:
        """(time * batch, ...) -> (time, batch, ...)."""
        if not statically_known_true(data.shape[0] == self.time * self.batch):
            raise ExportError(
                f"{here()} changes how many steps the data of a packed sequence has. Unpack first "
                "(pad_packed_sequence)."
            )

        return data.reshape(self.time, self.batch, *data.shape[1:])


class RowOrder(_StandIn):
    """In place of the indices by which PyTorch sorts rows and undoes it: rows keep their order."""

    _what = "the order of rows"
    _instead = "Index with it alone, or pack with enforce_sorted=True what forward sorts itself."

    dtype = torch.int64

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Indexing with it, and its inverse (`invert_permutation`), change nothing."""
        if func in (torch.index_select, Tensor.index_select) and isinstance(args[-1], RowOrder):
            return args[0]
        if func in (torch.empty_like, torch.argsort):
            return args[0]

        raise cls._refusal(func.__name__)

    def numel(self) -> int:
        """The size of what `invert_permutation` makes: it needs no numbers."""
        return 0

    def scatter_(self, *_: object) -> RowOrder:
        """The inverse is the same."""
        return self


def intercept(func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The result of a call while a network is traced; `NotImplemented` if it is PyTorch's."""
    if func is PACK:
        return _pack(*args)
    if func is PAD:
        return _pad(*args)
    if func is torch.sort and _packing_frame() is not None:
        return args[0], RowOrder()
    if func is Tensor.__getitem__ and isinstance(args[1], RowOrder):
        return args[0]

    return NotImplemented


def check_lengths(batch_sizes: object) -> None:
    """Checks that forward packed the data itself.

    Raises:
        ExportError: the batch_sizes are a tensor from elsewhere.
    """
    if not isinstance(batch_sizes, Lengths):
        raise ExportError(
            f"{here()} takes packed data with batch_sizes that pack_padded_sequence did not make. "
            "Pack the padded batch in forward, or take a PackedSequence as an argument."
        )


def _pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Lengths]:
    """Packs (time, batch, ...), or with `batch_first` (batch, time, ...), and keeps the padding."""
    if batch_first:
        x = x.transpose(0, 1)
    time, batch, *rest = x.shape

    if isinstance(lengths.shape[0], int) and not isinstance(batch, int):
        raise ExportError(
            f"{here()} packs with lengths that are fixed in forward. Take them as an argument of "
            "forward, an int64 tensor of one number per row."
        )

    return x.reshape(time * batch, *rest), Lengths(lengths, time, batch, batch_first)


def _pad(
    data: Tensor, lengths: Lengths, batch_first: bool, padding_value: float, total_length: _Size
) -> tuple[Tensor, Tensor]:
    """The padded batch, as long as the one that was packed, even if all its rows are shorter."""
    check_lengths(lengths)
    if not statically_known_true(total_length == lengths.time):
        raise ExportError(
            f"{here()} pads to total_length={total_length}, which is not the length of what was "
            "packed. Pad to that: total_length=x.size(1), or leave it out."
        )

    y = lengths.split(data)
    inside = torch.arange(lengths.time)[:, None] < lengths.rows
    inside = inside.reshape(lengths.time, lengths.batch, *[1] * (y.ndim - 2))
    y = torch.where(inside, y, torch.full((), padding_value, dtype=y.dtype))
    return (y.transpose(0, 1) if batch_first else y), lengths.rows


def _packing_frame() -> FrameType | None:
    """The frame of `pack_padded_sequence`, if that is what calls the intercepted function."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(12):  # the frames of function modes are in between
        if frame is None or frame.f_code is pack_padded_sequence.__code__:
            return frame
        frame = frame.f_back

    return None


#: The networks that are being traced, the innermost last.
_NETWORKS: list[nn.Module] = []


def here() -> str:
    """The module whose forward is running, for messages: "'encoder'", or the network's class."""
    return _innermost_module(_NETWORKS[-1], (frame for frame, _ in traceback.walk_stack(None)))


def raised_in(network: nn.Module, error: BaseException) -> str:
    """The module whose forward raised an error, for messages."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return _innermost_module(network, reversed(frames))


def _innermost_module(network: nn.Module, frames: Iterable[FrameType]) -> str:
    """The first module whose method is among the frames, innermost frames first."""
    paths = paths_of(network)
    for frame in frames:
        path = paths.get(id(frame.f_locals.get("self")))
        if path is not None:
            # The network itself has an empty path.
            return repr(path) if path else type(network).__qualname__

    return type(network).__qualname__


@contextlib.contextmanager
def traceable(network: nn.Module) -> Iterator[None]:
    """Lets the recurrent layers of a network take a `Lengths`.

    Their check of the state's shape takes the batch size as a Python number, which would fix it.
    """
    layers = instances_of(nn.RNNBase, network.modules())
    before = len(_NETWORKS)

    try:
        for layer in layers:
            vars(layer)["check_forward_args"] = _without_lengths(layer.check_forward_args)
        _NETWORKS.append(network)
        yield
    finally:
        del _NETWORKS[before:]
        for layer in layers:
            vars(layer).pop("check_forward_args", None)


def _without_lengths(check: Callable[..., None]) -> Callable[..., None]:
    """The check of a layer's arguments, which passes all calls with a `Lengths`."""

    def checked(x: Tensor, hx: Any, batch_sizes: Tensor | Lengths | None) -> None:
        if not isinstance(batch_sizes, Lengths):
            check(x, hx, batch_sizes)

    return checked


class Padded(NamedTuple):
    """A packed sequence among a network's arguments, in the form that a file takes.

    Shapes: data (batch, time, ...), lengths int64 (batch,).
    """

    data: Tensor
    lengths: Tensor


def padded_arguments(arguments: Any, time: int) -> Any:
    """The arguments with every packed sequence in them padded to at least `time` steps."""

    def pad(value: PackedSequence) -> Padded:
        longest = max(time, len(value.batch_sizes))
        return Padded(*pad_packed_sequence(value, batch_first=True, total_length=longest))

    return map_only(PackedSequence, pad, arguments)


def packed_arguments(arguments: Any) -> Any:
    """The arguments with every `Padded` in them packed, as the network itself takes them."""

    def pack(value: Padded) -> PackedSequence:
        return pack_padded_sequence(*value, batch_first=True, enforce_sorted=False)

    return map_only(Padded, pack, arguments)


@dataclass(frozen=True)
class _Pack:
    """One packing: its batch_sizes, its number of steps, and how it sorted the rows."""

    batch_sizes: Tensor
    time: int
    batch_first: bool
    order: Tensor | None


class Packs:
    """Records what PyTorch packs, since PyTorch forgets the length of the padded batch.

    With `cut`, unpacking is PyTorch's: as long as the longest row.
    """

    def __init__(self, cut: bool = False) -> None:
        self._cut = cut
        self._packs: list[_Pack] = []

    def run(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Runs `PACK` or `PAD`."""
        if func is PACK:
            data, batch_sizes = func(*args)
            if isinstance(batch_sizes, Tensor):
                self._record(batch_sizes, args, _packing_frame())
            return data, batch_sizes

        pack = self._find(args[1])
        if pack is not None and not self._cut:
            args = (*args[:4], max(args[4], pack.time))
        return func(*args)

    def _record(self, batch_sizes: Tensor, args: tuple[Any, ...], frame: FrameType | None) -> None:
        """Records a packing with the arguments (x, lengths, batch_first)."""
        x, batch_first = args[0], args[2]
        order = None if frame is None else frame.f_locals.get("sorted_indices")
        time = x.shape[1 if batch_first else 0]
        self._packs.append(_Pack(batch_sizes, time, batch_first, order))

    def padded_results(self, results: Any) -> Any:
        """A network's results: for every packed sequence the padded batch and its lengths.

        Batch and time have the order that they had when they were packed.
        """

        def pad(value: PackedSequence) -> tuple[Tensor, Tensor]:
            sizes: Any = value.batch_sizes
            pack = sizes if isinstance(sizes, Lengths) else self._find(sizes)
            return pad_packed_sequence(value, batch_first=pack is not None and pack.batch_first)

        return map_only(PackedSequence, pad, results)

    def sort(self, states: tuple[Tensor, ...], batch_sizes: object) -> tuple[Tensor, ...]:
        """States with rows in their own order -> in the order of the packed data."""
        order = self._order(batch_sizes)
        if order is None:
            return states

        return tuple(state.index_select(1, order) for state in states)

    def unsort(self, states: tuple[Tensor, ...], batch_sizes: object) -> tuple[Tensor, ...]:
        """States with rows in the order of the packed data -> in their own order."""
        order = self._order(batch_sizes)
        if order is None:
            return states

        inverse = torch.argsort(order)
        return tuple(state.index_select(1, inverse) for state in states)

    def _order(self, batch_sizes: object) -> Tensor | None:
        """The order of the rows in the packed data; None where it is their own."""
        pack = self._find(batch_sizes)
        return None if pack is None else pack.order

    def _find(self, batch_sizes: object) -> _Pack | None:
        """The packing that made these batch_sizes."""
        return next((pack for pack in self._packs if pack.batch_sizes is batch_sizes), None)

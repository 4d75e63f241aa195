# SPDX-License-Identifier: Apache-2.0
"""A module whose recurrent states are all arguments and results.

Many networks call their LSTM without a state, or build one inside `forward`, and drop the last
state that it returns. `Explicit` runs the network as it is, sees every call of a recurrent function
on the way, and can pass it another first state. The exported graph and PyTorch's recorded answers
both come from it, so they mean the same thing.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from stateport.picking import instances_of

from .attributes import copied_attributes
from .convolution_steps import Context, ConvolutionStates
from .packing import PACK, PAD, Packs, is_packed, packed_arguments
from .program import Body
from .running_values import LOOPS, run_as_loop, with_dim
from .scan import scan

States = tuple[Tensor, ...]
#: First states of a call; None leaves the network's own one.
Firsts = tuple[Tensor | None, ...]

#: The functions that PyTorch's recurrent layers call: (x, hx, weights, ...) -> y and last states.
LAYERS: Final = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
#: Those that its cells call: (x, hx, w_ih, w_hh, b_ih, b_hh) -> last states.
CELLS: Final = (torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
#: All functions whose calls are seen.
_SEEN: Final = frozenset({*LAYERS, *CELLS, *LOOPS, PACK, PAD, scan})


@dataclass(frozen=True)
class Fold:
    """An axis of a state whose rows are those of the batch, several times: "4*batch".

    Outside of the network it is two axes, so that one row of the batch is one sequence.

    Attributes:
        axis: the axis.
        factor: how many rows of the state one row of the batch has.
        batch_first: whether these are one behind the other.
    """

    axis: int
    factor: int
    batch_first: bool

    def join(self, state: Tensor) -> Tensor:
        """The state as the network has it, of the two axes outside."""
        return state.flatten(self.axis, self.axis + 1)

    def split(self, state: Tensor) -> Tensor:
        """The state with two axes, of what the network has."""
        sizes = (-1, self.factor) if self.batch_first else (self.factor, -1)
        shape = (*state.shape[: self.axis], *sizes, *state.shape[self.axis + 1 :])
        return state.reshape(shape)


class Explicit(nn.Module):
    """Runs a network; gives the calls in `lifted` their first states, returns all last ones.

    Afterwards the attributes and buffers of the network get their former values back, so every run
    starts from the network as it was.

    Args:
        network: the author's network.
        method: the name of the method that is run.
        lifted: numbers of calls of recurrent functions, in the order in which forward makes them.
        contexts: steps that places in forward get from the call before.
        folds: for calls whose states have the rows of the batch several times, how.
        parts: for calls of which some states alone are lifted, the positions of these.

    The states of a call are together: (h, c) for an LSTM, (h,) for a GRU or RNN. Behind them come
    the states of `contexts`, one for each.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str = "forward",
        lifted: Sequence[int] = (),
        contexts: Sequence[Context] = (),
        folds: Mapping[int, Fold] | None = None,
        parts: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.method = method
        self.lifted = tuple(lifted)
        self.contexts = tuple(contexts)
        self.folds = dict(folds or {})
        self.parts = dict(parts or {})

    def forward(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], states: Sequence[States]
    ) -> tuple[Any, list[States]]:
        """The result of the network, and the last states of every call and of all contexts.

        Without any call, the network may be one step itself, so its results are also its states.
        """
        run = self.network if self.method == "forward" else getattr(self.network, self.method)
        count = len(self.lifted)
        calls = Calls(self.first_states(states), with_firsts=False)
        frames = ConvolutionStates(self.contexts, [state for (state,) in states[count:]])
        with put_back(self.network), frames if self.contexts else contextlib.nullcontext():
            result = calls.run(run, args, kwargs)

        lasts = calls.lasts or [_tensors_in(result)]
        for call, fold in self.folds.items():
            lasts[call] = tuple(map(fold.split, lasts[call]))
        return result, [*lasts, *((last,) for last in frames.lasts)]

    def first_states(self, states: Sequence[States]) -> dict[int, Firsts]:
        """The states of lifted calls as the network has them, by call; others are left out."""
        firsts: dict[int, Firsts] = {}
        for call, given in zip(self.lifted, states, strict=False):
            fold = self.folds.get(call)
            joined = given if fold is None else tuple(map(fold.join, given))
            firsts[call] = at_positions(joined, self.parts.get(call, range(len(joined))))
        return firsts


def at_positions(states: Sequence[Tensor], positions: Sequence[int]) -> Firsts:
    """States at their positions among those of a call, with None for the others before them."""
    placed: list[Tensor | None] = [None] * (max(positions) + 1)
    for position, state in zip(positions, states, strict=True):
        placed[position] = state
    return tuple(placed)


def _tensors_in(tree: Any) -> States:
    return tuple(instances_of(Tensor, pytree.tree_leaves(tree)))


@contextlib.contextmanager
def put_back(network: nn.Module) -> Iterator[None]:
    """Gives attributes and buffers that are changed inside their former values back.

    Inside, modules have copies of what may be changed in place: what the network returns may be one
    of these.
    """
    modules = [m for m in network.modules() if not isinstance(m, torch.jit.ScriptModule)]
    saved = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    contents = _copy_contents(network)
    copies: dict[int, Any] = {}
    for module in modules:
        vars(module).update(copied_attributes(module, copies))

    try:
        yield
    finally:
        for module, attributes, buffers in saved:
            _replace_all(vars(module), attributes)
            _replace_all(module._buffers, buffers)

        for buffer, content in contents:
            if not torch.equal(buffer, content):
                buffer.copy_(content)


def _copy_contents(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The buffers, each with a copy of its content; none while PyTorch exports the network."""
    if torch.compiler.is_exporting():
        return []

    return [(buffer, buffer.clone()) for buffer in network.buffers()]


def _replace_all(mapping: dict[str, Any], items: Mapping[str, Any]) -> None:
    mapping.clear()
    mapping.update(items)


class Calls(TorchFunctionMode):
    """Sees the calls of recurrent functions: `firsts` and `lasts` hold their states.

    `replaced` has first states by the number of the call, which gets them in place of the
    network's; None leaves the network's. The rows of states keep their order, also where packing
    sorts the data. With `cut`, unpacking gives as many steps as the longest row has. Without
    `with_firsts`, `firsts` is empty but while PyTorch exports.
    """

    def __init__(
        self, replaced: Mapping[int, Firsts], *, cut: bool = False, with_firsts: bool = True
    ) -> None:
        super().__init__()
        self.replaced = replaced
        self._with_firsts = with_firsts
        self.packs = Packs(cut)
        self.firsts: list[States] = []
        self.lasts: list[States] = []

    def run(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Calls a network; packed sequences among its arguments and results are padded."""
        with self:
            args, kwargs = packed_arguments((args, kwargs))
            return self.packs.padded_results(function(*args, **kwargs))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        if func not in _SEEN:
            return func(*args, **kwargs) if kwargs else func(*args)

        if func is scan:
            return self._run_loop(*args)
        if func in LOOPS:
            return run_as_loop(func, self._run_step, *args, **with_dim(kwargs or {}))
        if func in (PACK, PAD):
            return self.packs.run(func, args)
        if func in LAYERS:
            return self._run_layer(func, args, kwargs or {})
        return self._run_cell(func, args, kwargs or {})

    def _run_layer(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Runs a layer on (x, hx, ...), or packed data on (data, batch_sizes, hx, ...)."""
        position = 2 if is_packed(args) else 1
        batch_sizes = args[position - 1]  # x where nothing is packed, which no packing made
        result = self._run_from_first(func, args, kwargs, position)
        self.lasts.append(self.packs.unsort(tuple(result[1:]), batch_sizes))
        return result

    def _run_cell(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Runs one step of a cell on (x, hx, ...)."""
        result = self._run_from_first(func, args, kwargs, position=1)
        self.lasts.append(_as_tuple(result))
        return result

    def _run_from_first(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        position: int,
    ) -> Any:
        """Runs a function whose first state, at `position`, may be replaced, and records that."""
        hx, batch_sizes = args[position], args[position - 1]
        own = _as_tuple(hx)
        first: Any = own
        if len(self.lasts) in self.replaced:
            in_order = self.packs.unsort(own, batch_sizes)
            first = self._first_of(in_order)
            _check_shapes(in_order, first)
            first = self.packs.sort(first, batch_sizes)
        if isinstance(hx, Tensor):
            (first,) = first

        result = func(*args[:position], first, *args[position + 1 :], **kwargs)
        self._record_first(own, batch_sizes)
        return result

    def _run_loop(
        self, body: Body, own: States, sequences: Sequence[Tensor], invariants: Sequence[Tensor]
    ) -> States:
        first = self._first_of(own)
        result = scan(body, first, sequences, invariants)

        self._record_first(tuple(own), None)
        self.lasts.append(tuple(result[: len(own)]))
        return result

    def _first_of(self, own: States) -> States:
        """The first states of the next call: those that are replaced, and the network's own."""
        replaced = self.replaced.get(len(self.lasts), ())
        pairs = itertools.zip_longest(own, replaced)
        return tuple(mine if given is None else given for mine, given in pairs)

    def _run_step(self, body: Body, first: Tensor, slices: Tensor) -> Tensor:
        """The values of a running maximum or the like, which runs as a loop."""
        _, values = self._run_loop(body, (first,), [slices], [])
        return values

    def _record_first(self, own: States, batch_sizes: Any) -> None:
        # A buffer that is updated in place must not change what is recorded.
        if not torch.compiler.is_exporting():
            if not self._with_firsts:
                return
            own = tuple(state.clone() for state in own)
        self.firsts.append(self.packs.unsort(own, batch_sizes))


def _check_shapes(own: States, first: States) -> None:
    """Refuses first states of other shapes, which PyTorch's kernels do not always check.

    An LSTM with fewer rows of state than of data ends the process.

    Raises:
        ValueError: a shape differs.
    """
    if torch.compiler.is_exporting():
        return

    for mine, given in zip(own, first, strict=True):
        if mine.shape != given.shape:
            raise ValueError(
                f"A layer got a first state of shape {tuple(given.shape)}, and its own one has "
                f"shape {tuple(mine.shape)}."
            )


def _as_tuple(states: Tensor | Sequence[Tensor]) -> States:
    return (states,) if isinstance(states, Tensor) else tuple(states)

"""A module whose recurrent states are all in the open: arguments and results.

Many networks call their LSTM without a state, or build one inside `forward`, and drop what comes
back. `Explicit` runs the network as it is, sees every call of a recurrent function on the way, and
can hand it another first state. The exported graph and PyTorch's recorded answers both come from
it, so they mean the same thing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .convolution_steps import Context, ConvolutionStates
from .packing import PACK, PAD, Packs, is_packed, packed_arguments
from .program import Body
from .scan import scan

States = tuple[Tensor, ...]

#: The functions that PyTorch's recurrent layers end in: (x, hx, weights, ...) -> y and last states.
LAYERS: Final = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
#: And its cells: (x, hx, w_ih, w_hh, b_ih, b_hh) -> last states.
CELLS: Final = (torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)


class Explicit(nn.Module):
    """Runs a network; gives the calls in `lifted` their first states, returns all last ones.

    What the network keeps in attributes and buffers from call to call is put back afterwards, so
    every run starts from the network as it was. `method` is what is run. `lifted` are numbers of
    calls of recurrent functions, in the order in which forward makes them. The states of a call
    stand together: (h, c) for an LSTM, (h,) for a GRU or RNN. Behind them stand the steps that
    `contexts` get from the call before.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str = "forward",
        lifted: Sequence[int] = (),
        contexts: Sequence[Context] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.method = method
        self.lifted = tuple(lifted)
        self.contexts = tuple(contexts)

    def forward(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], states: Sequence[States]
    ) -> tuple[Any, list[States]]:
        """The network's own result, and the last states of every call and of all contexts.

        Without any call, the network may be one step itself: its results stand again as states.
        """
        run = self.network if self.method == "forward" else getattr(self.network, self.method)
        count = len(self.lifted)
        calls = Calls(dict(zip(self.lifted, states[:count], strict=True)))
        frames = ConvolutionStates(self.contexts, [state for (state,) in states[count:]])
        with put_back(self.network), frames if self.contexts else contextlib.nullcontext():
            result = calls.run(run, args, kwargs)
        tensors = (leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
        lasts = calls.lasts or [tuple(tensors)]
        return result, [*lasts, *((last,) for last in frames.lasts)]


@contextlib.contextmanager
def put_back(network: nn.Module) -> Iterator[None]:
    """Attributes and buffers that are given new values get their old ones back."""
    saved = [
        (
            module,
            {k: v if k.startswith("_") else _shell(v) for k, v in vars(module).items()},
            dict(module._buffers),
        )
        for module in network.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    contents = [] if torch.compiler.is_exporting() else [(b, b.clone()) for b in network.buffers()]
    try:
        yield
    finally:
        for module, attributes, buffers in saved:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for buffer, content in contents:
            if not torch.equal(buffer, content):
                buffer.copy_(content)


def _shell(value: Any) -> Any:
    """A list or dict of its own, with the same things in it; anything else as it is."""
    return type(value)(value) if type(value) in (list, dict, set) else value


class Calls(TorchFunctionMode):
    """Sees the calls of recurrent functions: `firsts` and `lasts` hold their states.

    `given` replaces the first states of the calls with these numbers. States stand in the rows' own
    order, also where packing sorted them. With `cut`, unpacking is as long as the longest row.
    """

    def __init__(self, given: Mapping[int, States], *, cut: bool = False) -> None:
        super().__init__()
        self.given = given
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
        if func is scan:
            return self._loop(*args)
        if func in (PACK, PAD):
            return self.packs.run(func, args)
        if func not in LAYERS + CELLS:
            return func(*args, **(kwargs or {}))
        at = 2 if func in LAYERS and is_packed(args) else 1  # behind batch_sizes, or x
        before, hx, rest = args[:at], args[at], args[at + 1 :]
        batch_sizes = before[-1]
        number = len(self.lasts)
        own = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        first: Any = own
        if number in self.given:
            first = self.packs.sort(self.given[number], batch_sizes)
        if isinstance(hx, Tensor):
            (first,) = first
        result = func(*before, first, *rest, **(kwargs or {}))
        self._start(own, batch_sizes)
        if func in LAYERS:
            self.lasts.append(self.packs.unsort(tuple(result[1:]), batch_sizes))
        else:
            self.lasts.append((result,) if isinstance(result, Tensor) else tuple(result))
        return result

    def _loop(
        self, body: Body, own: States, sequences: Sequence[Tensor], invariants: Sequence[Tensor]
    ) -> States:
        first = self.given.get(len(self.lasts), own)
        result = scan(body, first, sequences, invariants)
        self._start(tuple(own), None)
        self.lasts.append(tuple(result[: len(own)]))
        return result

    def _start(self, own: States, batch_sizes: Any) -> None:
        if not torch.compiler.is_exporting():  # or a buffer that is updated in place would show
            own = tuple(state.clone() for state in own)
        self.firsts.append(self.packs.unsort(own, batch_sizes))

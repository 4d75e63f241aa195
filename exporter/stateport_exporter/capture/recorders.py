"""Calls of recurrent layers, recorded as opaque nodes while a network is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..memory.kept import unchanged_shared
from ..network.packing import Lengths, check_lengths, intercept, is_packed, traceable
from ..network.program import Body
from ..network.scan import scan

DOMAIN: Final = "stateport.torch"


class _RecurrentLayers(TorchFunctionMode):
    """Records calls of PyTorch's recurrent functions as opaque nodes.

    `nn.LSTM.forward` and everything built on it end in `torch.lstm`; its own checks, batch-first
    handling and unbatched inputs have been dealt with by then, in PyTorch's own code. Calls are
    numbered, which also keeps PyTorch's exporter from merging two that are alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.loops: dict[int, Loop] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # the protocol's signature
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        record = _RECORDERS.get(func)
        if func is scan:
            self.count += 1
            return self._record_loop(self.count - 1, *args)
        if record is None:
            result = intercept(func, args)
            return func(*args, **(kwargs or {})) if result is NotImplemented else result
        self.count += 1
        return record(self.count - 1, *args, **(kwargs or {}))

    def _record_loop(
        self,
        call: int,
        body: Body,
        states: Sequence[Tensor],
        sequences: Sequence[Tensor],
        invariants: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """One opaque node: first states, sequences, the rest -> last states, stacked outputs."""
        slices = [sequence[0] for sequence in sequences]
        _, outputs = body.step(states, slices, invariants)  # for what they look like
        self.loops[call] = Loop(
            body, [_TensorSignature.of(x) for x in (*states, *slices, *invariants)]
        )
        time = sequences[0].shape[0]
        results: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::LOOP",
            (*states, *sequences, *invariants),
            attrs={
                "call": call,
                "states": len(states),
                "sequences": len(sequences),
                "path": body.path,
            },
            dtypes=[x.dtype for x in (*states, *outputs)],
            shapes=(*(x.shape for x in states), *((time, *x.shape) for x in outputs)),
            version=1,
        )
        return tuple(results)


@dataclass(frozen=True)
class _TensorSignature:
    """A tensor's sizes while it was traced, which of them are dynamic, and its dtype."""

    shape: tuple[int, ...]
    dynamic: tuple[bool, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> _TensorSignature:
        """What a traced tensor is like."""
        sizes = [size if isinstance(size, int) else size.node.hint for size in tensor.shape]
        dynamic = tuple(not isinstance(size, int) for size in tensor.shape)
        return cls(tuple(sizes), dynamic, tensor.dtype)


@dataclass(frozen=True)
class Loop:
    """A loop over time: its step, and what goes into that."""

    body: Body
    operands: Sequence[_TensorSignature]


def _record(
    call: int,
    kind: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """One opaque node: x, first states, PyTorch's flat weights, lengths -> y and last states."""
    y_features = states[0].shape[-1] * (2 if bidirectional else 1)
    results: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{kind}",
        (x, *states, *weights, *([] if lengths is None else [lengths])),
        attrs={
            "call": call,
            "num_layers": num_layers,
            "bidirectional": int(bidirectional),
            "batch_first": int(batch_first),
            "has_biases": int(has_biases),
            "has_lengths": int(lengths is not None),
        },
        dtypes=[x.dtype] * (1 + len(states)),
        shapes=((*x.shape[:2], y_features), *(state.shape for state in states)),
        version=1,
    )
    return tuple(results)


def _recorder(kind: str) -> Callable[..., Any]:
    """Takes the arguments of torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu."""

    def record(call: int, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return (record_packed if is_packed((x, *rest)) else record_padded)(call, x, *rest)

    def record_packed(
        call: int,
        data: Tensor,
        lengths: Lengths,
        hx: Sequence[Tensor] | Tensor,
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,  # noqa: ARG001  # evaluation mode: no dropout
        train: bool,  # noqa: ARG001
        bidirectional: bool,
    ) -> tuple[Tensor, ...]:
        check_lengths(lengths)
        states = [hx] if isinstance(hx, Tensor) else hx
        y, *last = _record(
            call,
            kind,
            lengths.split(data),
            states,
            weights,
            has_biases,
            num_layers,
            bidirectional,
            batch_first=False,
            lengths=lengths.rows,
        )
        return y.flatten(0, 1), *last

    def record_padded(
        call: int,
        x: Tensor,
        hx: Sequence[Tensor] | Tensor,
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,  # noqa: ARG001  # evaluation mode: no dropout
        train: bool,  # noqa: ARG001
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        states = [hx] if isinstance(hx, Tensor) else hx
        return _record(
            call, kind, x, states, weights, has_biases, num_layers, bidirectional, batch_first
        )

    return record


def _cell_recorder(kind: str) -> Callable[..., Any]:
    """Takes the arguments of torch.lstm_cell and its siblings: a layer of one step.

    Shapes: x (batch, input), each state (batch, hidden), as each result.
    """

    def record(
        call: int,
        x: Tensor,
        hx: Sequence[Tensor] | Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        states = [hx[None]] if isinstance(hx, Tensor) else [state[None] for state in hx]
        weights = [w for w in (w_ih, w_hh, b_ih, b_hh) if w is not None]
        _, *last = _record(call, kind, x[None], states, weights, b_ih is not None, 1, False, False)
        return last[0][0] if isinstance(hx, Tensor) else tuple(state[0] for state in last)

    return record


_RECORDERS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    torch.lstm: _recorder("LSTM"),
    torch.gru: _recorder("GRU"),
    torch.rnn_tanh: _recorder("RNN_TANH"),
    torch.rnn_relu: _recorder("RNN_RELU"),
    torch.lstm_cell: _cell_recorder("LSTM"),
    torch.gru_cell: _cell_recorder("GRU"),
    torch.rnn_tanh_cell: _cell_recorder("RNN_TANH"),
    torch.rnn_relu_cell: _cell_recorder("RNN_RELU"),
}


@contextlib.contextmanager
def opaque_layers(network: nn.Module) -> Iterator[Mapping[int, Loop]]:
    """Recurrent layers are opaque nodes inside; gives the loops by the number of the call."""
    with unchanged_shared(network), _RecurrentLayers() as layers, traceable(network):
        yield layers.loops

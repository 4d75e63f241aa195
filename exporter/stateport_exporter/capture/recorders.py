# SPDX-License-Identifier: Apache-2.0
"""Calls of recurrent layers, recorded as opaque nodes while a network is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stateport.picking import present

from ..memory.kept import unchanged_shared
from ..network.number import pad_by_numbers
from ..network.packing import Lengths, check_lengths, intercept, is_packed, traceable
from ..network.program import Body
from ..network.scan import scan
from .attention import attention
from .distances import cdist
from .kronecker import kron
from .pooling import max_pool1d
from .products import product
from .sliding_blocks import sliding_blocks
from .take_along import take_along_dim

DOMAIN: Final = "stateport.torch"


class _RecurrentLayers(TorchFunctionMode):
    """Records calls of PyTorch's recurrent functions as opaque nodes.

    `nn.LSTM.forward` and all that is built on it call `torch.lstm` in the end. PyTorch's Python
    code has then dealt with checks and unbatched inputs. Calls are numbered, which also keeps
    PyTorch's exporter from merging two that are alike.
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
        """The protocol of `TorchFunctionMode`."""
        if func is scan:
            return self._record_loop(self._next_call(), *args)

        rewrite = _REWRITTEN.get(func)
        if rewrite is not None:
            return rewrite(*args, **(kwargs or {}))

        record = _RECORDERS.get(func)
        if record is not None:
            return record(self._next_call(), *args, **(kwargs or {}))

        result = intercept(func, args)
        if result is NotImplemented:
            return func(*args, **(kwargs or {}))
        return result

    def _next_call(self) -> int:
        self.count += 1
        return self.count - 1

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
        _, outputs = body.step(states, slices, invariants)  # for their shapes and dtypes
        operands = [*map(TensorSignature.of, (*states, *slices, *invariants))]
        self.loops[call] = Loop(body, operands)

        time = sequences[0].shape[0]
        dtypes = [x.dtype for x in (*states, *outputs)]
        results: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::LOOP",
            (*states, *sequences, *invariants),
            attrs={
                "call": call,
                "states": len(states),
                "sequences": len(sequences),
                "path": body.path,
                "stacks": body.stacked_states() or [-1],
            },
            dtypes=dtypes,
            shapes=(*(x.shape for x in states), *((time, *x.shape) for x in outputs)),
            version=1,
        )
        return tuple(results)


@dataclass(frozen=True)
class TensorSignature:
    """A tensor's sizes while it was traced, which of them are dynamic, and its dtype."""

    shape: tuple[int, ...]
    dynamic: tuple[bool, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSignature:
        """The signature of a traced tensor."""
        sizes = [size if isinstance(size, int) else size.node.hint for size in tensor.shape]
        dynamic = tuple(not isinstance(size, int) for size in tensor.shape)
        return cls(tuple(sizes), dynamic, tensor.dtype)


@dataclass(frozen=True)
class Loop:
    """A loop over time: its step, and the signatures of the step's operands."""

    body: Body
    operands: Sequence[TensorSignature]


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
    optional = [] if lengths is None else [lengths]

    results: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{kind}",
        (x, *states, *weights, *optional),
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
    """A function that takes the arguments of torch.lstm, torch.gru, torch.rnn_tanh or rnn_relu."""

    def record(call: int, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        if is_packed((x, *rest)):
            return record_packed(call, x, *rest)
        return record_padded(call, x, *rest)

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
    """A function that takes the arguments of torch.lstm_cell or a sibling: a layer of one step.

    Shapes: x (batch, input); states and results (batch, hidden).
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

        weights = present((w_ih, w_hh, b_ih, b_hh))

        _, *last = _record(call, kind, x[None], states, weights, b_ih is not None, 1, False, False)
        if isinstance(hx, Tensor):
            return last[0][0]
        return tuple(state[0] for state in last)

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


#: Functions that PyTorch's exporter writes for some arrays alone -> the same in other functions.
_REWRITTEN: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    F.pad: pad_by_numbers,
    F.unfold: sliding_blocks,
    F.scaled_dot_product_attention: attention,
    F.max_pool1d: max_pool1d,
    torch.max_pool1d: max_pool1d,
    torch.cdist: cdist,
    **dict.fromkeys((torch.kron, Tensor.kron), kron),
    **dict.fromkeys((torch.take_along_dim, Tensor.take_along_dim), take_along_dim),
    **dict.fromkeys((torch.matmul, torch.mv), product),
    **dict.fromkeys((Tensor.__matmul__, Tensor.matmul, Tensor.mv), product),
}


@contextlib.contextmanager
def opaque_layers(network: nn.Module) -> Iterator[Mapping[int, Loop]]:
    """Records recurrent layers as opaque nodes; gives the loops by the number of the call."""
    with unchanged_shared(network), _RecurrentLayers() as layers, traceable(network):
        yield layers.loops

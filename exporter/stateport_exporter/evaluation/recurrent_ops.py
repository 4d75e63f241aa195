# SPDX-License-Identifier: Apache-2.0
"""ONNX's LSTM, GRU and RNN in NumPy, for onnx's reference: with all attributes and inputs.

The formulas are those of https://onnx.ai/onnx/operators/. onnx's own implementations (1.23) ignore
`sequence_lens`, and of LSTM and GRU the attributes `activations`, `clip` and `input_forget`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import starmap
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[Any]
Activation = Callable[[Array], Array]


#: One step: (x, *states, w, r, b, peepholes) -> the next states, the hidden state first.
Step = Callable[..., list[Array]]


class _Recurrent(OpRun):
    """What the three have in common: directions, lengths, and the loop over time."""

    kind: str
    defaults: tuple[str, ...]

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        lengths: Array | None = None,
        *rest: Array | None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        if attributes.get("layout"):
            raise NotImplementedError("layout=1 is not written by any exporter that is known")

        steps, batch = x.shape[:2]
        if lengths is None:
            lengths = np.full(batch, steps)
        if b is None:
            b = np.zeros((len(w), 2 * w.shape[1]), x.dtype)
        no_state = np.zeros((len(w), batch, r.shape[-1]), x.dtype)
        first_states, peepholes = self._states_and_peepholes(rest, no_state)

        directions = []
        for number in range(len(w)):
            step = self._step(number, attributes)
            peephole = None if peepholes is None else peepholes[number]
            weights = (w[number], r[number], b[number], peephole)
            backward = attributes.get("direction") == "reverse" or number == 1
            states = [state[number] for state in first_states]
            directions.append(_over_time(step, x, weights, states, lengths, backward=backward))

        ys, *lasts = zip(*directions, strict=True)
        results = [np.stack(ys, axis=1), *map(np.stack, lasts)]
        return tuple(results[: max(1, len(self.onnx_node.output))])

    def _states_and_peepholes(
        self, operands: Sequence[Array | None], no_state: Array
    ) -> tuple[list[Array], Array | None]:
        """The operands after the lengths, which may be left out: first states, then peepholes."""
        count = 2 if self.kind == "LSTM" else 1
        padded = [*operands, *[None] * (count + 1)]
        states = [no_state if state is None else state for state in padded[:count]]
        peepholes = padded[count] if self.kind == "LSTM" else None
        return states, peepholes

    def _step(self, number: int, attributes: dict[str, Any]) -> Step:
        """One step of a direction, with that direction's activations."""
        count = len(self.defaults)
        own = slice(number * count, (number + 1) * count)
        names = attributes.get("activations") or [*self.defaults] * 2
        alphas = list(attributes.get("activation_alpha") or [None] * len(names))
        betas = list(attributes.get("activation_beta") or [None] * len(names))

        choices = zip(names[own], alphas[own], betas[own], strict=False)
        functions = [*starmap(_activation, choices)]
        return _STEPS[self.kind](functions, attributes)


class LSTM(_Recurrent):
    """`LSTM` of the standard domain."""

    op_domain = ""
    kind = "LSTM"
    defaults = ("Sigmoid", "Tanh", "Tanh")


class GRU(_Recurrent):
    """`GRU` of the standard domain."""

    op_domain = ""
    kind = "GRU"
    defaults = ("Sigmoid", "Tanh")


class RNN(_Recurrent):
    """`RNN` of the standard domain."""

    op_domain = ""
    kind = "RNN"
    defaults = ("Tanh",)


OPERATORS: Final = (LSTM, GRU, RNN)


def _over_time(
    step: Step,
    x: Array,
    weights: Sequence[Array | None],
    states: list[Array],
    lengths: Array,
    *,
    backward: bool,
) -> tuple[Array, ...]:
    """One direction: the output at every step, and the last states.

    Every row ends after its length; the output after that is zero.
    """
    y = np.zeros((*x.shape[:2], states[0].shape[-1]), x.dtype)
    rows = np.arange(x.shape[1])
    for time in range(len(x)):
        live = time < lengths
        at = np.full(len(rows), time)
        if backward:
            at = np.where(live, lengths - 1 - time, 0)

        after = step(x[at, rows], *states, *weights)
        states = [np.where(live[:, None], new, old) for new, old in zip(after, states, strict=True)]
        y[at[live], rows[live]] = states[0][live]
    return (y, *states)


def _lstm(functions: Sequence[Activation], attributes: dict[str, Any]) -> Step:
    f, g, h = functions
    clip = _clip(attributes)
    coupled = bool(attributes.get("input_forget"))

    def step(x: Array, hidden: Array, cell: Array, w: Array, r: Array, b: Array, p: Any) -> Any:
        gates = x @ w.T + hidden @ r.T + b[: len(w)] + b[len(w) :]
        i, o, forget, c = np.split(gates, 4, -1)
        p_i, p_o, p_f = (0.0, 0.0, 0.0) if p is None else np.split(p, 3)

        i = f(clip(i + p_i * cell))
        forget = 1 - i if coupled else f(clip(forget + p_f * cell))
        after = forget * cell + i * g(clip(c))
        # ONNX Runtime clips the gates, not the cell.
        return [f(clip(o + p_o * after)) * h(after), after]

    return step


def _gru(functions: Sequence[Activation], attributes: dict[str, Any]) -> Step:
    f, g = functions
    clip = _clip(attributes)
    reset_after = bool(attributes.get("linear_before_reset"))

    def step(x: Array, hidden: Array, w: Array, r: Array, b: Array, p: Any) -> Any:  # noqa: ARG001
        x_z, x_r, x_h = np.split(x @ w.T, 3, -1)
        r_z, r_r, r_h = np.split(r, 3)
        b_z, b_r, b_h, c_z, c_r, c_h = np.split(b, 6)

        z = f(clip(x_z + hidden @ r_z.T + b_z + c_z))
        reset = f(clip(x_r + hidden @ r_r.T + b_r + c_r))
        inner = reset * (hidden @ r_h.T + c_h) if reset_after else (reset * hidden) @ r_h.T + c_h
        return [(1 - z) * g(clip(x_h + inner + b_h)) + z * hidden]

    return step


def _rnn(functions: Sequence[Activation], attributes: dict[str, Any]) -> Step:
    (f,) = functions
    clip = _clip(attributes)

    def step(x: Array, hidden: Array, w: Array, r: Array, b: Array, p: Any) -> Any:  # noqa: ARG001
        return [f(clip(x @ w.T + hidden @ r.T + b[: len(w)] + b[len(w) :]))]

    return step


_STEPS: Final = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def _clip(attributes: dict[str, Any]) -> Activation:
    limit = attributes.get("clip")
    if not limit:
        return lambda array: array
    return lambda array: np.clip(array, -limit, limit)


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    if name not in _ACTIVATIONS:
        raise NotImplementedError(f"the activation {name!r}")

    default_alpha, default_beta, function = _ACTIVATIONS[name]
    a = default_alpha if alpha is None else alpha
    b = default_beta if beta is None else beta
    return lambda x: function(x, a, b)


#: Name -> the defaults of alpha and beta, and the function of x and both.
_ACTIVATIONS: Final[dict[str, tuple[float, float, Callable[..., Array]]]] = {
    "Sigmoid": (0.0, 0.0, lambda x, *_: 1 / (1 + np.exp(-x))),
    "Tanh": (0.0, 0.0, lambda x, *_: np.tanh(x)),
    "Relu": (0.0, 0.0, lambda x, *_: np.maximum(x, 0)),
    "Affine": (1.0, 0.0, lambda x, a, b: a * x + b),
    "LeakyRelu": (0.01, 0.0, lambda x, a, *_: np.where(x < 0, a * x, x)),
    "ThresholdedRelu": (1.0, 0.0, lambda x, a, *_: np.where(x > a, x, 0)),
    "ScaledTanh": (1.0, 1.0, lambda x, a, b: a * np.tanh(b * x)),
    "HardSigmoid": (0.2, 0.5, lambda x, a, b: np.clip(a * x + b, 0, 1)),
    "Elu": (1.0, 0.0, lambda x, a, *_: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x)),
    "Softsign": (0.0, 0.0, lambda x, *_: x / (1 + np.abs(x))),
    "Softplus": (0.0, 0.0, lambda x, *_: np.logaddexp(0, x)),
}

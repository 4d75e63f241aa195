"""The LSTM cell from its equations, in NumPy: a witness that shares no code with any framework.

One step takes the input x, the hidden state h and the cell state c. The three gates and the
candidate look at the concatenation of hidden state and input (Gers, Schmidhuber and Cummins,
"Learning to Forget", 2000):

    z  = [h, x]
    i  = sigmoid(W_i z + b_i)       input gate: how much of the candidate goes in
    f  = sigmoid(W_f z + b_f)       forget gate: how much of the old cell stays
    o  = sigmoid(W_o z + b_o)       output gate: how much of the cell is shown
    g  = tanh   (W_g z + b_g)       candidate
    c' = f * c + i * g
    h' = o * tanh(c')
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """The weights of one layer. Each W is (hidden, hidden + input), each b is (hidden,)."""

    w_i: Array
    w_f: Array
    w_o: Array
    w_g: Array
    b_i: Array
    b_f: Array
    b_o: Array
    b_g: Array

    @classmethod
    def from_pytorch(cls, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> Cell:
        """From PyTorch's layout: the gates i, f, g, o stacked, and two biases that are added.

        Shapes: w_ih (4 * hidden, input), w_hh (4 * hidden, hidden), b_ih and b_hh (4 * hidden,).
        """
        w = np.concatenate([w_hh, w_ih], axis=1).astype(np.float64)
        b = b_ih.astype(np.float64) + b_hh.astype(np.float64)
        (w_i, w_f, w_g, w_o), (b_i, b_f, b_g, b_o) = np.split(w, 4), np.split(b, 4)
        return cls(w_i, w_f, w_o, w_g, b_i, b_f, b_o, b_g)

    def step(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """One step: x (batch, input), h and c (batch, hidden) -> the next h and c."""
        z = np.concatenate([h, x], axis=1)
        i = sigmoid(z @ self.w_i.T + self.b_i)
        f = sigmoid(z @ self.w_f.T + self.b_f)
        o = sigmoid(z @ self.w_o.T + self.b_o)
        g = np.tanh(z @ self.w_g.T + self.b_g)
        c = f * c + i * g
        return o * np.tanh(c), c

    def run(self, x: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
        """All steps: x (batch, time, input) -> y (batch, time, hidden), and the last h and c."""
        ys = []
        for t in range(x.shape[1]):
            h, c = self.step(x[:, t], h, c)
            ys.append(h)
        return np.stack(ys, axis=1), h, c


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), through tanh so that a large negative `a` does not overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * a))

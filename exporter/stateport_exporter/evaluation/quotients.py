# SPDX-License-Identifier: Apache-2.0
"""Sigmoid and tanh of float32 as ONNX Runtime computes them: by quotients of polynomials.

Its sigmoid is 0.5 plus such a quotient. So it is off by a unit in the last place of 0.5 wherever it
is, which is much for a probability of 0.0003.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


class Quotient(NamedTuple):
    """An odd polynomial over an even one, within [-end, end].

    Attributes:
        odd: the coefficients of x^1, x^3 ..., the highest power first.
        even: the coefficients of x^0, x^2 ..., the highest power first.
        end: where the function is as good as constant.
    """

    odd: tuple[float, ...]
    even: tuple[float, ...]
    end: float

    def of(self, x: Float32) -> Float32:
        """Its values, of numbers of any shape."""
        x = np.clip(x, np.float32(-self.end), np.float32(self.end))
        square = x * x
        result: Float32 = x * _polynomial(square, self.odd) / _polynomial(square, self.even)
        return result


# Eigen's plogistic and generic_fast_tanh_float, which ONNX Runtime computes in
# mlas/lib/logistic.cpp and tanh.cpp.
_SIGMOID: Final = Quotient(
    (
        *(4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05),
        *(8.51377133304701e-03, 2.48287947061529e-01),
    ),
    (
        *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06),
        *(1.70198817374094e-03, 1.16817656904453e-01, 9.93151921023180e-01),
    ),
    18.0,
)
_TANH: Final = Quotient(
    (
        *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11),
        *(5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04),
        4.89352455891786e-03,
    ),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
    9.0,
)


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """The logistic function, of numbers of any shape; of those in float32 as engines compute it."""
    if x.dtype == np.float32:
        of_engine: Float32 = np.maximum(_SIGMOID.of(x) + np.float32(0.5), np.float32(0.0))
        return of_engine
    decay = np.exp(-np.abs(x))
    logistic: NDArray[Any] = np.where(x >= 0, 1.0, decay) / (1.0 + decay)
    return logistic.astype(x.dtype)


def tanh(x: NDArray[Any]) -> NDArray[Any]:
    """The hyperbolic tangent, of numbers of any shape; in float32 as engines compute it."""
    result: NDArray[Any] = _TANH.of(x) if x.dtype == np.float32 else np.tanh(x)
    return result


def _polynomial(x: Float32, coefficients: Sequence[float]) -> Float32:
    value: Float32 = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value

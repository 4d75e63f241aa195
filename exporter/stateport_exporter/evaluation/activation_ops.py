# SPDX-License-Identifier: Apache-2.0
"""ONNX's Sigmoid and Tanh for onnx's reference, as engines compute them in float32.

They are for the error of float32 alone: in float64, onnx's own are exact.
"""

from __future__ import annotations

from typing import Any, Final

from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from .quotients import sigmoid, tanh

Array = NDArray[Any]


class Sigmoid(OpRun):
    """`Sigmoid` of the standard domain."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        """The logistic function of x, of any shape."""
        return (sigmoid(x),)


class Tanh(OpRun):
    """`Tanh` of the standard domain."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        """The hyperbolic tangent of x, of any shape."""
        return (tanh(x),)


OPERATORS: Final = (Sigmoid, Tanh)

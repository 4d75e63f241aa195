# SPDX-License-Identifier: Apache-2.0
"""Files that a quantiser wrote: operators that round values to integers in each call.

How they round depends on all values of a call, so that chunks are not exactly parts of the whole,
and a call in float64 is not exactly one in float32. Such files are judged as int8: by the ratio of
signal to noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: The largest difference of chunks and the whole, as a share of the whole, both as root mean
#: squares: 25 dB, as for int8.
ROUNDED: Final = 10 ** (-25 / 20)
#: Operators that round what they are given, of ONNX and of ONNX Runtime.
_ROUND: Final = frozenset(
    {"DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"}
    | {"QAttention", "QGemm", "QLinearAdd", "QLinearConv", "QLinearMatMul", "QLinearMul"}
    | {"QuantizeLinear"}
)


def rounds(operators: Iterable[str]) -> bool:
    """Whether one of these operators, "QGemm" or "com.microsoft::QGemm", rounds to integers."""
    return any(operator.rpartition("::")[2] in _ROUND for operator in operators)

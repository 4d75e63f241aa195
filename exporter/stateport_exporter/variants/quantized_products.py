# SPDX-License-Identifier: Apache-2.0
"""How the product of a value and stored weights is written in ONNX Runtime's 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..graph.operators import Operators

Array = NDArray[Any]

#: Writes x @ matrix + bias: (ops, x, matrix (in, out), bias (out,) or None, name) -> value.
Product = Callable[[Operators, ir.Value, Array, Array | None, str], ir.Value]

#: The domain of ONNX Runtime's own operators.
MICROSOFT: Final = "com.microsoft"
#: The largest weight in int8. ONNX Runtime multiplies values of 0 to 255 by weights and, on x86
#: processors without VNNI, adds pairs of products in 16 bits, which saturate: vpmaddubsw in
#: https://www.intel.com/content/www/us/en/docs/intrinsics-guide/index.html. 2 * 255 * 64 is the
#: largest pair that fits, so products with weights up to 64 are right on every processor. That
#: costs one of their bits.
LARGEST_INT8: Final = 64
#: The number of weights of a column that share a scale in `MatMulNBits`. With fewer, the error is
#: smaller and the scales take more room.
BLOCK: Final = 32


def int8(ops: Operators, x: ir.Value, matrix: Array, bias: Array | None, name: str) -> ir.Value:
    """A product with weights in int8 and a scale per column. Each call quantises `x` to uint8.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md,
    DynamicQuantizeMatMul.
    """
    weights, scale = quantized(matrix)

    operands: list[ir.Value | None] = [
        x,
        ops.constant(weights, f"{name}.int8"),
        ops.constant(scale, f"{name}.scale"),
        None,
        None if bias is None else ops.constant(bias, f"{name}.B"),
    ]

    return ops.own_ops("DynamicQuantizeMatMul", operands, 1)[0]


def quantized(matrix: Array) -> tuple[Array, Array]:
    """Returns a float32 matrix (..., in, out) as int8, and the scale of each column (..., out).

    No weight is larger than `LARGEST_INT8`.
    """
    largest = np.abs(matrix).max(axis=-2, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LARGEST_INT8)
    weights = np.clip(np.rint(matrix / scale), -LARGEST_INT8, LARGEST_INT8).astype(np.int8)
    return weights, scale[..., 0, :]


def blockwise(bits: int) -> Product:
    """A product with weights in 8 or 4 bits and a scale for every `BLOCK` weights of a column.

    Values stay float32.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md,
    MatMulNBits.
    """

    def product(
        ops: Operators, x: ir.Value, matrix: Array, bias: Array | None, name: str
    ) -> ir.Value:
        weights, scale = packed(matrix, bits)
        stored_weights = ops.constant(weights, f"{name}.{bits}bits")
        stored_scale = ops.constant(scale, f"{name}.scale")
        (y,) = ops.own_ops(
            "MatMulNBits",
            [x, stored_weights, stored_scale],
            1,
            K=matrix.shape[0],
            N=matrix.shape[1],
            bits=bits,
            block_size=BLOCK,
            accuracy_level=4,  # it may multiply in int8, which makes it fast
        )

        if bias is None:
            return y
        return ops.op("Add", [y, ops.constant(bias, f"{name}.B")])

    return product


def packed(matrix: Array, bits: int) -> tuple[Array, Array]:
    """A float32 matrix (in, out) in blocks of its columns, and the scale of each block.

    A weight w is stored as round(w / scale) + 2^(bits-1). With 4 bits, two weights share a byte;
    the first is in the lower half.

    Returns:
        The weights, uint8 (out, blocks, bytes), and the scales, float32 (out * blocks,).
    """
    rows, columns = matrix.shape
    blocks = -(-rows // BLOCK)
    padded = np.zeros((columns, blocks * BLOCK), np.float32)
    padded[:, :rows] = matrix.T
    padded = padded.reshape(columns, blocks, BLOCK)

    middle = 2 ** (bits - 1)
    largest = np.abs(padded).max(axis=2, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(middle - 1)
    numbers = np.clip(np.rint(padded / scale) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        numbers = numbers[..., 0::2] | (numbers[..., 1::2] << 4)
    return numbers, scale.reshape(-1)

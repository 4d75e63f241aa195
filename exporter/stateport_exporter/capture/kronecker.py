# SPDX-License-Identifier: Apache-2.0
"""`torch.kron` as a product of all pairs of elements, which PyTorch traces at any size."""

from __future__ import annotations

from torch import Tensor


def kron(
    input: Tensor,  # noqa: A002  # PyTorch's name
    other: Tensor,
) -> Tensor:
    """The same as `torch.kron`, which looks at each size of both arrays.

    Args:
        input: an array of any shape.
        other: an array of any shape.

    Returns:
        The Kronecker product. It has as many dimensions as the array with more of them, and each
        size is the product of both: (a, b) and (c, d) give (a * c, b * d).
    """
    dimensions = max(input.ndim, other.ndim)
    blocks = input.reshape((1,) * (dimensions - input.ndim) + input.shape)
    inside = other.reshape((1,) * (dimensions - other.ndim) + other.shape)

    # An axis of blocks, and behind it one inside of a block, for each dimension.
    for axis in range(dimensions):
        blocks = blocks.unsqueeze(2 * axis + 1)
        inside = inside.unsqueeze(2 * axis)
    product = blocks * inside

    sizes = []
    for axis in range(dimensions):
        sizes.append(product.shape[2 * axis] * product.shape[2 * axis + 1])
    return product.reshape(sizes)

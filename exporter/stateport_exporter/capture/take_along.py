# SPDX-License-Identifier: Apache-2.0
"""`torch.take_along_dim` as `torch.gather`, which PyTorch traces at any size."""

from __future__ import annotations

import torch
from torch import Tensor


def take_along_dim(
    input: Tensor,  # noqa: A002  # PyTorch's name
    indices: Tensor,
    dim: int | None = None,
) -> Tensor:
    """The same as `torch.take_along_dim`, which looks at each size of both arrays.

    Args:
        input: an array of any shape.
        indices: int64, of as many dimensions; each size but that along `dim` is the same, or 1 in
            one of the two.
        dim: the dimension along which elements are taken; by default of the flat arrays.
    """
    if dim is None:
        return torch.gather(input.reshape(-1), 0, indices.reshape(-1))

    if not -input.ndim <= dim < input.ndim:
        raise IndexError(f"dim is {dim}; the array has {input.ndim} dimensions")

    dim = dim % input.ndim
    sizes = [-1] * input.ndim
    taken_from, taken = [*sizes], [*sizes]
    for axis in range(input.ndim):
        if axis == dim:
            continue
        # Only what is 1 by its very shape is repeated, so that no other size is looked at.
        if input.shape[axis] == 1:
            taken_from[axis] = indices.shape[axis]
        elif indices.shape[axis] == 1:
            taken[axis] = input.shape[axis]
    return torch.gather(input.expand(taken_from), dim, indices.expand(taken))

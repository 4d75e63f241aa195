# SPDX-License-Identifier: Apache-2.0
"""A matrix times a vector inside `torch.vmap`, as a linear layer, which PyTorch can trace."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def product(left: Tensor, right: Tensor, **options: Any) -> Any:
    """The same numbers as `torch.matmul`.

    PyTorch takes a matrix that is no part of the batch for a constant, and then fails on it.

    Args:
        left: the first factor, of any shape that `torch.matmul` takes.
        right: the second factor.
        options: other arguments of `torch.matmul`.
    """
    is_matrix_times_vector = left.dim() == 2 and right.dim() == 1
    is_in_vmap = torch._C._functorch.is_batchedtensor(right)
    if is_matrix_times_vector and is_in_vmap and not options:
        return F.linear(right, left)
    return torch.matmul(left, right, **options)

# SPDX-License-Identifier: Apache-2.0
"""`torch.cdist` by differences, as PyTorch's ONNX writer does not have it."""

from __future__ import annotations

from torch import Tensor


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str | None = None,  # noqa: ARG001  # how PyTorch's own computes it
) -> Tensor:
    """The same distances as `torch.cdist`.

    Args:
        x1: vectors of shape (..., m, features).
        x2: vectors of shape (..., n, features).
        p: the exponent of the norm, 0 or more, or infinity.
        compute_mode: is not used.

    Returns:
        The p-norm of each difference: (..., m, n).
    """
    if p < 0:
        raise ValueError(f"cdist takes no negative p, and p is {p}")
    differences = (x1.unsqueeze(-2) - x2.unsqueeze(-3)).abs()
    if p == 0:
        return (differences != 0).to(x1.dtype).sum(-1)
    if p == 1:
        return differences.sum(-1)
    if p == 2:
        return differences.square().sum(-1).sqrt()
    if p == float("inf"):
        return differences.amax(-1)
    return differences.pow(p).sum(-1).pow(1 / p)

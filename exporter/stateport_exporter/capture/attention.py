# SPDX-License-Identifier: Apache-2.0
"""`torch.nn.functional.scaled_dot_product_attention` of arrays without an axis of heads."""

from __future__ import annotations

from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

#: PyTorch's exporter takes (batch, heads, time, features) alone.
_RANK: Final = 4


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    """The same numbers, computed with four axes.

    Args:
        query: an array of shape (..., time, features), of any rank from 2.
        key: likewise, with its own time.
        value: likewise, with the time of the keys.
        attn_mask: a mask that can be broadcast to (..., time, time of the keys), or None.
        rest: as PyTorch takes them.
        options: likewise.
    """
    if query.dim() == _RANK:
        return F.scaled_dot_product_attention(query, key, value, attn_mask, *rest, **options)

    query_of_heads, key_of_heads, value_of_heads = map(_with_four_axes, (query, key, value))
    if attn_mask is not None and attn_mask.dim() > 2:
        every_row = attn_mask.expand(*query.shape[:-1], key.shape[-2])
        attn_mask = _with_four_axes(every_row)
    result = F.scaled_dot_product_attention(
        query_of_heads, key_of_heads, value_of_heads, attn_mask, *rest, **options
    )
    return result.reshape(*query.shape[:-1], value.shape[-1])


def _with_four_axes(tensor: Tensor) -> Tensor:
    if tensor.dim() > _RANK:
        return tensor.flatten(0, tensor.dim() - _RANK)
    while tensor.dim() < _RANK:
        tensor = tensor.unsqueeze(0)
    return tensor

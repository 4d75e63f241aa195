# SPDX-License-Identifier: Apache-2.0
"""Nested containers, walked quickly: recording calls a network thousands of times.

PyTorch's functions for this take longer than one step of a small network. They are used for all
containers but plain tuples, lists and dicts, and the order of leaves is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.picking import instances_of, positions_of

#: The types of values in which there is nothing else, for the most part.
_PLAIN: Final = frozenset({Tensor, nn.Parameter, type(None), bool, int, float, str})


def map_only(kind: type, function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with a function applied to all values of a kind, which may be containers.

    Other containers are copied.
    """
    if isinstance(tree, kind):
        return function(tree)

    own_type = type(tree)
    if own_type in _PLAIN:
        return tree
    if own_type is tuple:
        return tuple([map_only(kind, function, part) for part in tree])
    if own_type is list:
        return [map_only(kind, function, part) for part in tree]
    if own_type is dict:
        return {key: map_only(kind, function, part) for key, part in tree.items()}

    def is_kind(value: object) -> bool:
        return isinstance(value, kind)

    return pytree.tree_map_only(kind, function, tree, is_leaf=is_kind)


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in a tree, in order."""
    tensors: list[Tensor] = []
    _collect(tree, tensors)
    return tensors


def _collect(tree: Any, tensors: list[Tensor]) -> None:
    own_type = type(tree)
    if own_type in _PLAIN:
        if isinstance(tree, Tensor):
            tensors.append(tree)
    elif own_type is tuple or own_type is list:
        for part in tree:
            _collect(part, tensors)
    elif own_type is dict:
        for part in tree.values():
            _collect(part, tensors)
    else:
        tensors += instances_of(Tensor, pytree.tree_leaves(tree))


def tensor_positions(leaves: Iterable[Any]) -> list[int]:
    """The positions of the tensors among leaves."""
    return positions_of(lambda leaf: isinstance(leaf, Tensor), leaves)


def copied_leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, with copies of tensors, which do not change when the originals do."""
    return [*map(_copied, pytree.tree_leaves(tree))]


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def are_alike(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same shape and dtype."""
    return first.shape == second.shape and first.dtype == second.dtype


def are_close(first: Tensor, second: Tensor, *, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Whether two tensors are alike, with equal values up to tolerances; NaN is equal to NaN."""
    if not are_alike(first, second):
        return False
    return torch.allclose(first, second, rtol=rtol, atol=atol, equal_nan=True)


def agree(test: Callable[[Any, Any], bool], first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two lists of leaves have the same length, and each pair passes a test."""
    return len(first) == len(second) and all(map(test, first, second))

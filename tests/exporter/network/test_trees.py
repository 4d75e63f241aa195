"""The quick walk through nested containers does what PyTorch's own does."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport_exporter.network.trees import map_only, tensors_in


class _Pair(NamedTuple):
    first: Any
    second: Any


def _tensor(number: int) -> Tensor:
    return torch.full((2,), float(number))


TREES = [
    _tensor(1),
    None,
    (_tensor(1), [_tensor(2), {"b": _tensor(3), "a": _tensor(4)}], 5, "text", None),
    {"z": (_tensor(1),), "a": [], "m": OrderedDict(b=_tensor(2), a=_tensor(3))},
    _Pair(_tensor(1), (_Pair(_tensor(2), 3), [_tensor(4)])),
    (nn.Parameter(_tensor(1)), torch.Size([1, 2]), _tensor(2)),
]


@pytest.mark.parametrize("tree", TREES, ids=range(len(TREES)))
def test_tensors_come_in_the_order_of_pytorch(tree: Any) -> None:
    expected = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    found = tensors_in(tree)
    assert len(found) == len(expected)
    assert all(a is b for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("tree", TREES, ids=range(len(TREES)))
def test_tensors_are_replaced_as_by_pytorch(tree: Any) -> None:
    def number(tensor: Tensor) -> float:
        return float(tensor.detach()[0])

    changed, expected = map_only(Tensor, number, tree), pytree.tree_map_only(Tensor, number, tree)
    assert changed == expected
    assert type(changed) is type(expected)


def test_a_container_can_be_of_the_kind_itself() -> None:
    tree = [(_Pair(1, 2), 3), {"a": _Pair(4, 5)}]
    assert map_only(_Pair, lambda pair: pair.first, tree) == [(1, 3), {"a": 4}]


def test_containers_are_copied() -> None:
    tree = ([1], {"a": 2})
    copied = map_only(Tensor, lambda tensor: tensor, tree)
    assert copied == tree
    assert copied[0] is not tree[0]
    assert copied[1] is not tree[1]

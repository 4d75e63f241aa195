# SPDX-License-Identifier: Apache-2.0
"""Making traces alike: one concatenation for one that grows, constants and views made once."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from ..network.program import Op, Ref, Slice, exchange_all, operands, refs, slices
from .step_numbers import law_of
from .trace import meta_of

_aten: Final = torch.ops.aten
#: Operations that make tensors of one value, and the sizes of these tensors.
_MAKERS: Final = (_aten.full.default, _aten.sym_size.int)
#: A view that is made more often is made in each step of a loop, or more than one.
_MOST_IN_ONE_STEP: Final = 4
#: Operations on sizes.
SIZE_OPERATIONS: Final = (operator.add, operator.sub, operator.mul, operator.floordiv)


def merge_concatenations(ops: Sequence[Op], metas: Mapping[int, Any]) -> list[Op]:
    """The operations, with one concatenation in place of one that grows step by step.

    `metas` describes the values, as in `Unrolled`.
    """
    merger = _Merger(ops, metas)
    merged = [*map(merger.merge, ops)]
    return [op for op in merged if op.result not in merger.absorbed]


class _Merger:
    """Merges concatenations into those that use them.

    Attributes:
        absorbed: the results of the concatenations that are no longer needed.
    """

    def __init__(self, ops: Sequence[Op], metas: Mapping[int, Any]) -> None:
        self.metas = metas
        self.op_of = {op.result: op for op in ops}
        self.absorbed: set[int] = set()
        self.uses: Counter[int] = Counter()
        for op in ops:
            self.uses.update(ref.value for ref in refs(operands(op)))

    def merge(self, op: Op) -> Op:
        """A concatenation with the items of those that it continues, without empty ones."""
        if op.target is not _aten.cat.default:
            return op

        items, dim = op.args[0], self._dim(op)
        while (inner := self._continued(items[0], dim)) is not None:
            self.absorbed.add(inner.result)
            items = (*inner.args[0], *items[1:])
        filled = tuple(item for item in items if not self._is_empty(item, dim))
        return Op(op.result, op.target, (filled, dim), (), op.path)

    def _continued(self, item: Any, dim: int) -> Op | None:
        """The concatenation along the same axis that an item is, if nothing else uses it."""
        if not isinstance(item, Ref) or item.value not in self.op_of:
            return None
        inner = self.op_of[item.value]
        if inner.target is not _aten.cat.default or self.uses[inner.result] != 1:
            return None
        return inner if self._dim(inner) == dim else None

    def _dim(self, op: Op) -> int:
        dim: int = (*op.args, 0)[1]
        return dim % len(self.metas[op.result].shape)

    def _is_empty(self, item: Any, dim: int) -> bool:
        if not isinstance(item, Ref):
            return False
        shape = meta_of(item, self.metas).shape
        # PyTorch lets an empty vector stand for an empty tensor of any shape.
        return shape == (0,) or (dim < len(shape) and shape[dim] == 0)


def make_constants_first(ops: Sequence[Op]) -> list[Op]:
    """The operations, with tensors of one value made once, and as early as possible.

    A first state that is made where it is first needed would make the first step differ. Tensors
    of the number of the step stay in their step.
    """
    numbered = _numbered_fills(ops)

    def is_constant(op: Op) -> bool:
        return op.target in _MAKERS and op.result not in numbered

    return _made_once(ops, is_constant)


def merge_views(ops: Sequence[Op]) -> list[Op]:
    """The operations, with equal views of a tensor made once, and as early as possible.

    PyTorch makes views of a tensor that was changed in place again wherever they are used, which
    may be in each step of a loop. Views of single steps, and of states, stay in their steps.
    """
    counts = Counter(_call(op) for op in ops if _is_view_of_whole(op))

    def is_repeated(op: Op) -> bool:
        return _is_view_of_whole(op) and counts[_call(op)] > _MOST_IN_ONE_STEP

    merged = _made_once(ops, is_repeated)
    # A view of a view is the same where what it is of has become the same.
    return merge_views(merged) if len(merged) < len(ops) else merged


def _made_once(ops: Sequence[Op], is_moved: Callable[[Op], bool]) -> list[Op]:
    """The operations, with some of them as early as possible, and once where they are equal."""
    made: dict[Any, int] = {}
    replacements: dict[int, int] = {}
    ordered: list[Op] = []

    def change(item: Ref | Slice) -> Any:
        if isinstance(item, Slice):
            return replace(item, source=change(item.source))
        return Ref(replacements.get(item.value, item.value), item.part)

    for original in ops:
        op = exchange_all(original, change)
        if not is_moved(original):
            ordered.append(op)
            continue

        call = _call(op)
        if call in made:
            replacements[op.result] = made[call]
        else:
            made[call] = op.result
            ordered.insert(_earliest_index(op, ordered), op)
    return ordered


def _call(op: Op) -> Any:
    """What makes an operation the same as another one."""
    return op.target, op.args, op.kwargs


def _is_view_of_whole(op: Op) -> bool:
    """Whether an operation gives a view of a tensor that is no slice, or computes a size."""
    if any(True for _ in slices(operands(op))):
        return False
    schema = getattr(op.target, "_schema", None)
    aliases = [] if schema is None else [each.alias_info for each in schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    return is_view or op.target in SIZE_OPERATIONS


def _numbered_fills(ops: Sequence[Op]) -> set[int]:
    """The results that are filled with a number which follows from the number of the step."""
    values: dict[Any, dict[float, None]] = {}
    results: dict[Any, list[int]] = {}
    # Each operation that reads a size has a result of its own.
    sizes = {op.result: op.args for op in ops if op.target is _aten.sym_size.int}
    for op in ops:
        if op.target is _aten.full.default:
            shape = [sizes.get(ref.value) for ref in refs(op.args[0])]
            fixed = [size for size in op.args[0] if isinstance(size, int)]
            kind = (*shape, *fixed), op.kwargs
            values.setdefault(kind, {})[op.args[1]] = None
            results.setdefault(kind, []).append(op.result)

    numbered: set[int] = set()
    for kind, distinct in values.items():
        if law_of([*distinct]) is not None:
            numbered.update(results[kind])
    return numbered


def _earliest_index(op: Op, ordered: Sequence[Op]) -> int:
    """The index right after the last operation whose result `op` needs."""
    needed = {ref.value for ref in refs(operands(op))}
    for index in range(len(ordered) - 1, -1, -1):
        if ordered[index].result in needed:
            return index + 1
    return 0

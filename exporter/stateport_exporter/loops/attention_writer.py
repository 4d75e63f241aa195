# SPDX-License-Identifier: Apache-2.0
"""Writing linear attention into a trace, as a call of `scan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from ..network.program import Ref
from ..network.scan import scan
from .attention import Attention, Start, body_of
from .regions import replace_values
from .trace import OpWriter, TensorMeta, Unrolled, add_constants, meta_of, read_size

_aten: Final = torch.ops.aten


def write_attention(trace: Unrolled, attention: Attention) -> None:
    """Writes linear attention as a call of `scan`, in place."""
    constants = {}
    if attention.decay is not None:
        constants["decay"] = attention.decay
    if attention.bonus is not None:
        constants["bonus"] = attention.bonus
    for number, (_, factor) in enumerate(attention.added):
        constants[f"factor_{number}"] = factor

    dtype, before = trace.meta(attention.result).dtype, trace.inputs
    own = f"attention_{before}"
    numbers = add_constants(
        trace, {f"{own}_{name}": value.to(dtype) for name, value in constants.items()}
    )
    places = {name: Ref(before + position) for position, name in enumerate(constants)}
    writer = _AttentionWriter(trace, attention, numbers, places)
    replace_values(trace, {writer.result: writer.write()}, writer.ops)


class _AttentionWriter(OpWriter):
    """Writes the call of `scan`, and the operations before and behind it.

    `numbers` has the present number of each value, and `constants` those that were added.
    """

    def __init__(
        self,
        trace: Unrolled,
        attention: Attention,
        numbers: Mapping[int, int],
        constants: Mapping[str, Ref],
    ) -> None:
        super().__init__(trace.metas)
        self.trace = trace
        self.attention = attention
        self.numbers = numbers
        self.constants = constants
        self.result = self._present(attention.result)
        self.meta = trace.meta(self.result)
        self.axis = attention.axis

    def _present(self, ref: Ref) -> Ref:
        return Ref(self.numbers[ref.value], ref.part)

    def write(self) -> Ref:
        """Writes it; returns what takes the place of the result."""
        attention = self.attention
        sequences: dict[str, Ref] = {}
        shapes: dict[str, Sequence[Any]] = {}
        for role, start in attention.starts.items():
            sequences[role] = self._arranged(start, with_keys=True)
            shapes[role] = self.metas[sequences[role].value].shape[1:]
        invariants = []
        if attention.decay is not None:
            invariants.append(self.constants["decay"])
            shapes["decay"] = attention.decay.shape

        states = []
        for roles, first in attention.rule.states:
            having = [shapes[role] for role in roles if role in shapes]
            states.append(self._first_state(having, first))
        body = body_of(
            attention.rule,
            has_matrix=attention.has_matrix,
            fixed_decay=attention.decay is not None,
        )
        steps_first = [self.meta.shape[self.axis], *self._sizes_of_a_step()]
        stack = TensorMeta(tuple(steps_first), self.meta.dtype)
        ordered = [sequences[role] for role in attention.rule.roles if role in sequences]
        args = (body, tuple(states), tuple(ordered), tuple(invariants))
        metas = [self.metas[state.value] for state in states]
        results = self.add(scan, args, [*metas, stack])

        y = Ref(results.value, len(states))
        if attention.scale != 1:
            y = self.add(_aten.mul.Tensor, (y, attention.scale), stack)
        if attention.bonus is not None:
            y = self.add(_aten.add.Tensor, (y, self._bonus(sequences, stack)), stack)
        for number, (start, _) in enumerate(attention.added):
            added = self._multiplied(self._arranged(start, with_keys=False), number)
            y = self.add(_aten.add.Tensor, (y, added), stack)
        return self.move_axis(y, 0, self.axis)

    def _sizes_of_a_step(self) -> list[Any]:
        return [size for axis, size in enumerate(self.meta.shape) if axis != self.axis]

    def _bonus(self, sequences: Mapping[str, Ref], stack: TensorMeta) -> Ref:
        """What a step's own key and value count."""
        product = self.constants["bonus"]
        for role in ("query", "key", "value"):
            if role in sequences:
                product = self._product(product, sequences[role])
        if not self.attention.has_matrix:
            return product
        return self.add(_aten.sum.dim_IntList, (product, (-1,)), stack)

    def _product(self, first: Ref, second: Ref) -> Ref:
        """Two values multiplied with one another, in the larger one's shape on each axis."""
        one, other = (self.metas[ref.value].shape for ref in (first, second))
        missing = len(other) - len(one)
        pairs = zip((*[1] * missing, *one), other, strict=True)
        shape = [right if left == 1 else left for left, right in pairs]
        meta = TensorMeta(tuple(shape), self.meta.dtype)
        return self.add(_aten.mul.Tensor, (first, second), meta)

    def _multiplied(self, value: Ref, number: int) -> Ref:
        factor = self.constants[f"factor_{number}"]
        return self.add(_aten.mul.Tensor, (value, factor), self.metas[value.value])

    def _arranged(self, start: Start, *, with_keys: bool) -> Ref:
        """A value with the axes of the state, steps first."""
        value = self._present(start.ref)
        single = [axis for axis, meaning in enumerate(start.axes) if meaning is None]
        order = [*start.order(), *single]
        meta = meta_of(value, self.metas)
        shape = [meta.shape[axis] for axis in order]
        if order != sorted(order):
            permuted = TensorMeta(tuple(shape), meta.dtype)
            value = self.add(_aten.permute.default, (value, tuple(order)), permuted)
        for _ in single:
            shape.pop()
            last = TensorMeta(tuple(shape), meta.dtype)
            value = self.add(_aten.squeeze.dim, (value, -1), last)

        has_keys = with_keys and self.attention.has_matrix
        for axis in start.missing(len(self.meta.shape), has_keys=has_keys):
            value = self.unsqueeze(value, axis)
        return value

    def _first_state(self, kept: Sequence[Sequence[Any]], first: float) -> Ref:
        """A first value in the shape of a state; `kept` are the shapes that meet in it."""
        shape: list[Any] = []
        for sizes in zip(*kept, strict=True):
            shape.append(next((size for size in sizes if size != 1), 1))

        operands = tuple(read_size(self, self.trace.arguments, size) for size in shape)
        meta = TensorMeta(tuple(shape), self.meta.dtype)
        return self.add(_aten.full.default, (operands, first), meta, (("dtype", meta.dtype),))

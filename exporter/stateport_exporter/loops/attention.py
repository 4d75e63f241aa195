# SPDX-License-Identifier: Apache-2.0
"""Linear attention: what one step of it does, and what has which role in it.

A state S is a matrix of keys and values for each head. A step lets it decay, adds the product of
this step's key and value, and reads it with the query: y[t] = q[t] S[t]. Sources: Katharopoulos et
al. 2020 (linear attention), Sun et al. 2023 (retention), Yang et al. 2024 (gated), Dao and Gu 2024
(Mamba-2), Schlag et al. 2021 (delta rule).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ..network.program import Body, Op, Program, Ref

_aten: Final = torch.ops.aten

#: When a step reads the state and when it lets it decay, beside adding to it.
ORDERS: Final = (
    ("decay", "add", "read"),
    ("read", "decay", "add"),
    ("decay", "read", "add"),
    ("add", "decay", "read"),
    ("add", "read", "decay"),
)

#: How a decay is made of what a network computes, by name.
GATES: Final[Mapping[str, Sequence[Any]]] = {
    "itself": (),
    "exp": (_aten.exp.default,),
    "exp of negative": (_aten.neg.default, _aten.exp.default),
}

#: What an axis of a start is, beside an axis of the result.
TIME: Final = -1
KEYS: Final = -2


@dataclass(frozen=True)
class Rule:
    """What a step does.

    Attributes:
        order: when it lets the state decay, adds to it and reads it; one of `ORDERS`.
        gate: how the decay is made, by its name in `GATES`; None without a decay.
        has_query: whether a query is multiplied with the state that is read.
        has_keys: whether keys are multiplied with values.
        is_delta: whether a step adds only what the state does not yet have under its key.
    """

    order: tuple[str, ...]
    gate: str | None
    has_query: bool
    has_keys: bool
    is_delta: bool = False

    @property
    def reads_before(self) -> bool:
        """Whether a step reads the state before it adds to it."""
        return self.order.index("read") < self.order.index("add")

    @property
    def roles(self) -> tuple[str, ...]:
        """The operands of a step. The decay is the last one, since it may be the same in all."""
        parts = {
            "query": self.has_query,
            "key": self.has_keys,
            "value": True,
            "strength": self.is_delta,
            "decay": self.gate is not None,
        }
        return tuple(role for role, has_it in parts.items() if has_it)

    def body(self, *, has_matrix: bool, fixed_decay: bool = False) -> Body:
        """One step as a program: (state, operands in the order of `roles`) -> (state, y).

        All have the axes of the state. The keys' axis is the last one if it `has_matrix`, and y
        does not have it. A `fixed_decay` is the same in every step.
        """
        program = _StepWriter(self, has_matrix=has_matrix).write()
        sequences = len(self.roles) - fixed_decay
        return Body(program, states=1, sequences=sequences, path="")

    def run(self, operands: Mapping[str, Tensor], *, has_matrix: bool) -> Tensor:
        """Y for sequences of operands by their roles, with their steps first."""
        given = [operands[role] for role in self.roles]
        shapes = [operand.shape[1:] for role, operand in operands.items() if role != "query"]
        state = torch.zeros(np.broadcast_shapes(*shapes), dtype=torch.float64)

        body = self.body(has_matrix=has_matrix)
        steps = []
        for step in range(len(operands["value"])):
            [state], [y] = body.step([state], [operand[step] for operand in given], [])
            steps.append(y)
        return torch.stack(steps)


@dataclass(frozen=True)
class Start:
    """A value that the operations start from.

    Attributes:
        ref: the value.
        number: its number among the starts.
        axes: for each axis, the axis of the result with steps first that it becomes; `TIME`, or
            `KEYS` for one over which the result is a sum; None for an axis of one entry.
        is_direct: whether only the same step of the result depends on it.
    """

    ref: Ref
    number: int
    axes: tuple[int | None, ...]
    is_direct: bool

    def order(self) -> list[int]:
        """Its axes in the order of the state: steps, the result's axes, keys."""

        def place(axis: int) -> int:
            meaning = self.axes[axis]
            if meaning == TIME:
                return 0
            return 1000 if meaning == KEYS or meaning is None else meaning

        kept = [axis for axis, meaning in enumerate(self.axes) if meaning is not None]
        return sorted(kept, key=place)

    def missing(self, rank: int, *, has_keys: bool) -> list[int]:
        """The axes that have to be put in after that, first ones first.

        Args:
            rank: the number of axes of the result.
            has_keys: whether the state has an axis of keys.
        """
        missing = [axis for axis in range(1, rank) if axis not in self.axes]
        if has_keys and KEYS not in self.axes:
            missing.append(rank)
        return missing

    def arranged(self, value: Tensor, rank: int, *, has_keys: bool) -> Tensor:
        """The value with the axes of the state, steps first."""
        single = [axis for axis, meaning in enumerate(self.axes) if meaning is None]
        arranged = value.permute(*self.order(), *single)
        for _ in single:
            arranged = arranged.squeeze(-1)
        for axis in self.missing(rank, has_keys=has_keys):
            arranged = arranged.unsqueeze(axis)
        return arranged


@dataclass(frozen=True)
class Attention:
    """Linear attention in a trace.

    Attributes:
        result: the value that it computes, y.
        axis: the axis of time of y.
        rule: what a step does.
        starts: the value in each role.
        decay: a decay that is the same in all steps, with the axes of the state; or None.
        bonus: what a step's own key and value count where the state is read before they are added,
            with the axes of the state; or None.
        scale: what the state that is read is multiplied with.
        added: values of which y gets a multiple in the same step, and the factors.
    """

    result: Ref
    axis: int
    rule: Rule
    starts: Mapping[str, Start]
    decay: Tensor | None
    bonus: Tensor | None
    scale: float
    added: Sequence[tuple[Start, Tensor]]

    @property
    def has_matrix(self) -> bool:
        """Whether the state has an axis of keys, which y does not have."""
        return any(KEYS in start.axes for start in self.starts.values())


class _StepWriter:
    """Writes one step of a rule."""

    def __init__(self, rule: Rule, *, has_matrix: bool) -> None:
        self.rule = rule
        self.has_matrix = has_matrix
        self.operand = {role: Ref(1 + place) for place, role in enumerate(rule.roles)}
        self.ops: list[Op] = []
        self.state = Ref(0)
        self.result = Ref(0)

    def write(self) -> Program:
        """The step."""
        parts = {"decay": self._decay, "add": self._add, "read": self._read}
        for part in self.rule.order:
            parts[part]()
        inputs = 1 + len(self.operand)
        return Program(inputs, tuple(self.ops), (self.state, self.result))

    def _call(self, target: Any, *args: Any) -> Ref:
        number = 1 + len(self.operand) + len(self.ops)
        self.ops.append(Op(number, target, args))
        return Ref(number)

    def _decay(self) -> None:
        if self.rule.gate is None:
            return
        factor = self.operand["decay"]
        for target in GATES[self.rule.gate]:
            factor = self._call(target, factor)
        self.state = self._call(_aten.mul.Tensor, factor, self.state)

    def _add(self) -> None:
        added = self.operand["value"]
        if self.rule.is_delta:
            kept = self._sum_of_keys(self._call(_aten.mul.Tensor, self.operand["key"], self.state))
            if self.has_matrix:
                kept = self._call(_aten.unsqueeze.default, kept, -1)
            missing = self._call(_aten.sub.Tensor, added, kept)
            added = self._call(_aten.mul.Tensor, self.operand["strength"], missing)
        if self.rule.has_keys:
            added = self._call(_aten.mul.Tensor, self.operand["key"], added)
        self.state = self._call(_aten.add.Tensor, self.state, added)

    def _read(self) -> None:
        product = self.state
        if self.rule.has_query:
            product = self._call(_aten.mul.Tensor, self.operand["query"], product)
        self.result = self._sum_of_keys(product)

    def _sum_of_keys(self, product: Ref) -> Ref:
        if not self.has_matrix:
            return product
        return self._call(_aten.sum.dim_IntList, product, (-1,))

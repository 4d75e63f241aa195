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
from typing import Any, Final, Protocol

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


#: In place of minus infinity, with which no number can be multiplied or subtracted safely.
LOWEST: Final = -1e30


class Rule(Protocol):
    """What a step does, with operands in roles."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The operands of a step. The decay is the last one, since it may be the same in all."""
        ...

    @property
    def states(self) -> Sequence[tuple[Sequence[str], float]]:
        """For each state, the roles whose axes it has, and its first value."""
        ...

    def program(self, *, has_matrix: bool) -> Program:
        """One step: (states, operands in the order of `roles`) -> (states, y).

        All have the axes of the state. The keys' axis is the last one if it `has_matrix`, and y
        does not have it.
        """
        ...


def body_of(rule: Rule, *, has_matrix: bool, fixed_decay: bool = False) -> Body:
    """One step of a rule; a `fixed_decay` is the same in every step."""
    sequences = len(rule.roles) - fixed_decay
    program = rule.program(has_matrix=has_matrix)
    return Body(program, states=len(rule.states), sequences=sequences, path="")


def run_rule(rule: Rule, operands: Mapping[str, Tensor], *, has_matrix: bool) -> Tensor:
    """The results of a rule for sequences of operands by their roles, with their steps first."""
    given = [operands[role] for role in rule.roles]
    states: list[Tensor] = []
    for roles, first in rule.states:
        shapes = [operands[role].shape[1:] for role in roles if role in operands]
        states.append(torch.full(np.broadcast_shapes(*shapes), first, dtype=torch.float64))

    body = body_of(rule, has_matrix=has_matrix)
    steps = []
    for step in range(len(operands["value"])):
        states, [y] = body.step(states, [operand[step] for operand in given], [])
        steps.append(y)
    return torch.stack(steps)


@dataclass(frozen=True)
class SumRule:
    """A step that reads the state as it is: y = q S.

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
        """The operands of a step."""
        parts = {
            "query": self.has_query,
            "key": self.has_keys,
            "value": True,
            "strength": self.is_delta,
            "decay": self.gate is not None,
        }
        return tuple(role for role, has_it in parts.items() if has_it)

    @property
    def states(self) -> Sequence[tuple[Sequence[str], float]]:
        """The state, which begins with zeros."""
        return [(("key", "value", "strength", "decay"), 0.0)]

    def program(self, *, has_matrix: bool) -> Program:
        """One step, as `Rule.program`."""
        return _SumWriter(self, has_matrix=has_matrix).write()


@dataclass(frozen=True)
class MeanRule:
    """A step that divides what it reads by the sum of the weights: y = q S / q z.

    z is the state with ones for values. With a `strength`, the logarithm of what a key counts, the
    step keeps the largest exponent m, as xLSTM's mLSTM does (Beck et al. 2024): S and z are
    multiplied with exp(-m).

    Attributes:
        gate: how the decay is made, by its name in `GATES`; None without a decay.
        has_strength: whether it has a strength. Its decay is a logarithm then.
        has_bound: whether it divides by no less than 1.
        epsilon: what is added to the sum of the weights.
        scale: what the query is multiplied with.
    """

    gate: str | None
    has_strength: bool
    has_bound: bool
    epsilon: float
    scale: float

    @property
    def roles(self) -> tuple[str, ...]:
        """The operands of a step."""
        strength = ("strength",) if self.has_strength else ()
        decay = () if self.gate is None else ("decay",)
        return ("query", "key", "value", *strength, *decay)

    @property
    def states(self) -> Sequence[tuple[Sequence[str], float]]:
        """The sums of values and of weights, and the largest exponent."""
        gates = ("strength", "decay")
        sums = [(("key", "value", *gates), 0.0), (("key", *gates), 0.0)]
        return [*sums, (gates, LOWEST)] if self.has_strength else sums

    def program(self, *, has_matrix: bool) -> Program:
        """One step, as `Rule.program`."""
        return _MeanWriter(self, has_matrix=has_matrix).write()


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
        self.has_matrix = has_matrix
        count = len(rule.states)
        self.states = [*map(Ref, range(count))]
        self.operand = {role: Ref(count + place) for place, role in enumerate(rule.roles)}
        self.inputs = count + len(self.operand)
        self.ops: list[Op] = []

    def call(self, target: Any, *args: Any) -> Ref:
        """Calls an operator."""
        number = self.inputs + len(self.ops)
        self.ops.append(Op(number, target, args))
        return Ref(number)

    def product(self, first: Ref, second: Ref) -> Ref:
        """The product of two values."""
        return self.call(_aten.mul.Tensor, first, second)

    def factor(self, gate: str) -> Ref:
        """What is left of the state after a step."""
        factor = self.operand["decay"]
        for target in GATES[gate]:
            factor = self.call(target, factor)
        return factor

    def sum_of_keys(self, product: Ref) -> Ref:
        """The sum over the axis of keys, if there is one."""
        if not self.has_matrix:
            return product
        return self.call(_aten.sum.dim_IntList, product, (-1,))


class _SumWriter(_StepWriter):
    """Writes one step that reads the state as it is."""

    def __init__(self, rule: SumRule, *, has_matrix: bool) -> None:
        super().__init__(rule, has_matrix=has_matrix)
        self.rule = rule
        [self.state] = self.states
        self.result = self.state

    def write(self) -> Program:
        """The step."""
        parts = {"decay": self._decay, "add": self._add, "read": self._read}
        for part in self.rule.order:
            parts[part]()
        return Program(self.inputs, tuple(self.ops), (self.state, self.result))

    def _decay(self) -> None:
        if self.rule.gate is not None:
            self.state = self.product(self.factor(self.rule.gate), self.state)

    def _add(self) -> None:
        added = self.operand["value"]
        if self.rule.is_delta:
            kept = self.sum_of_keys(self.product(self.operand["key"], self.state))
            if self.has_matrix:
                kept = self.call(_aten.unsqueeze.default, kept, -1)
            missing = self.call(_aten.sub.Tensor, added, kept)
            added = self.product(self.operand["strength"], missing)
        if self.rule.has_keys:
            added = self.product(self.operand["key"], added)
        self.state = self.call(_aten.add.Tensor, self.state, added)

    def _read(self) -> None:
        product = self.state
        if self.rule.has_query:
            product = self.product(self.operand["query"], product)
        self.result = self.sum_of_keys(product)


class _MeanWriter(_StepWriter):
    """Writes one step that divides what it reads by the sum of the weights."""

    def __init__(self, rule: MeanRule, *, has_matrix: bool) -> None:
        super().__init__(rule, has_matrix=has_matrix)
        self.rule = rule

    def write(self) -> Program:
        """The step."""
        rule, key = self.rule, self.operand["key"]
        left = None if rule.gate is None else self.factor(rule.gate)
        states = self.states
        least: Ref | float = 1.0
        if rule.has_strength:
            left, counts, largest = self._stabilised(states[-1])
            key = self.product(counts, key)
            least = self.call(_aten.exp.default, self.call(_aten.neg.default, largest))
            states = [states[0], states[1], largest]

        sums = []
        for state, added in (
            (states[0], self.product(key, self.operand["value"])),
            (states[1], key),
        ):
            kept = state if left is None else self.product(left, state)
            sums.append(self.call(_aten.add.Tensor, kept, added))

        query = self.call(_aten.mul.Tensor, self.operand["query"], rule.scale)
        values, weights = (self.sum_of_keys(self.product(query, total)) for total in sums)
        if rule.has_bound:
            weights = self._bounded(weights, least)
        if rule.epsilon:
            weights = self.call(_aten.add.Tensor, weights, rule.epsilon)
        result = self.call(_aten.div.Tensor, values, weights)
        return Program(self.inputs, tuple(self.ops), (*sums, *states[2:], result))

    def _stabilised(self, before: Ref) -> tuple[Ref, Ref, Ref]:
        """What is left of the state, what the key counts, and the largest exponent from now on."""
        moved = self.call(_aten.add.Tensor, self.operand["decay"], before)
        strength = self.operand["strength"]
        largest = self.call(_aten.maximum.default, moved, strength)
        left = self.call(_aten.exp.default, self.call(_aten.sub.Tensor, moved, largest))
        counts = self.call(_aten.exp.default, self.call(_aten.sub.Tensor, strength, largest))
        return left, counts, largest

    def _bounded(self, weights: Ref, least: Ref | float) -> Ref:
        size = self.call(_aten.abs.default, weights)
        if isinstance(least, float):
            return self.call(_aten.clamp_min.default, size, least)
        if self.has_matrix:
            least = self.call(_aten.squeeze.dim, least, -1)
        return self.call(_aten.maximum.default, size, least)

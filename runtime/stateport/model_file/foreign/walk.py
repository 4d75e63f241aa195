# SPDX-License-Identifier: Apache-2.0
"""Walking through a graph: what each node does to time, and what ties steps together."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .dims import MOST_DIMS, MOST_NUMBERS, Dims, Value, may_grow, time_of
from .nodes import Graph, Node
from .sizes import computed_sizes

NOTHING: Final = Value()
#: Gives the values of a node's results, in their order. Nothing is known about those left out.
Rule = Callable[["Call"], Sequence[Value]]


@dataclass(frozen=True)
class Start:
    """An initial state of an operator over time, which depends on states of the file.

    Attributes:
        node: the operator, in words.
        operand: the name of the initial state.
        origins: what it depends on, as bits.
        last: the bit of what depends on the operator's last state.
    """

    node: str
    operand: str
    origins: int
    last: int


@dataclass
class Findings:
    """What ties a step to others of its call, and what may; in words, in the order of the nodes.

    `recurs` is whether a recurrent operator or a loop runs over time; `starts` are the initial
    states that states of the file give.
    """

    ties: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    recurs: bool = False


@dataclass(frozen=True)
class Call:
    """One node with the values of its operands.

    Attributes:
        node: the node.
        values: its operands, in order.
        present: which operands the node has; an optional one that it leaves out has no name.
        walk: what all nodes share.
        scope: the values around the node, by name.
    """

    node: Node
    values: tuple[Value, ...]
    present: tuple[bool, ...]
    walk: Walk
    scope: ChainMap[str, Value]

    def value(self, position: int) -> Value:
        """An operand; `NOTHING` where the node has none in this position."""
        if position < len(self.values):
            return self.values[position]
        return NOTHING

    def has(self, position: int) -> bool:
        """Whether the node has an operand in this position."""
        return position < len(self.present) and self.present[position]

    @property
    def origins(self) -> int:
        """The inputs of the graph whose data the operands depend on, as bits."""
        origins = 0
        for value in self.values:
            origins |= value.origins
        return origins

    @property
    def depends_on_fed(self) -> bool:
        """Whether any operand depends on an input that has time."""
        return bool(self.origins & self.walk.fed)

    def tie(self, what: str) -> None:
        """Notes that the node ties the steps of a call together, and how."""
        self.walk.findings.ties.append(f"{self.node} {what}")

    def doubt(self, what: str) -> None:
        """Notes that the node may tie the steps of a call together, and how."""
        self.walk.findings.doubts.append(f"{self.node} {what}")

    def is_fed(self, value: Value) -> bool:
        """Whether a value depends on an input that has time."""
        return bool(value.origins & self.walk.fed)

    def is_state(self, value: Value) -> bool:
        """Whether a value depends on a state."""
        return bool(value.origins & self.walk.states)

    def may_have_time(self, value: Value) -> bool:
        """Whether a value has an axis that grows with time, or may have one."""
        return time_of(value.dims) is not None or self.is_uncertain(value)

    def is_uncertain(self, value: Value) -> bool:
        """Whether it is unknown if an axis of a value grows with time, or which one does."""
        return may_grow(value.dims) and self.is_fed(value)


class Walk:
    """One walk through a graph.

    Args:
        rules: what operators do to time, by operator.
        opset: the version of ONNX's operators.
        fed: the bits of the inputs with time.
        states: the bits of the states.
        free: the first bit that no input has; last states of operators get bits from there on.
    """

    def __init__(
        self, rules: Mapping[str, Rule], opset: int, fed: int, states: int, free: int
    ) -> None:
        self._free = free
        self.rules = rules
        self.opset = opset
        self.fed = fed
        self.states = states
        self.findings = Findings()

    def new_bit(self) -> int:
        """A bit for what depends on the last state of one operator."""
        bit, self._free = self._free, self._free << 1
        return bit

    def graph(self, graph: Graph, scope: ChainMap[str, Value]) -> list[Value]:
        """The values of a graph's outputs.

        `scope` has the values of its inputs, and of everything around it.
        """
        values = scope.new_child()
        for name, tensor in graph.constants.items():
            values[name] = Value(tensor.shape, content=tensor.numbers)

        for node in graph.nodes:
            self._evaluate(node, values)
        return [values.get(name, NOTHING) for name in graph.outputs]

    def _evaluate(self, node: Node, values: ChainMap[str, Value]) -> None:
        """Adds the values of a node's results to `values`."""
        operands = tuple(values.get(name, NOTHING) for name in node.inputs)
        present = tuple(name != "" for name in node.inputs)
        call = Call(node, operands, present, self, values)

        results = self.results(call)
        for position, name in enumerate(node.outputs):
            if position < len(results):
                values[name] = bounded(results[position])
            else:
                values[name] = Value(origins=call.origins)

    def results(self, call: Call) -> Sequence[Value]:
        """The values of one node's results."""
        sizes = computed_sizes(call.node, call.values)
        if sizes is not None:
            return [sizes]

        rule = self.rules.get(call.node.operator, unknown)
        return rule(call)


def bounded(value: Value) -> Value:
    """The value, without dimensions or content that are too long to follow."""
    if value.dims is not None and len(value.dims) > MOST_DIMS:
        value = replace(value, dims=None)
    if value.content is not None and len(value.content) > MOST_NUMBERS:
        value = replace(value, content=None)
    return value


def unknown(call: Call) -> Sequence[Value]:
    """The rule of operators without a rule."""
    if call.depends_on_fed:
        call.doubt("may tie the steps of a call together")
    return ()


def like(call: Call, dims: Dims | None, *, context: bool = False) -> Value:
    """A result of this shape that depends on what the operands depend on."""
    return Value(dims, call.origins, context=context)

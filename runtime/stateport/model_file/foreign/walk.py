"""Walking through a graph: what each node makes of time, and what ties steps together."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .dims import MOST_DIMS, MOST_NUMBERS, Dims, Value, may_grow, time_of
from .nodes import Graph, Node
from .sizes import computed

NOTHING: Final = Value()
#: Makes values of a node's results, in their order; those that it leaves out are not known.
Rule = Callable[["Call"], Sequence[Value]]


@dataclass
class Findings:
    """What ties a step to others of its call, and what may; in words, in the order of the nodes.

    `recurs` says that a recurrent operator or a loop runs over time.
    """

    ties: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    recurs: bool = False


@dataclass(frozen=True)
class Call:
    """One node with the values that it is given.

    Attributes:
        node: the node.
        values: its operands, in order.
        given: which of them are there; an operand that may be left out has no name.
        walk: what all nodes share.
        scope: the values around it, by name.
    """

    node: Node
    values: tuple[Value, ...]
    given: tuple[bool, ...]
    walk: Walk
    scope: ChainMap[str, Value]

    def value(self, place: int) -> Value:
        """An operand; nothing is known of one that is not there."""
        return self.values[place] if place < len(self.values) else NOTHING

    def has(self, place: int) -> bool:
        """Whether an operand is there."""
        return place < len(self.given) and self.given[place]

    @property
    def origins(self) -> int:
        """The inputs of the graph whose data the operands depend on."""
        origins = 0
        for value in self.values:
            origins |= value.origins
        return origins

    def tie(self, what: str) -> None:
        """Notes what ties the steps of a call together."""
        self.walk.findings.ties.append(f"{self.node} {what}")

    def doubt(self, what: str) -> None:
        """Notes what may do so."""
        self.walk.findings.doubts.append(f"{self.node} {what}")

    def is_fed(self, value: Value) -> bool:
        """Whether a value depends on an input that has time."""
        return bool(value.origins & self.walk.fed)

    def is_state(self, value: Value) -> bool:
        """Whether a value depends on a state."""
        return bool(value.origins & self.walk.states)

    def may_have_time(self, value: Value) -> bool:
        """Whether a value has an axis that grows with time, as far as is known."""
        return time_of(value.dims) is not None or self.is_uncertain(value)

    def is_uncertain(self, value: Value) -> bool:
        """Whether it is not known if an axis of a value grows with time, or which does."""
        return may_grow(value.dims) and self.is_fed(value)


class Walk:
    """One walk through a graph; `fed` are the bits of inputs with time, `states` of states."""

    def __init__(self, rules: Mapping[str, Rule], opset: int, fed: int, states: int) -> None:
        self.rules = rules
        self.opset = opset
        self.fed = fed
        self.states = states
        self.findings = Findings()

    def graph(self, graph: Graph, scope: ChainMap[str, Value]) -> list[Value]:
        """Walks through a graph whose inputs, and all that is around it, are in `scope`."""
        values = scope.new_child()
        for name, tensor in graph.constants.items():
            values[name] = Value(tensor.shape, content=tensor.numbers)
        for node in graph.nodes:
            operands = tuple(values.get(name, NOTHING) for name in node.inputs)
            call = Call(node, operands, tuple(name != "" for name in node.inputs), self, values)
            results = self.results(call)
            for place, name in enumerate(node.outputs):
                known = place < len(results)
                values[name] = bounded(results[place]) if known else Value(origins=call.origins)
        return [values.get(name, NOTHING) for name in graph.outputs]

    def results(self, call: Call) -> Sequence[Value]:
        """What one node gives."""
        sizes = computed(call.node, call.values)
        if sizes is not None:
            return [sizes]
        return self.rules.get(call.node.operator, unknown)(call)


def bounded(value: Value) -> Value:
    """The value, without what is longer than arrays and lists of sizes are."""
    if value.dims is not None and len(value.dims) > MOST_DIMS:
        value = replace(value, dims=None)
    if value.content is not None and len(value.content) > MOST_NUMBERS:
        value = replace(value, content=None)
    return value


def unknown(call: Call) -> Sequence[Value]:
    """An operator that nothing is known of."""
    if any(call.is_fed(value) for value in call.values):
        call.doubt("may tie the steps of a call together")
    return ()


def like(call: Call, dims: Dims | None, *, context: bool = False) -> Value:
    """A result of this shape that depends on what the operands depend on."""
    return Value(dims, call.origins, context=context)

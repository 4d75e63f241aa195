"""Which input and output of the graph are one state: found by following the data, not by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from .errors import ExportError
from .layers import Recurrent

# Operators that move values without computing: a state is still the same state behind them. Their
# first operand is the data (all operands, for Concat).
_MOVES: Final = frozenset(
    {"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)


@dataclass(frozen=True)
class StatePair:
    """One state: which of the graph's inputs takes it, which output gives the next one.

    Positions, because the values themselves are replaced when the layers are written in ONNX.
    `name` is what it is called where the author gave no name: "h0", or "encoder_lstm_h0" where
    several layers have states; None where one tensor holds several states.
    """

    input: int
    output: int
    name: str | None


def find_states(graph: ir.Graph, layers: Iterable[Recurrent]) -> list[StatePair]:
    """Pairs the inputs and outputs that carry the states of these layers.

    An input and an output are one state when they carry the same states of the same layers.

    Raises:
        ExportError: a layer's first state is not an argument of forward, or its last one is not
            returned, or an argument and a result cannot be paired.
    """
    layers = list(layers)
    inputs: dict[ir.Value, set[str]] = {}
    outputs: dict[ir.Value, set[str]] = {}
    for number, layer in enumerate(layers):
        prefix = "" if len(layers) == 1 else f"{layer.path.replace('.', '_')}_"
        for letter, first, last in layer.states:
            role = f"{number}:{prefix}{letter}0"
            inputs.setdefault(_source(graph, layer, letter, first), set()).add(role)
            for output in _targets(graph, layer, letter, last):
                outputs.setdefault(output, set()).add(role)
    return [
        StatePair(position, graph.outputs.index(_next(value, inputs[value], outputs)), name)
        for position, value in enumerate(graph.inputs)
        if value in inputs
        for name in [_role_name(inputs[value])]
    ]


def _role_name(roles: set[str]) -> str | None:
    return next(iter(roles)).split(":", 1)[1] if len(roles) == 1 else None


def _source(graph: ir.Graph, layer: Recurrent, letter: str, value: ir.Value) -> ir.Value:
    """The graph's input that a layer's first state comes from, moved but not computed."""
    sources = set(_back(value))
    if len(sources) == 1 and (source := sources.pop()) in graph.inputs:
        return source
    raise ExportError(
        f"{_name(layer)} starts from a {_STATE[letter]} that is not an argument of forward. "
        f"Take it as an argument and pass it on: {layer.path or 'lstm'}(x, (h0, c0))."
    )


def _back(value: ir.Value) -> Iterable[ir.Value]:
    node = value.producer()
    if node is None or node.op_type not in _MOVES:
        yield value
        return
    operands = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    for operand in operands:
        if operand is not None:
            yield from _back(operand)


def _targets(graph: ir.Graph, layer: Recurrent, letter: str, value: ir.Value) -> set[ir.Value]:
    """The graph's outputs that a layer's last state goes to, moved but not computed."""
    seen, todo = set(), [value]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for node, position in current.uses():
            if node.op_type in _MOVES and (position == 0 or node.op_type == "Concat"):
                todo.extend(node.outputs)
    found = {output for output in graph.outputs if output in seen}
    if not found:
        raise ExportError(
            f"{_name(layer)} has a {_STATE[letter]} after the last step that forward does not "
            "return. Return it beside the output: return y, hn, cn."
        )
    return found


def _next(value: ir.Value, roles: set[str], outputs: dict[ir.Value, set[str]]) -> ir.Value:
    """The output that carries the same states as this input."""
    same = [output for output, others in outputs.items() if others == roles]
    shape = [str(dim) for dim in value.shape or ()]
    fits = [o for o in same if [str(d) for d in o.shape or ()] == shape and o.dtype == value.dtype]
    if len(fits) != 1:
        candidates = ", ".join(f"{o.name}{_shape(o)}" for o in same) or "none of the results"
        raise ExportError(
            f"The argument {value.name!r} {_shape(value)} holds a state, and the result that gives "
            f"the next one is not clear: {candidates}. Return exactly one, of the same shape."
        )
    return fits[0]


_STATE: Final = {"h": "hidden state", "c": "cell state"}


def _name(layer: Recurrent) -> str:
    return f"The {layer.kind} {layer.path!r}" if layer.path else f"The {layer.kind}"


def _shape(value: ir.Value) -> str:
    return "[" + ", ".join(str(dim) for dim in value.shape or ()) + "]"

# SPDX-License-Identifier: Apache-2.0
"""How each kind of recurrent layer is written in ONNX: one file per kind."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from stateport.picking import sure

from ..capture.loop_step import capture_step
from ..capture.recorders import DOMAIN, Loop
from ..errors import ExportError
from . import gru, loop, lstm, rnn
from .stack import WriteLayer, write

__all__ = ["Recurrent", "expand", "find", "module_path"]

LOOP: Final = "LOOP"


@dataclass(frozen=True)
class Recurrent:
    """One call of a recurrent layer in a captured graph, or a loop over time.

    Attributes:
        node: the opaque node that the call was captured as.
        call: the number of the call, in the order of forward.
        path: the layer's path in the author's module: "encoder.lstm".
        states: for each state its usual letter, the operand that takes the state, and the result
            that gives the next one.
        x: the sequence.
        time: the axis of `x` that is time.
        bidirectional: whether it runs over the sequence in both directions.
        lengths: the operand with the length of each row, where sequences are packed.
        stacks: for each state, the result that holds it after every step; None where there is none.
    """

    node: ir.Node
    call: int
    path: str
    states: tuple[tuple[str, ir.Value, ir.Value], ...]
    x: ir.Value
    time: int
    bidirectional: bool
    lengths: ir.Value | None = None
    stacks: tuple[ir.Value | None, ...] = ()

    @property
    def kind(self) -> str:
        """The layer's kind, "LSTM"."""
        return self.node.op_type.partition("_")[0]

    def __str__(self) -> str:
        what = "loop" if self.node.op_type == LOOP else self.kind
        return f"the {what} {self.path!r}" if self.path else f"the {what}"


#: Kind -> the letters of its states, and what writes one layer of it.
_KINDS: Final[dict[str, tuple[str, WriteLayer]]] = {
    "LSTM": ("hc", lstm.write_layer),
    "GRU": ("h", gru.write_layer),
    "RNN_TANH": ("h", rnn.write_tanh_layer),
    "RNN_RELU": ("h", rnn.write_relu_layer),
}


def find(graph: ir.Graph) -> list[Recurrent]:
    """The recurrent layers of a captured graph, in the order in which forward calls them."""
    layers = []
    for node in graph:
        if node.domain == DOMAIN:
            described = _describe_loop(node) if node.op_type == LOOP else _describe_layer(node)
            layers.append(described)
    return sorted(layers, key=lambda layer: layer.call)


def _describe_layer(node: ir.Node) -> Recurrent:
    letters, _ = _KINDS[node.op_type]
    attribute = {name: a.as_int() for name, a in node.attributes.items()}

    states = tuple(
        (letter, _operand(node, position), node.outputs[position])
        for position, letter in enumerate(letters, start=1)
    )

    lengths = node.inputs[-1] if attribute["has_lengths"] else None
    return Recurrent(
        node,
        attribute["call"],
        module_path(node),
        states,
        _operand(node, 0),
        attribute["batch_first"],
        bool(attribute["bidirectional"]),
        lengths,
        (_stack_of_layer(node, attribute), *(None for _ in letters[1:])),
    )


def _stack_of_layer(node: ir.Node, attribute: Mapping[str, int]) -> ir.Value | None:
    """The result of a layer that holds its hidden state after every step."""
    is_plain = attribute["num_layers"] == 1 and not attribute["bidirectional"]
    if is_plain and not attribute["has_lengths"]:
        return node.outputs[0]
    return None


def _describe_loop(node: ir.Node) -> Recurrent:
    count = node.attributes["states"].as_int()
    letters = ["h"] if count == 1 else [f"s{number + 1}_" for number in range(count)]

    states = tuple(
        (letter, _operand(node, position), node.outputs[position])
        for position, letter in enumerate(letters)
    )

    return Recurrent(
        node,
        node.attributes["call"].as_int(),
        _below_wrappers(node.attributes["path"].as_string()),
        states,
        _operand(node, count),
        0,
        bidirectional=False,
        stacks=tuple(
            node.outputs[count + number] if number >= 0 else None
            for number in node.attributes["stacks"].as_ints()[:count]
        ),
    )


def _operand(node: ir.Node, position: int) -> ir.Value:
    return sure(node.inputs[position])


def expand(graph: ir.Graph, layers: list[Recurrent], loops: Mapping[int, Loop], opset: int) -> None:
    """Writes every recurrent layer in ONNX, in place of its opaque node.

    `loops` are the steps of loops over time, by the number of the call.

    Raises:
        ExportError: a layer cannot be written in ONNX.
    """
    for layer in layers:
        if layer.node.op_type == LOOP:
            loop.write(layer.node, layer.path, capture_step(loops[layer.call], opset))
        else:
            letters, write_layer = _KINDS[layer.node.op_type]
            write(layer.node, layer.path, len(letters), write_layer)

    if find(graph):
        raise ExportError("A recurrent layer is called where it cannot be written in ONNX.")


def module_path(node: ir.Node) -> str:
    """The path of the module that made the node, from what PyTorch's exporter notes on it.

    The exporter notes nothing in a network whose loops were rolled up. There the names of the
    layer's weights give the path.
    """
    scopes: list[str] = ast.literal_eval(
        node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
    )
    path = _below_wrappers(scopes[-2] if len(scopes) > 1 else "")
    if path:
        return path

    weights = (value.name or "" for value in node.inputs if value and value.is_initializer())
    return _below_wrappers(next(weights, "").rpartition(".")[0])


def _below_wrappers(path: str) -> str:
    """A path in the author's module, without stateport's own modules around it."""
    while path == "network" or path.startswith("network."):
        path = path.removeprefix("network").removeprefix(".")
    return path

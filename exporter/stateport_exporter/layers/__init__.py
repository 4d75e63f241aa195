"""How each kind of recurrent layer is written in ONNX: one file per kind."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from ..capture import DOMAIN
from ..errors import ExportError
from . import gru, lstm, rnn
from .stack import WriteLayer, write

__all__ = ["Recurrent", "expand", "find"]


@dataclass(frozen=True)
class Recurrent:
    """One call of a recurrent layer in a captured graph.

    `call` is the number of the call, in the order of forward; `path` is the layer's place in the
    module, "encoder.lstm"; `states` pairs the operand that takes a state with the result that gives
    the next one, by the state's usual letter.
    """

    node: ir.Node
    call: int
    path: str
    states: tuple[tuple[str, ir.Value, ir.Value], ...]
    bidirectional: bool

    @property
    def kind(self) -> str:
        """The layer's kind, "LSTM"."""
        return self.node.op_type.partition("_")[0]


# kind -> (which letter its states have, how one layer of it is written)
_KINDS: Final[dict[str, tuple[str, WriteLayer]]] = {
    "LSTM": ("hc", lstm.write_layer),
    "GRU": ("h", gru.write_layer),
    "RNN_TANH": ("h", rnn.write_tanh_layer),
    "RNN_RELU": ("h", rnn.write_relu_layer),
}


def find(graph: ir.Graph) -> list[Recurrent]:
    """The recurrent layers of a captured graph, in the order in which forward calls them."""
    found = []
    for node in graph:
        if node.domain != DOMAIN:
            continue
        letters, _ = _KINDS[node.op_type]
        states = []
        for position, letter in enumerate(letters, start=1):
            operand = node.inputs[position]
            assert operand is not None
            states.append((letter, operand, node.outputs[position]))
        bidirectional = bool(node.attributes["bidirectional"].as_int())
        call = node.attributes["call"].as_int()
        found.append(Recurrent(node, call, _module_path(node), tuple(states), bidirectional))
    return sorted(found, key=lambda layer: layer.call)


def expand(graph: ir.Graph, layers: list[Recurrent]) -> None:
    """Writes every recurrent layer in ONNX, in place of its opaque node."""
    for layer in layers:
        letters, write_layer = _KINDS[layer.node.op_type]
        write(layer.node, layer.path, len(letters), write_layer)
    if find(graph):
        raise ExportError("A recurrent layer stands where it cannot be written in ONNX.")


def _module_path(node: ir.Node) -> str:
    """The path of the module that made the node, from what PyTorch's exporter notes on it."""
    scopes: list[str] = ast.literal_eval(node.metadata_props["pkg.torch.onnx.name_scopes"])
    path = scopes[-2] if len(scopes) > 1 else ""
    return path.removeprefix("network").removeprefix(".")  # below `Explicit`

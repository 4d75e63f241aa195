# SPDX-License-Identifier: Apache-2.0
"""The nodes of an ONNX file, and the small constants that hold shapes and axes.

`onnx_outline` leaves these out; only files without a contract need them. The field numbers are
those of `onnx.proto` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

from ...picking import instances_of
from ..protobuf import Fields, MalformedError, bytes_of, int_of, ints_of, text_of

#: The names that onnx-ir gives to nodes without one; and no name at all.
_MADE_UP: Final = re.compile(r"(node(_\d+)?)?")
#: Graphs with more nodes are not read.
_MOST_NODES: Final = 20_000
#: The deepest nesting of graphs that is read; real files have two or three levels.
_DEEPEST: Final = 32
#: Axes, shapes and pads have a few numbers.
_MOST_NUMBERS: Final = 64
#: Fields of integers that are longer, in bytes, are not read.
_LONGEST_FIELD: Final = 1024
#: The bytes of an integer, by TensorProto.DataType: INT32 and INT64.
_INTEGERS: Final = {6: 4, 7: 8}

#: The fields of ModelProto, GraphProto, NodeProto, AttributeProto and TensorProto that are read.
_MODEL_GRAPH: Final = 7

_GRAPH_NODE: Final = 1
_GRAPH_INITIALIZER: Final = 5
_GRAPH_INPUT: Final = 11
_GRAPH_OUTPUT: Final = 12

_NODE_INPUT: Final = 1
_NODE_OUTPUT: Final = 2
_NODE_NAME: Final = 3
_NODE_OPERATOR: Final = 4
_NODE_ATTRIBUTE: Final = 5
_NODE_DOMAIN: Final = 7
_NODE_TEXTS: Final = (_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN)

_ATTRIBUTE_NAME: Final = 1
_ATTRIBUTE_INTEGER: Final = 3
_ATTRIBUTE_TEXT: Final = 4
_ATTRIBUTE_TENSOR: Final = 5
_ATTRIBUTE_GRAPH: Final = 6
_ATTRIBUTE_INTEGERS: Final = 8

_TENSOR_DIMS: Final = 1
_TENSOR_TYPE: Final = 2
_TENSOR_INTEGERS: Final = (5, 7)  # int32_data and int64_data
_TENSOR_NAME: Final = 8
_TENSOR_RAW: Final = 9


class TooManyNodesError(Exception):
    """The graph is too large to be read."""


@dataclass(frozen=True)
class Tensor:
    """The shape of a constant, and its numbers if it is a short list of integers."""

    shape: tuple[int, ...]
    numbers: tuple[int, ...] | None


@dataclass(frozen=True)
class Node:
    """One node.

    An operand that is left out has the name "". Operators outside of ONNX's own domain are
    written as "domain::operator".
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def __str__(self) -> str:
        # A name that lifting made up says nothing to those who wrote the file.
        if _MADE_UP.fullmatch(self.name):
            return self.operator
        return self.name

    def number(self, name: str, default: int) -> int:
        """The integer in an attribute; `default` where there is none."""
        value = self.attributes.get(name)
        return value if isinstance(value, int) else default

    def numbers(self, name: str) -> tuple[int, ...]:
        """The list of integers in an attribute; empty where there is none."""
        value = self.attributes.get(name)
        return value if isinstance(value, tuple) else ()

    def text(self, name: str, default: str) -> str:
        """The text in an attribute; `default` where there is none."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else default

    @property
    def graphs(self) -> list[Graph]:
        """The branches of an If, or the body of a loop."""
        return instances_of(Graph, self.attributes.values())


@dataclass
class Graph:
    """A graph: its nodes in order, the names of its inputs and outputs, and its constants."""

    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)


Attribute = int | str | tuple[int, ...] | Graph | Tensor


def read_nodes(path: Path) -> Graph:
    """The graph in a file whose outline has been read already.

    Raises:
        TooManyNodesError: it has too many nodes, or graphs nested too deeply.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    reader = _Reader()
    try:
        for number, value in Fields(memoryview(data)):
            if number == _MODEL_GRAPH:
                return reader.graph(bytes_of(value), depth=0)
    except MalformedError as error:  # the file has changed since its outline was read
        raise TooManyNodesError(str(error)) from None
    return Graph()


class _Reader:
    """Reads graphs, and counts their nodes."""

    def __init__(self) -> None:
        self._count = 0

    def graph(self, data: memoryview, depth: int) -> Graph:
        if depth > _DEEPEST:
            raise TooManyNodesError

        graph = Graph()
        for number, value in Fields(data):
            if number == _GRAPH_NODE:
                graph.nodes.append(self.node(bytes_of(value), depth))
            elif number == _GRAPH_INITIALIZER:
                name, tensor = _read_tensor(bytes_of(value))
                graph.constants[name] = tensor
            elif number == _GRAPH_INPUT:
                graph.inputs.append(_value_name(bytes_of(value)))
            elif number == _GRAPH_OUTPUT:
                graph.outputs.append(_value_name(bytes_of(value)))
        return graph

    def node(self, data: memoryview, depth: int) -> Node:
        self._count += 1
        if self._count > _MOST_NODES:
            raise TooManyNodesError

        texts: dict[int, list[str]] = {number: [] for number in _NODE_TEXTS}
        attributes: dict[str, Attribute] = {}
        for number, value in Fields(data):
            if number in texts:
                texts[number].append(text_of(value))
            elif number == _NODE_ATTRIBUTE:
                name, attribute = self.attribute(bytes_of(value), depth)
                if attribute is not None:
                    attributes[name] = attribute

        operator = _last(texts[_NODE_OPERATOR])
        domain = _last(texts[_NODE_DOMAIN])
        return Node(
            operator if domain in ("", "ai.onnx") else f"{domain}::{operator}",
            _last(texts[_NODE_NAME]),
            tuple(texts[_NODE_INPUT]),
            tuple(texts[_NODE_OUTPUT]),
            attributes,
        )

    def attribute(self, data: memoryview, depth: int) -> tuple[str, Attribute | None]:
        name = ""
        numbers: list[int] = []
        value: Attribute | None = None

        for number, content in Fields(data):
            if number == _ATTRIBUTE_NAME:
                name = text_of(content)
            elif number == _ATTRIBUTE_INTEGER:
                value = int_of(content)
            elif number == _ATTRIBUTE_TEXT:
                value = str(bytes_of(content), "utf-8", "replace")
            elif number == _ATTRIBUTE_TENSOR:
                _, value = _read_tensor(bytes_of(content))
            elif number == _ATTRIBUTE_GRAPH:
                value = self.graph(bytes_of(content), depth + 1)
            elif number == _ATTRIBUTE_INTEGERS and len(numbers) < _MOST_NUMBERS:
                numbers += ints_of(content, _MOST_NUMBERS)

        return name, tuple(numbers) if numbers else value


def _last(texts: Sequence[str]) -> str:
    """The last text, which counts where a field is repeated; "" where it is absent."""
    return texts[-1] if texts else ""


def _read_tensor(data: memoryview) -> tuple[str, Tensor]:
    """The name of a TensorProto, and what is kept of it."""
    name = ""
    kind = 0
    dims: list[int] = []
    numbers: list[int] = []
    raw = memoryview(b"")

    for number, value in Fields(data):
        if number == _TENSOR_DIMS:
            dims += ints_of(value, _MOST_NUMBERS)
        elif number == _TENSOR_TYPE:
            kind = int_of(value)
        elif number in _TENSOR_INTEGERS and not _is_long(value):
            numbers += ints_of(value, _MOST_NUMBERS)
        elif number == _TENSOR_NAME:
            name = text_of(value)
        elif number == _TENSOR_RAW:
            raw = bytes_of(value)

    shape = tuple(dims[:_MOST_NUMBERS])
    return name, Tensor(shape, _short_integers(kind, shape, raw, numbers))


def _is_long(value: int | memoryview) -> bool:
    return isinstance(value, memoryview) and len(value) >= _LONGEST_FIELD


def _short_integers(
    kind: int, shape: Sequence[int], raw: memoryview, numbers: Sequence[int]
) -> tuple[int, ...] | None:
    """The elements of a tensor, from whichever field holds them; None if not a few integers."""
    count = prod(shape)
    if kind not in _INTEGERS or len(shape) > 1 or not 0 <= count <= _MOST_NUMBERS:
        return None

    size = _INTEGERS[kind]
    if len(raw) == count * size and not numbers:
        return tuple(np.frombuffer(raw, f"<i{size}").tolist())
    if len(numbers) == count:
        return tuple(numbers)
    return None


def _value_name(data: memoryview) -> str:
    """The name in a ValueInfoProto."""
    for number, value in Fields(data):
        if number == 1:
            return text_of(value)
    return ""

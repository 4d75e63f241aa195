"""The nodes of an ONNX file, and the small constants that say along which axes they work.

What `onnx_file` leaves out of its outline, for the files without a contract. The field numbers are
those of `onnx.proto` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

from ..protobuf import Fields, MalformedError, bytes_of, int_of, ints_of, text_of

#: More nodes than this are not looked through.
_MOST_NODES: Final = 20_000
#: Graphs within graphs; real files have two or three.
_DEEPEST: Final = 32
#: Axes, shapes and pads have a few numbers.
_MOST_NUMBERS: Final = 64
#: TensorProto.DataType -> bytes.
_INTEGERS: Final = {6: 4, 7: 8}


class TooManyNodesError(Exception):
    """The graph is too large to be looked through."""


@dataclass(frozen=True)
class Tensor:
    """The shape of a constant; and its numbers, where it is a short one of integers."""

    shape: tuple[int, ...]
    numbers: tuple[int, ...] | None


@dataclass(frozen=True)
class Node:
    """One node. An operand that is left out has no name; operators of ONNX have no domain."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def __str__(self) -> str:
        return self.name or self.operator

    def number(self, name: str, default: int) -> int:
        """An integer among the attributes."""
        value = self.attributes.get(name)
        return value if isinstance(value, int) else default

    def numbers(self, name: str) -> tuple[int, ...]:
        """A list of integers among the attributes; empty where there is none."""
        value = self.attributes.get(name)
        return value if isinstance(value, tuple) else ()

    def text(self, name: str, default: str) -> str:
        """A text among the attributes."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) else default

    @property
    def graphs(self) -> list[Graph]:
        """The branches of an If, the body of a loop."""
        return [value for value in self.attributes.values() if isinstance(value, Graph)]


@dataclass
class Graph:
    """A graph: its nodes in order, and the names of what goes in and comes out."""

    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)


Attribute = int | str | tuple[int, ...] | Graph | Tensor


def read_nodes(path: Path) -> Graph:
    """The graph in a file whose outline has been read.

    Raises:
        TooManyNodesError: it has more nodes than are looked through, or graphs nested too deeply.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = _Reader()
    try:
        for number, value in Fields(memoryview(data)):
            if number == 7:
                return reader.graph(bytes_of(value), depth=0)
    except MalformedError as error:  # it has been changed since
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
            if number == 1:
                graph.nodes.append(self.node(bytes_of(value), depth))
            elif number == 5:
                name, tensor = _tensor(bytes_of(value))
                graph.constants[name] = tensor
            elif number == 11:
                graph.inputs.append(_name(bytes_of(value)))
            elif number == 12:
                graph.outputs.append(_name(bytes_of(value)))
        return graph

    def node(self, data: memoryview, depth: int) -> Node:
        self._count += 1
        if self._count > _MOST_NODES:
            raise TooManyNodesError
        texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
        attributes: dict[str, Attribute] = {}
        for number, value in Fields(data):
            if number in texts:
                texts[number].append(text_of(value))
            elif number == 5:
                name, attribute = self.attribute(bytes_of(value), depth)
                if attribute is not None:
                    attributes[name] = attribute
        operator, domain = "".join(texts[4][-1:]), "".join(texts[7][-1:])
        return Node(
            operator if domain in ("", "ai.onnx") else f"{domain}::{operator}",
            "".join(texts[3][-1:]),
            tuple(texts[1]),
            tuple(texts[2]),
            attributes,
        )

    def attribute(self, data: memoryview, depth: int) -> tuple[str, Attribute | None]:
        name, numbers = "", list[int]()
        value: Attribute | None = None
        for number, content in Fields(data):
            if number == 1:
                name = text_of(content)
            elif number == 3:
                value = int_of(content)
            elif number == 4:
                value = str(bytes_of(content), "utf-8", "replace")
            elif number == 5:
                value = _tensor(bytes_of(content))[1]
            elif number == 6:
                value = self.graph(bytes_of(content), depth + 1)
            elif number == 8 and len(numbers) < _MOST_NUMBERS:
                numbers += ints_of(content, _MOST_NUMBERS)
        return name, tuple(numbers) if numbers else value


def _tensor(data: memoryview) -> tuple[str, Tensor]:
    name, kind, dims, numbers = "", 0, list[int](), list[int]()
    raw = memoryview(b"")
    for number, value in Fields(data):
        if number == 1:
            dims += ints_of(value, _MOST_NUMBERS)
        elif number == 2:
            kind = int_of(value)
        elif number in (5, 7) and len(value if isinstance(value, memoryview) else b"") < 1024:
            numbers += ints_of(value, _MOST_NUMBERS)
        elif number == 8:
            name = text_of(value)
        elif number == 9:
            raw = bytes_of(value)
    shape = tuple(dims[:_MOST_NUMBERS])
    return name, Tensor(shape, _short(kind, shape, raw, numbers))


def _short(
    kind: int, shape: Sequence[int], raw: memoryview, numbers: Sequence[int]
) -> tuple[int, ...] | None:
    """The numbers of a short tensor of integers, which stand in one field or another."""
    if kind not in _INTEGERS or len(shape) > 1 or not 0 <= prod(shape) <= _MOST_NUMBERS:
        return None
    count = prod(shape)
    if len(raw) == count * _INTEGERS[kind] and not numbers:
        return tuple(np.frombuffer(raw, f"<i{_INTEGERS[kind]}").tolist())
    return tuple(numbers) if len(numbers) == count else None


def _name(data: memoryview) -> str:
    for number, value in Fields(data):
        if number == 1:
            return text_of(value)
    return ""

# SPDX-License-Identifier: Apache-2.0
"""Names in C for the names of a graph, which may be any text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import onnx

#: Words of C and C++, and names that the written files use themselves.
_RESERVED: Final = frozenset(
    re.findall(
        r"\w+",
        """
    alignas alignof and asm auto bool break case catch char class const constexpr continue default
    delete do double else enum explicit export extern false float for friend goto if inline int long
    main mutable namespace new not nullptr operator or private protected public register restrict
    return short signed sizeof static struct switch template this throw true try typedef typeid
    typename union unsigned using virtual void volatile wchar_t while xor
    compute i idx_t memcpy memset size_t sigmoid_of state steps tanh_of
        """,
    )
)
#: Macros of C's headers (`NULL`, `INFINITY`), their types (`int8_t`), and names of the source.
_KINDS: Final = re.compile(r"[A-Z][A-Z0-9_]+|\w+_t|(next|product|node\d+)_\w+")
#: C99 promises to tell names apart by their first 63 characters.
_LONGEST: Final = 48


def give_names(model: onnx.ModelProto, prefix: str) -> dict[str, str]:
    """Gives every value of a graph a name in C, in place, and drops all other text.

    `prefix` begins the names of the functions and the type in the header.

    Returns:
        The new names of the graph's inputs and outputs, by the old ones.
    """
    taken = {f"{prefix}_{end}".lower() for end in ("reset", "run", "state", "step")}
    names = {"": ""}
    graph = model.graph
    ports = [*(value.name for value in graph.input), *(value.name for value in graph.output)]
    for name in ports:
        if name not in names:
            names[name] = identifier(name, taken)

    for inner in _graphs(graph):
        _rename(inner, names, taken)
    _forget_text(model)
    return {name: names[name] for name in ports}


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph, and the graphs inside of it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _rename(graph: onnx.GraphProto, names: dict[str, str], taken: set[str]) -> None:
    """Renames the values of one graph; values of graphs around it have their names already."""

    def new(name: str) -> str:
        if name not in names:
            names[name] = identifier(name, taken)
        return names[name]

    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new(value.name)
        value.doc_string = ""
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
        tensor.doc_string = ""

    graph.name = "step"
    graph.doc_string = ""
    for number, node in enumerate(graph.node):
        node.name = f"{re.sub('[^a-z0-9]', '', node.op_type.lower())}_{number}"
        node.doc_string = ""
        for operands in (node.input, node.output):
            operands[:] = [new(name) for name in operands]


def _forget_text(model: onnx.ModelProto) -> None:
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version", "domain"):
        model.ClearField(field)
    for graph in _graphs(model.graph):
        graph.ClearField("metadata_props")
        graph.ClearField("quantization_annotation")


def identifier(name: str, taken: set[str]) -> str:
    """A name in C that is like this name.

    `taken` are the names that it must differ from, also where case does not count, because sizes
    are constants in capitals. It gets the new one.
    """
    text = re.sub(r"[^A-Za-z0-9_]", "_", name)[:_LONGEST].strip("_") or "value"
    if text[0].isdigit():
        text = f"n{text}"
    if text in _RESERVED or _KINDS.fullmatch(text):
        text = f"{text}_"

    unique, number = text, 2
    while unique.lower() in taken:
        unique = f"{text}_{number}"
        number += 1
    taken.add(unique.lower())
    return unique

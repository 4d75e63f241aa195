"""The comparisons that PyTorch's exporter took for granted when it wrote a program.

A program is right at all sizes at which they come out as they did while it was traced.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..blame import Line
from ..example import Leaf
from .comparisons import Comparison, comparison_of, switches, value_of
from .foreseen import Array


@dataclass(frozen=True)
class Text:
    """A size that forward made a text of, and the numbers that its code mentions."""

    expression: Any
    line: Line
    numbers: Sequence[int]


def guards(
    program: torch.export.ExportedProgram, leaves: Sequence[Leaf], texts: Sequence[Text] = ()
) -> list[Comparison]:
    """The comparisons behind a program whose inputs are these leaves, each once."""
    named = program.graph.find_nodes(op="placeholder")
    users = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in named if node.name in users]
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    axes = _symbols(tensors, leaves)
    if not axes:
        return []
    symbolic = [
        size for size in itertools.chain(*map(_sizes, tensors)) if not isinstance(size, int)
    ]
    environment = symbolic[0].node.shape_env
    asked = {guard.expr: None for guard in environment.guards}
    asked |= dict.fromkeys(_switches(program))
    for deferred in environment.deferred_runtime_asserts.values():
        asked |= {one.expr: None for one in deferred}
    found = [comparison_of(expr, True, axes) for expr in asked]
    found += [_of_text(text, axes) for text in texts]
    return [comparison for comparison in found if comparison is not None]


def _symbols(tensors: Sequence[Tensor], leaves: Sequence[Leaf]) -> dict[Any, str]:
    """The axis that each symbol is the size of."""
    symbols: dict[Any, str] = {}
    for tensor, leaf in zip(tensors, leaves, strict=False):
        for size, axis in zip(_sizes(tensor), leaf.shape, strict=True):
            if isinstance(size, torch.SymInt) and isinstance(axis, str):
                symbols[size.node.expr] = axis
    return {symbol: axis for symbol, axis in symbols.items() if symbol.is_Symbol}


def _sizes(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape)  # whose type leaves torch.SymInt out


def _switches(program: torch.export.ExportedProgram) -> Iterator[Any]:
    """What decides a size of the program's own: the smaller or larger one of two."""
    seen = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        sizes = _sizes(value) if isinstance(value, Tensor) else (value,)
        for size in sizes:
            expression = size.node.expr if isinstance(size, torch.SymInt) else None
            if expression is not None and expression.args and expression not in seen:
                seen.add(expression)
                yield from switches(expression)


def _of_text(text: Text, axes: Mapping[Any, str]) -> Comparison | None:
    """A text turns where it gets longer, or where the number is one that the code mentions."""
    symbols = text.expression.free_symbols
    if not symbols or not symbols <= axes.keys():
        return None

    def length(sizes: Mapping[str, Any]) -> Array:
        size = value_of(text.expression, {symbol: sizes[axes[symbol]] for symbol in symbols})
        digits = np.floor(np.log10(np.maximum(size, 1)))
        return np.asarray(digits + 100 * np.isin(size, text.numbers))

    return Comparison(frozenset(axes[symbol] for symbol in symbols), length, text.line, most=16)

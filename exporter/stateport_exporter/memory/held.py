"""What a program's results hang on besides its inputs: tensors of the network's own, and chance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, OutputKind

#: Operators that take of their first operand what it is like, and not its values.
_LIKE: Final = frozenset(
    {
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "rand_like",
        "randn_like",
        "randint_like",
    }
    | {"new_zeros", "new_ones", "new_full", "new_empty", "zero", "fill", "copy"}
    | {"sym_size", "sym_stride", "sym_numel"}
)


def held_tensors(program: torch.export.ExportedProgram) -> list[Tensor]:
    """The parameters, buffers and other tensors of the network that a functional program reads."""
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    tensors = []
    for node in _behind(program):
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is not None and spec.kind is not InputKind.USER_INPUT and spec.target is not None:
            named: Any = program.state_dict.get(spec.target, program.constants.get(spec.target))
            if isinstance(named, Tensor):
                tensors.append(named)
    return tensors


def drawn_at(program: torch.export.ExportedProgram) -> list[fx.Node]:
    """The nodes that draw random numbers which results hang on."""
    return [
        node
        for node in _behind(program)
        if isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in node.target.tags
    ]


def _behind(program: torch.export.ExportedProgram) -> Iterator[fx.Node]:
    """The nodes that the author's results are computed from."""
    [output] = program.graph.find_nodes(op="output")
    specs = program.graph_signature.output_specs
    waiting = [
        node
        for node, spec in zip(output.args[0], specs, strict=True)
        if spec.kind is OutputKind.USER_OUTPUT and isinstance(node, fx.Node)
    ]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        for operand in _operands(node):
            if operand not in seen:
                seen.add(operand)
                waiting.append(operand)


def _operands(node: fx.Node) -> list[fx.Node]:
    """The nodes whose values a node computes with."""
    name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
    if name in _LIKE:
        others = [arg for arg in node.args[1:] if isinstance(arg, fx.Node)]
        return [*others, *(arg for arg in node.kwargs.values() if isinstance(arg, fx.Node))]
    return node.all_input_nodes

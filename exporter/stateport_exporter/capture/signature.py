"""What a captured program takes and gives: names of the author's, axes, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..network.example import Example, leaves_by_name


def refuse_mutation(program: torch.export.ExportedProgram, example: Example) -> None:
    """Refuses a network that writes into an argument.

    Raises:
        ExportError: it does; which argument.
    """
    # Buffers are another matter: `states.checks` finds out whether updating them has any effect.
    signature = program.graph_signature
    given = [spec.arg for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    tensors = [arg.name for arg in given if isinstance(arg, TensorArgument)]
    for name in signature.user_inputs_to_mutate.values():
        leaf = example.leaves[tensors.index(name)]
        raise ExportError(
            f"forward writes into its argument '{leaf}', which an ONNX file cannot do. Return the "
            "new value instead."
        )


def check_inputs(model: ir.Model, example: Example) -> None:
    """Checks that the graph takes the tensors of the example, no more and no fewer.

    Raises:
        ExportError: it takes others.
    """
    if len(model.graph.inputs) != len(example.leaves):
        names = ", ".join(str(value.name) for value in model.graph.inputs)
        raise ExportError(
            f"The example has {len(example.leaves)} tensors, but the exported graph takes {names}."
        )


def input_paths(module: nn.Module, example: Example) -> tuple[tuple[str, ...], ...]:
    """What each argument is called: the parameter, and the path in a container."""
    paths = [leaf.path for leaf in example.leaves]
    own = type(module).forward.__module__ == nn.RNNBase.__module__
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and own:  # PyTorch's names, not an author's
        paths = [("x", *path[1:]) if path[0] == "input" else (*path, "0") for path in paths]
    return tuple(paths)


def output_paths(program: torch.export.ExportedProgram) -> tuple[tuple[str, ...], ...]:
    """Where each of the author's results stands: keys of dicts, fields, positions.

    None is no result, and PyTorch's exporter leaves it out.
    """
    structure, signature = program.call_spec.out_spec, program.graph_signature
    given = [spec.arg for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    assert structure is not None
    results = leaves_by_name(pytree.tree_unflatten(given, structure))
    paths = []
    for (which, *path), result in results:
        if isinstance(result, ConstantArgument) and result.value is None:
            continue
        if not isinstance(result, TensorArgument):
            what = repr(result.value) if isinstance(result, ConstantArgument) else "a number"
            place = ".".join(path) or "the result"
            raise ExportError(
                f"forward returns something besides tensors: {place!r} is {what}. An ONNX file "
                "gives tensors only; leave it out."
            )
        if which == "0":
            paths.append(tuple(path))
    return tuple(paths)


def name_axes(model: ir.Model, example: Example) -> None:
    """Replaces PyTorch's symbols (s15, 2*s27) by the names of the axes (batch, 2*time)."""
    symbols: dict[str, str] = {}
    for value, leaf in zip(model.graph.inputs, example.leaves, strict=True):
        for dim, axis in zip(value.shape or (), leaf.shape, strict=True):
            if isinstance(axis, str) and isinstance(dim, ir.SymbolicDim):
                symbols[str(dim.value)] = axis
            elif isinstance(axis, str):
                raise ExportError(f"The exported graph fixes axis {axis!r} of {leaf} at {dim}.")
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, symbols)) + r")\b") if symbols else None
    for value in _values(model.graph):
        if value.shape is not None and pattern is not None:
            value.shape = ir.Shape(
                dim
                if isinstance(dim, int)
                else pattern.sub(lambda match: symbols[match[1]], str(dim.value))
                for dim in value.shape
            )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs

# SPDX-License-Identifier: Apache-2.0
"""The arguments and results of a captured program: their names and axes, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import onnx_ir as ir
import torch
from torch import nn
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    OutputKind,
    TensorArgument,
)
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..graph.dataflow import all_values, map_dims, name_of_dim
from ..network.example import Example, leaves_by_name

#: The size of an axis that is a multiple of a number, as PyTorch writes it.
_MULTIPLE = re.compile(r"(\d+)\*(\w+)")


def refuse_mutation(program: torch.export.ExportedProgram, example: Example) -> None:
    """Refuses a network that writes into an argument.

    Raises:
        ExportError: it does; the message names the argument.
    """
    # Buffers are checked elsewhere: `states.checks` sees whether updating them has any effect.
    signature = program.graph_signature
    names = list(_argument_names(signature))

    for name in signature.user_inputs_to_mutate.values():
        leaf = example.leaves[names.index(name)]
        raise ExportError(
            f"forward writes into its argument '{leaf}', which an ONNX file cannot do. Return the "
            "new value instead."
        )


def _argument_names(signature: ExportGraphSignature) -> Iterator[str]:
    """The program's names of the author's tensor arguments, in order."""
    for spec in signature.input_specs:
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            yield spec.arg.name


def check_inputs(model: ir.Model, example: Example) -> None:
    """Checks that the graph takes the tensors of the example, no more and no fewer.

    Raises:
        ExportError: their number is not the same.
    """
    if len(model.graph.inputs) != len(example.leaves):
        names = ", ".join(str(value.name) for value in model.graph.inputs)
        raise ExportError(
            f"The example has {len(example.leaves)} tensors, but the exported graph takes {names}."
        )


def input_paths(module: nn.Module, example: Example) -> tuple[tuple[str, ...], ...]:
    """The path of each argument: its parameter, and the keys in a container."""
    paths = [leaf.path for leaf in example.leaves]
    is_layer = isinstance(module, nn.RNNBase | nn.RNNCellBase)
    if is_layer and type(module).forward.__module__ == nn.RNNBase.__module__:
        # These names are PyTorch's, not an author's.
        paths = list(map(_path_in_layer, paths))
    return tuple(paths)


def _path_in_layer(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of an argument of one of PyTorch's layers: the input "x", or a state."""
    return ("x", *path[1:]) if path[0] == "input" else (*path, "0")


def output_paths(program: torch.export.ExportedProgram) -> tuple[tuple[str, ...], ...]:
    """The path of each of the author's results: keys of dicts, fields, positions.

    Results that are None are left out, as by PyTorch's exporter.

    Raises:
        ExportError: a result is neither a tensor nor None, or is complex.
    """
    structure = program.call_spec.out_spec
    signature = program.graph_signature

    outputs = []
    for spec in signature.output_specs:
        if spec.kind is OutputKind.USER_OUTPUT:
            outputs.append(spec.arg)

    assert structure is not None

    paths = []
    # The first key is "0" for the author's results and "1" for states.
    for (part, *path), result in leaves_by_name(pytree.tree_unflatten(outputs, structure)):
        if isinstance(result, ConstantArgument) and result.value is None:
            continue

        if not isinstance(result, TensorArgument):
            raise _no_tensor(path, result)
        if _is_complex(program, result.name):
            name = ".".join(path) or "the result"
            raise ExportError(
                f"forward returns complex numbers: {name!r}. Engines have real ones alone. Return "
                "torch.view_as_real(y), which has both parts in a last axis."
            )

        if part == "0":
            paths.append(tuple(path))

    return tuple(paths)


def _is_complex(program: torch.export.ExportedProgram, name: str) -> bool:
    """Whether the value of this name is complex."""
    for node in program.graph.nodes:
        if node.name == name:
            value = node.meta.get("val")
            return isinstance(value, torch.Tensor) and value.is_complex()
    return False


def _no_tensor(path: Sequence[str], result: object) -> ExportError:
    value = repr(result.value) if isinstance(result, ConstantArgument) else "a number"

    name = ".".join(path) or "the result"
    return ExportError(
        f"forward returns something besides tensors: {name!r} is {value}. An ONNX file "
        "gives tensors only; leave it out."
    )


def name_axes(model: ir.Model, example: Example) -> None:
    """Replaces PyTorch's symbols (s15, 2*s27) by the names of the axes (batch, 2*time).

    Raises:
        ExportError: the graph fixes an axis.
    """
    symbols = _axes_by_symbol(model, example)
    if not symbols:
        return

    # The longest first: "5*s27" is an axis, and "s27" a fifth of it.
    longest_first = sorted(symbols, key=len, reverse=True)
    pattern = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, longest_first)) + r")\b")

    def named(dim: int | ir.SymbolicDim) -> int | str | ir.SymbolicDim:
        text = name_of_dim(dim)
        if text is None:
            return dim
        return pattern.sub(lambda match: symbols[match[1]], text)

    map_dims(named, all_values(model.graph))


def _axes_by_symbol(model: ir.Model, example: Example) -> dict[str, str]:
    """PyTorch's symbols in the shapes of inputs -> the axes that they are the sizes of."""
    symbols: dict[str, str] = {}
    for value, leaf in zip(model.graph.inputs, example.leaves, strict=True):
        for dim, axis in zip(value.shape or (), leaf.shape, strict=True):
            if not isinstance(axis, str):
                continue

            if not isinstance(dim, ir.SymbolicDim):
                raise ExportError(f"The exported graph fixes axis {axis!r} of {leaf} at {dim}.")
            symbols[str(dim.value)] = axis
            product = _MULTIPLE.fullmatch(str(dim.value))
            if product is not None:
                symbols[product[2]] = f"({axis}//{product[1]})"

    return symbols

# SPDX-License-Identifier: Apache-2.0
"""Writes a traced program as an ONNX graph, by PyTorch's exporter."""

from __future__ import annotations

import contextlib
import functools
import operator
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import onnx_ir as ir
import torch
from onnxscript.version_converter import convert_version
from torch.onnx._internal.exporter import _registration

from stateport.picking import sure

from ..errors import ExportError
from ..network.isolation import quiet
from .log_sigmoid import write_log_sigmoids
from .refusals import message_of, root_of
from .truth_values import write_as_logic

#: The oldest opset that PyTorch's exporter writes.
_OLDEST_OPSET: Final = 18
#: What it says of an operator that it does not know.
_UNKNOWN_OPERATOR: Final = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


def write_onnx(program: torch.export.ExportedProgram, name: str, opset: int) -> ir.Model:
    """The graph of a program, which is changed; `name` is its name in messages.

    Raises:
        ExportError: PyTorch's exporter cannot write it.
    """
    with quiet(), _kept_registries():
        try:
            drop_idle_squeezes(program)
            write_as_logic(program)
            write_log_sigmoids(program)
            split_into_slices(program)
            return _written(program, opset)
        except Exception as error:  # whatever PyTorch's exporter raises
            reason = message_of(root_of(error))
            unknown = _UNKNOWN_OPERATOR.search(reason)
            if unknown:
                raise ExportError(
                    f"{name} calls {unknown[1]}, which PyTorch's exporter cannot write as ONNX. "
                    "Compute the same from other operators."
                ) from error
            raise ExportError(
                f"PyTorch's exporter could not write {name} at opset {opset}: {reason}"
            ) from error


def _written(program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    """What PyTorch's exporter writes at an opset.

    PyTorch 2.9 puts functions of its oldest opset into a graph of a newer one, which nothing can
    take apart. It then writes all of it at the oldest one, and onnxscript converts that.
    """
    try:
        return _written_at(program, opset)
    except Exception as error:  # whatever PyTorch's exporter raises
        if opset <= _OLDEST_OPSET or "Opset mismatch" not in str(root_of(error)):
            raise

    model = _written_at(program, _OLDEST_OPSET)
    convert_version(model, opset)
    return model


def _written_at(program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    exported = sure(torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False))
    model: ir.Model = exported.model
    return model


@contextlib.contextmanager
def _kept_registries() -> Iterator[None]:
    """Lets PyTorch's exporter read its table of ONNX's operators once, and not in each export.

    Reading it takes longer than a small network does. The exporter only looks things up in it.
    """
    registry: Any = _registration.ONNXRegistry
    original = registry.__dict__["from_torchlib"]

    def from_torchlib(_: Any, *args: Any, **named: Any) -> Any:
        # Operators of torchvision are in the table only if it has been imported.
        return _registry("torchvision" in sys.modules, *args, **named)

    try:
        registry.from_torchlib = classmethod(from_torchlib)
        yield
    finally:
        registry.from_torchlib = original


@functools.lru_cache(maxsize=4)
def _registry(_has_torchvision: bool, /, *args: Any, **named: Any) -> Any:
    """The table of operators for these arguments of PyTorch's function, usually an opset."""
    return _original_from_torchlib(*args, **named)


_original_from_torchlib: Any = _registration.ONNXRegistry.from_torchlib


def split_into_slices(program: torch.export.ExportedProgram) -> None:
    """Writes splits into pieces of a computed size as slices, which ONNX has at any size.

    PyTorch's ONNX writer fails on them: `x.chunk(3, dim=1)` of a sequence of any length.
    """
    graph = program.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.split.Tensor):
        tensor, size, dim = (*node.args, 0)[:3]
        if not isinstance(size, torch.fx.Node):
            continue
        for piece in [*node.users]:
            number = piece.args[1]
            with graph.inserting_before(piece):
                start, end = (_times(graph, size, n) for n in (number, number + 1))
                arguments = (tensor, dim, start, end)
                part = graph.call_function(torch.ops.aten.slice.Tensor, arguments)
            part.meta = dict(piece.meta)
            piece.replace_all_uses_with(part)
            graph.erase_node(piece)
        graph.erase_node(node)


def _times(graph: torch.fx.Graph, size: torch.fx.Node, number: int) -> torch.fx.Node:
    """A size times a number."""
    product = graph.call_function(operator.mul, (size, number))
    product.meta["val"] = size.meta["val"] * number
    return product


def drop_idle_squeezes(program: torch.export.ExportedProgram) -> None:
    """Removes `x.squeeze(dim)` where the size is not 1: it does nothing, and ONNX refuses it.

    PyTorch's decompositions turn it into `view_of`, which PyTorch's ONNX writer does not know.
    Versions before 2.13 turn it into `squeeze.dims` first.
    """
    aten = torch.ops.aten
    for target in (aten.squeeze.dim, aten.squeeze.dims, torch.ops.prims.view_of.default):
        for node in program.graph.find_nodes(op="call_function", target=target):
            source = node.args[0]
            if node.meta["val"].ndim == source.meta["val"].ndim:
                node.replace_all_uses_with(source)
                program.graph.erase_node(node)

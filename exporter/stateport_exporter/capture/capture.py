# SPDX-License-Identifier: Apache-2.0
"""From a module and its example to a graph in which every recurrent layer is still one node.

PyTorch's exporter takes recurrent layers apart, and in doing so fixes the number of time steps,
leaves things out or writes what no runtime loads (pytorch#184872, #189225). So while a network is
traced, each call of a recurrent layer is recorded as one opaque node of the domain
`stateport.torch`, with PyTorch's operands; `layers` then writes that node in ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..network.example import Arguments, Example
from ..network.explicit import Explicit
from ..network.isolation import quiet
from .associative_scan import scans_refused
from .complex_numbers import RealParts, has_complex_numbers, has_fixed_transforms
from .fixed_batch import why_fixed_batch
from .recorders import Loop, opaque_layers
from .refusals import narrowed_in_words, why_not
from .signature import (
    check_inputs,
    input_paths,
    name_axes,
    output_paths,
    refuse_mutation,
)
from .torch_export import functional, loose_axes, torch_export, with_named_axes
from .while_loops import endless_loops_refused
from .write_onnx import write_onnx

#: What stands before the names of an author's parameters, once for each wrapper.
_WRAPPER: Final = "network."


#: The smallest and the largest size of an axis; None where there is no largest one.
Range = tuple[int, int | None]
#: PyTorch's exporter assumes that every dynamic size is at least this (pytorch#157621).
_SMALLEST: Final = 2

T = TypeVar("T")
#: The program that `torch.export` made of a network, and its loops by the number of the call.
_Traced = tuple[torch.export.ExportedProgram, Mapping[int, Loop]]


@dataclass(frozen=True)
class Captured:
    """A graph with recurrent layers kept whole, and the author's names of its inputs and outputs.

    Attributes:
        model: the graph. Its last outputs, behind those of `output_paths`, are the last states of
            every recurrent call.
        input_paths: the paths of the author's arguments, in the order of the inputs.
        output_paths: the paths of the author's results.
        loops: the loops over time, by the number of the call.
        narrowed: which sizes forward may treat otherwise, in words, if there are such.
        guards: the relations of sizes on which PyTorch's exporter relied, each with the axes whose
            sizes its symbols are.
        ranges: the smallest and the largest size of axes for which the graph was made, for those
            that it narrowed; None where there is no largest one.
    """

    model: ir.Model
    input_paths: tuple[tuple[str, ...], ...]
    output_paths: tuple[tuple[str, ...], ...]
    loops: Mapping[int, Loop]
    narrowed: str | None = None
    guards: Sequence[tuple[Any, Mapping[Any, str]]] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)


def capture(module: Explicit, example: Example, opset: int) -> Captured:
    """Exports the network to a graph with recurrent layers kept whole and named dynamic axes.

    The graph's inputs are the example's leaves, in order.

    Raises:
        ExportError: the module fails on its example, freezes a dynamic axis, writes into an
            argument, or uses what PyTorch's exporter cannot express.
    """
    name = type(module.network).__qualname__
    program, loops, narrowed = _trace(module, example)
    if has_complex_numbers(program) and not has_fixed_transforms(program):
        program, narrowed_again = _with_real_parts(module, program, example)
        narrowed = narrowed or narrowed_again
    refuse_mutation(program, example)
    results = output_paths(program)
    guards = list(_guards(program, example))
    ranges = _ranges(program, example)
    if ranges and narrowed is None:
        narrowed = narrowed_in_words(name, ranges)

    try:
        model = write_onnx(program, name, opset)
    except ExportError:
        if not has_complex_numbers(program):
            raise
        parts, narrowed_again = _with_real_parts(module, program, example)
        narrowed = narrowed or narrowed_again
        model = write_onnx(parts, name, opset)
    check_inputs(model, example)
    name_axes(model, example)
    _name_initializers(model)
    arguments = input_paths(module.network, example)
    return Captured(model, arguments, results, loops, narrowed, guards, ranges)


def _name_initializers(model: ir.Model) -> None:
    """Gives parameters the names that they have in the author's module.

    The author's module may be wrapped more than once. A part of it may be called `network` as well,
    so that only the levels that all parameters share are taken off.
    """
    names = []
    for name in model.graph.initializers:
        if name.startswith(_WRAPPER):
            names.append(name)

    levels = min(map(_wrappers_before, names), default=0)
    # "network.weight" has to give up its name before "network.network.weight" takes it.
    for name in sorted(names, key=_wrappers_before):
        model.graph.initializers[name].name = name.removeprefix(_WRAPPER * levels)


def _wrappers_before(name: str) -> int:
    count = 0
    while name.startswith(_WRAPPER * (count + 1)):
        count += 1
    return count


def _guards(
    program: torch.export.ExportedProgram, example: Example
) -> Iterator[tuple[Any, Mapping[Any, str]]]:
    """The relations of sizes on which the exporter relied, with the axes of their symbols.

    Relations that involve other symbols than sizes of axes are left out.
    """
    sizes = list(_symbolic_sizes(program, example))
    if not sizes:
        return

    axes = {size.node.expr: axis for size, axis in sizes}
    last_size, _ = sizes[-1]
    for guard in last_size.node.shape_env.guards:
        symbols = guard.expr.free_symbols
        if symbols <= axes.keys():
            yield guard.expr, {symbol: axes[symbol] for symbol in symbols}


def _ranges(program: torch.export.ExportedProgram, example: Example) -> dict[str, Range]:
    """The sizes of axes for which the program was made, for axes that it narrowed."""
    ranges: dict[str, Range] = {}
    for size, axis in _symbolic_sizes(program, example):
        bounds = program.range_constraints.get(size.node.expr)
        if bounds is None:
            continue

        lower, upper = bounds.lower, bounds.upper
        smallest = int(lower) if lower.is_Integer else 0
        largest = int(upper) if upper.is_Integer else None
        if smallest > _SMALLEST or largest is not None:
            ranges[axis] = (smallest if smallest > _SMALLEST else 1, largest)
    return ranges


def _symbolic_sizes(
    program: torch.export.ExportedProgram, example: Example
) -> Iterator[tuple[torch.SymInt, str]]:
    """The symbolic sizes of the program's arguments, and the axes that they belong to."""
    inputs = program.graph.find_nodes(op="placeholder")

    tensors = []
    for node in inputs:
        if isinstance(node.meta.get("val"), Tensor):
            tensors.append(node.meta["val"])

    # Parameters and buffers come before the arguments.
    arguments = tensors[-len(example.leaves) :]

    for tensor, leaf in zip(arguments, example.leaves, strict=False):
        for size, axis in zip(tuple[Any, ...](tensor.shape), leaf.shape, strict=True):
            if isinstance(size, torch.SymInt) and isinstance(axis, str):
                yield size, axis


def check_runs(module: Explicit, example: Example) -> None:
    """Runs the network once as PyTorch does: opaque nodes would take tensors of any size.

    Raises:
        ExportError: the network fails on its example.
    """
    with quiet(), torch.no_grad():
        try:
            module(*example.make(example.sizes))
        except (Exception, SystemExit) as error:  # the user's forward may raise anything
            raise why_not(module.network, example, error) from error


def _trace(
    module: Explicit, example: Example
) -> tuple[torch.export.ExportedProgram, Mapping[int, Loop], str | None]:
    """The program, its loops, and which sizes forward may treat otherwise, if there are such."""
    arguments = example.make(example.sizes)

    def export(dims: Mapping[str, Any]) -> _Traced:
        return _export(module, arguments, _dynamic_shapes(module, arguments, example, dims))

    with quiet(), torch.no_grad():
        try:
            (program, loops), narrowed = _at_any_size(module, example, export)
            # The signature of a functional program shows what forward writes into.
            program = functional(program)
        except ExportError:
            raise
        except (Exception, SystemExit) as error:  # the user's forward may raise anything
            fixed = why_fixed_batch(module, example, error)
            raise fixed or why_not(module.network, example, error) from error

    return program, loops, narrowed


def _with_real_parts(
    module: Explicit, program: torch.export.ExportedProgram, example: Example
) -> tuple[torch.export.ExportedProgram, str | None]:
    """A program with parts in place of complex numbers; which sizes it may treat otherwise."""
    arguments = example.make(example.sizes)
    parts = RealParts(program)

    def export(dims: Mapping[str, Any]) -> torch.export.ExportedProgram:
        shapes = _dynamic_shapes(parts, arguments, example, dims)
        return torch_export(parts, tuple(arguments), shapes)

    with quiet(), torch.no_grad():
        again, narrowed = _at_any_size(module, example, export)
        return functional(again), narrowed


def _at_any_size(
    module: Explicit, example: Example, export: Callable[[Mapping[str, Any]], T]
) -> tuple[T, str | None]:
    """What `export` gives for dynamic axes; which sizes it may treat otherwise, if there are such.

    Loose axes take the sizes that a slice of length time - 1 leaves open, where named axes insist
    on all. Both refuse an axis that is fixed. Parity is judged at the other sizes anyway.
    """
    try:
        multiples = {"time": example.time_multiple}
        return with_named_axes(example.sizes, export, multiples), None
    except torch._dynamo.exc.UserError as error:
        first_error = error

    narrowed = str(why_not(module.network, example, first_error))
    try:
        return export(loose_axes(example.sizes)), narrowed
    except torch._dynamo.exc.UserError:
        raise first_error from None


def _export(module: Explicit, arguments: Arguments, shapes: Any) -> _Traced:
    name = type(module.network).__qualname__
    with (
        opaque_layers(module.network) as loops,
        scans_refused(name),
        endless_loops_refused(name),
    ):
        program = torch_export(module, tuple(arguments), shapes)

    return program, loops


def _dynamic_shapes(
    module: nn.Module, arguments: Arguments, example: Example, dims: Mapping[str, Any]
) -> Any:
    """The dynamic axes in the structure that `torch.export` takes."""
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for leaf, (_, tensor) in zip(example.leaves, example.tensors(arguments), strict=True):
        axes = enumerate(leaf.shape)

        named_dims = {}
        for position, axis in axes:
            if isinstance(axis, str):
                named_dims[position] = dims[axis]

        shapes[tensor] = named_dims

    return shapes.dynamic_shapes(module, tuple(arguments))

"""From a module and its example to a graph in which every recurrent layer is still one node."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from stateport.errors import first_line, text_of

from .blame import leftovers, raised_line, where
from .errors import ExportError
from .example import Arguments, Example, leaves_by_name
from .explicit import Explicit
from .guard import quiet
from .memory.held import drawn_at, held_tensors
from .packing import raised_in
from .program import Body
from .recording import DOMAIN, Loop, recorded_layers, texts_of_sizes
from .sizes.comparisons import Comparison
from .sizes.constants import mentioned
from .sizes.guards import Text, guards
from .torch_export import functional, loose_axes, torch_export, with_named_axes

__all__ = ["DOMAIN", "Captured", "FixedTimeError", "Loop", "capture", "capture_step", "longer"]

#: By these the usual length is multiplied until a network takes it: powers of two, and what 5, 10,
#: 20 and 30 milliseconds are at 16 and 44.1 kHz.
_FACTORS: Final = (2, 4, 8, 16, 32, 64, 128, 256, 512, 80, 160, 320, 480, 441, 1024, 2048)


@dataclass(frozen=True)
class Captured:
    """A graph with recurrent layers kept whole, and how the author calls what goes in and out.

    The outputs behind those of `output_paths` are the last states of every recurrent call. `loops`
    are the loops over time, by the number of the call. `narrowed` says which sizes forward may not
    take the same way, if there are such. `compares` are the comparisons of sizes behind the graph,
    `held` the tensors in it that are the network's own and that its results hang on.
    """

    model: ir.Model
    input_paths: tuple[tuple[str, ...], ...]
    output_paths: tuple[tuple[str, ...], ...]
    loops: Mapping[int, Loop]
    narrowed: str | None = None
    compares: Sequence[Comparison] = ()
    held: Sequence[Tensor] = ()


def capture(module: Explicit, example: Example, opset: int) -> Captured:
    """Exports the network to a graph with recurrent layers kept whole and named dynamic axes.

    The graph's inputs are the example's leaves, in order.

    Raises:
        ExportError: the module fails on its example, freezes a dynamic axis, writes into an
            argument, or uses what PyTorch's exporter cannot express.
    """
    name = type(module.network).__qualname__
    program, loops, narrowed, compares = _trace(module, example)
    _refuse_mutation(program, example)
    _refuse_chance(program)
    held = held_tensors(program)
    output_paths = _output_paths(program)
    _drop_idle_squeezes(program)
    model = _to_onnx(program, name, opset)
    _check_inputs(model, example)
    _name_axes(model, example)
    for value in list(model.graph.initializers.values()):
        if value.name is not None:
            while value.name.startswith("network."):
                value.name = value.name.removeprefix("network.")  # as the author's module calls it
    paths = _input_paths(module.network, example)
    return Captured(model, paths, output_paths, loops, narrowed, compares, held)


def longer(module: Explicit, example: Example) -> Example | None:
    """The example at the first of some greater lengths that the network takes, if there is one.

    Networks that divide time take multiples alone, or have to fill a window first.
    """
    for factor in _FACTORS if "time" in example.axes else ():
        other = example.with_time(factor * example.sizes["time"])
        with quiet(), torch.no_grad(), contextlib.suppress(Exception, SystemExit):
            module(*other.make(other.sizes))
            return other
    return None


def check_runs(module: Explicit, example: Example) -> None:
    """Runs the network once as PyTorch does: opaque nodes take tensors of any size.

    Raises:
        ExportError: the network fails on its example.
    """
    with quiet(), torch.no_grad():
        try:
            module(*example.make(example.sizes))
        except (Exception, SystemExit) as error:  # the user's forward may raise anything
            raise _why_not(module.network, example, error) from error


def _to_onnx(program: torch.export.ExportedProgram, name: str, opset: int) -> ir.Model:
    with quiet():
        try:
            exported = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
        except Exception as error:  # whatever PyTorch's exporter raises
            raise ExportError(
                f"PyTorch's exporter could not write {name} at opset {opset}: "
                f"{_first_line(_root(error))}"
            ) from error
    assert exported is not None
    model: ir.Model = exported.model
    return model


class _Step(nn.Module):
    """One step of a loop, as a module of its own."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, operands: Sequence[Tensor]) -> list[Tensor]:
        """The next states, and the outputs of the step."""
        return self.body.program.run(operands)


def capture_step(loop: Loop, opset: int) -> ir.Graph:
    """The graph of one step: operands -> next states, outputs of the step.

    Raises:
        ExportError: PyTorch's exporter cannot express it.
    """
    place = f"the step of the loop in {loop.body.path!r}" if loop.body.path else "the loop's step"
    operands = [torch.zeros(like.shape, dtype=like.dtype) for like in loop.operands]
    shapes = [
        {axis: torch.export.Dim.DYNAMIC for axis, dynamic in enumerate(like.dynamic) if dynamic}
        for like in loop.operands
    ]
    with quiet(), torch.no_grad():
        try:
            program = torch_export(_Step(loop.body), (operands,), (shapes,))
            # Takes recurrent layers inside the step apart, which PyTorch's ONNX writer gets wrong.
            program = functional(program, decomposed=True)
            _drop_idle_squeezes(program)
        except Exception as error:
            raise ExportError(f"{place} could not be traced: {_first_line(error)}") from error
    return _to_onnx(program, place, opset).graph


#: What `torch.export` made of a network, its loops by the number of the call, texts of sizes.
_Exported = tuple[torch.export.ExportedProgram, Mapping[int, Loop], list[Text]]


class _Traced(NamedTuple):
    """A functional program, its loops, and what it takes for granted about sizes."""

    program: torch.export.ExportedProgram
    loops: Mapping[int, Loop]
    narrowed: str | None
    compares: Sequence[Comparison]


def _trace(module: Explicit, example: Example) -> _Traced:
    arguments = example.make(example.sizes)
    narrowed = None

    def export(dims: Mapping[str, Any]) -> _Exported:
        return _export(module, arguments, _dynamic_shapes(module, arguments, example, dims))

    with quiet(), torch.no_grad():
        try:
            try:
                program, loops, texts = with_named_axes(example.sizes, export)
            except torch._dynamo.exc.UserError as error:
                narrowed = str(_why_not(module.network, example, error))
                # Second choice: takes the sizes that a slice of length time - 1 leaves open, where
                # named axes insist on all. Both refuse an axis that is fixed; parity is judged at
                # the other sizes anyway.
                try:
                    program, loops, texts = export(loose_axes(example.sizes))
                except torch._dynamo.exc.UserError:
                    raise error from None
            compares = guards(program, example.leaves, texts)
            # The signature of a functional program shows what forward writes into.
            program = functional(program)
        except ExportError:
            raise
        except (Exception, SystemExit) as error:  # the user's forward may raise anything
            raise _why_not(module.network, example, error) from error
    return _Traced(program, loops, narrowed, compares)


def _export(module: Explicit, arguments: Arguments, shapes: Any) -> _Exported:
    """The program, its loops, and the sizes that forward made texts of."""
    with texts_of_sizes() as made, recorded_layers(module.network) as layers:
        program = torch_export(module, tuple(arguments), shapes)
    numbers = mentioned(module.network) if made else []
    texts = [Text(size, line, numbers) for size, line in made]
    return program, layers.loops, texts


def _dynamic_shapes(
    module: Explicit, arguments: Arguments, example: Example, dims: Mapping[str, Any]
) -> Any:
    """The named axes in the structure that `torch.export` wants."""
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for leaf, (_, tensor) in zip(example.leaves, example.tensors(arguments), strict=True):
        axes = enumerate(leaf.shape)
        shapes[tensor] = {position: dims[axis] for position, axis in axes if isinstance(axis, str)}
    return shapes.dynamic_shapes(module, tuple(arguments))


class FixedTimeError(ExportError):
    """Forward fixes the number of time steps, as a Python loop over them does."""


def _why_not(module: nn.Module, example: Example, error: BaseException) -> ExportError:
    name, text = type(module).__qualname__, text_of(error)
    frozen = re.search(r"marked (\w+) as dynamic but your code specialized it to be", text)
    if frozen:
        kind = FixedTimeError if frozen[1] == "time" else ExportError
        return kind(
            f"{name} cannot take any size of the axis {frozen[1]!r}: its forward fixes it "
            f"(traced at {example.sizes.get(frozen[1])}). A Python loop over that axis, int() of "
            "a size, or a comparison of sizes does that. Rewrite it with tensor operations."
            f"{leftovers(module)}"
        )
    violated = re.search(r"Constraints violated \((\w+)\).*?\n\s*- (.*)", text)
    if violated:
        kind = FixedTimeError if violated[1] == "time" else ExportError
        return kind(
            f"{name} does not do the same at every size of the axis {violated[1]!r}, but where "
            f"{_condition(violated[2], violated[1])}. A comparison of sizes or a slice of a fixed "
            "length in forward does that."
        )
    if "data-dependent" in text or ".numpy() is not supported" in text:
        return ExportError(
            f"{raised_in(module, error)} takes numbers out of a tensor{_at(error)}: tolist, "
            "numpy, item, int, max as a size, or an if. An ONNX file cannot know them before it "
            "runs. Keep them in the tensor: torch.where chooses, pack_padded_sequence takes "
            "lengths.cpu() itself, and pad_packed_sequence needs no total_length other than "
            "x.size(1)."
        )
    return ExportError(
        f"{name} could not be traced{where(module, error)}: {type(error).__name__}: "
        f"{_first_line(error)}{leftovers(module)}"
    )


def _at(error: BaseException) -> str:
    """The line of the author's code that an error comes from, where there is one."""
    line = raised_line(error)
    return f" ({line})" if line else ""


def _condition(text: str, axis: str) -> str:
    """The condition in PyTorch's message, "6 <= time"; the whole message if it has none."""
    text = re.sub(r"L\[[^ ]*?\.size\(\)\[\d+\]", axis, text)
    text = text.partition("generated guard ")[2] or text
    return text.replace(f" and {axis} <= IntInfinity()", "").rstrip(".")


def _refuse_mutation(program: torch.export.ExportedProgram, example: Example) -> None:
    # Buffers are another matter: `repeatable` finds out whether updating them has any effect.
    signature = program.graph_signature
    given = [spec.arg for spec in signature.input_specs if spec.kind is InputKind.USER_INPUT]
    tensors = [arg.name for arg in given if isinstance(arg, TensorArgument)]
    for name in signature.user_inputs_to_mutate.values():
        leaf = example.leaves[tensors.index(name)]
        raise ExportError(
            f"forward writes into its argument '{leaf}', which an ONNX file cannot do. Return the "
            "new value instead."
        )


def _refuse_chance(program: torch.export.ExportedProgram) -> None:
    if drawn_at(program):
        raise ExportError(
            "The network draws random numbers, in evaluation mode too, so its results cannot be "
            "checked. Leave them out, or take them as an argument of forward."
        )


def _drop_idle_squeezes(program: torch.export.ExportedProgram) -> None:
    """Takes out `x.squeeze(dim)` where the size is not 1: it does nothing, and ONNX refuses it.

    PyTorch's decompositions make a `view_of` of it, which its ONNX writer does not know.
    """
    for target in (torch.ops.aten.squeeze.dim, torch.ops.prims.view_of.default):
        for node in program.graph.find_nodes(op="call_function", target=target):
            before = node.args[0]
            if node.meta["val"].ndim == before.meta["val"].ndim:
                node.replace_all_uses_with(before)
                program.graph.erase_node(node)


def _check_inputs(model: ir.Model, example: Example) -> None:
    if len(model.graph.inputs) != len(example.leaves):
        names = ", ".join(str(value.name) for value in model.graph.inputs)
        raise ExportError(
            f"The example has {len(example.leaves)} tensors, but the exported graph takes {names}."
        )


def _input_paths(module: nn.Module, example: Example) -> tuple[tuple[str, ...], ...]:
    paths = [leaf.path for leaf in example.leaves]
    own = type(module).forward.__module__ == nn.RNNBase.__module__
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and own:  # PyTorch's names, not an author's
        paths = [("x", *path[1:]) if path[0] == "input" else (*path, "0") for path in paths]
    return tuple(paths)


def _output_paths(program: torch.export.ExportedProgram) -> tuple[tuple[str, ...], ...]:
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


def _name_axes(model: ir.Model, example: Example) -> None:
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


def _root(error: BaseException) -> BaseException:
    """What an error came from; PyTorch's exporter says only what to do next."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return first_line(error) or "no message"

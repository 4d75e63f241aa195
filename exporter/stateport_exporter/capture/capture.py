"""From a module and its example to a graph in which every recurrent layer is still one node.

PyTorch's exporter takes recurrent layers apart, and in doing so freezes time, leaves things out or
writes what no runtime loads (pytorch#184872, #189225). So while it looks, each call of a recurrent
layer is recorded as one opaque node of the domain `stateport.torch`, with PyTorch's own operands;
`layers` then writes that node in ONNX.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import stateport_exporter
from stateport.errors import first_line, text_of

from ..errors import ExportError
from ..memory.kept import unchanged_shared
from ..network.blame import leftovers, where
from ..network.example import Arguments, Example, leaves_by_name
from ..network.explicit import Explicit
from ..network.isolation import quiet
from ..network.packing import Lengths, check_lengths, intercept, is_packed, raised_in, traceable
from ..network.program import Body
from ..network.scan import scan
from .torch_export import functional, loose_axes, torch_export, with_named_axes

DOMAIN: Final = "stateport.torch"

#: By these the usual length is multiplied until a network takes it: powers of two, and what 5, 10,
#: 20 and 30 milliseconds are at 16 and 44.1 kHz.
_FACTORS: Final = (2, 4, 8, 16, 32, 64, 128, 256, 512, 80, 160, 320, 480, 441, 1024, 2048)

_Shape = Sequence[int | torch.SymInt]


class _RecurrentLayers(TorchFunctionMode):
    """Records calls of PyTorch's recurrent functions as opaque nodes.

    `nn.LSTM.forward` and everything built on it end in `torch.lstm`; its own checks, batch-first
    handling and unbatched inputs have been dealt with by then, in PyTorch's own code. Calls are
    numbered, which also keeps PyTorch's exporter from merging two that are alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.loops: dict[int, Loop] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # the protocol's signature
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        record = _RECORDERS.get(func)
        if func is scan:
            self.count += 1
            return self._record_loop(self.count - 1, *args)
        if record is None:
            result = intercept(func, args)
            return func(*args, **(kwargs or {})) if result is NotImplemented else result
        self.count += 1
        return record(self.count - 1, *args, **(kwargs or {}))

    def _record_loop(
        self,
        call: int,
        body: Body,
        states: Sequence[Tensor],
        sequences: Sequence[Tensor],
        invariants: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """One opaque node: first states, sequences, the rest -> last states, stacked outputs."""
        slices = [sequence[0] for sequence in sequences]
        _, outputs = body.step(states, slices, invariants)  # for what they look like
        self.loops[call] = Loop(body, [_Like.of(x) for x in (*states, *slices, *invariants)])
        time = sequences[0].shape[0]
        results: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::LOOP",
            (*states, *sequences, *invariants),
            attrs={
                "call": call,
                "states": len(states),
                "sequences": len(sequences),
                "path": body.path,
            },
            dtypes=[x.dtype for x in (*states, *outputs)],
            shapes=(*(x.shape for x in states), *((time, *x.shape) for x in outputs)),
            version=1,
        )
        return tuple(results)


@dataclass(frozen=True)
class _Like:
    """A tensor's sizes while it was traced, which of them are dynamic, and its dtype."""

    shape: tuple[int, ...]
    dynamic: tuple[bool, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> _Like:
        """What a traced tensor is like."""
        sizes = [size if isinstance(size, int) else size.node.hint for size in tensor.shape]
        dynamic = tuple(not isinstance(size, int) for size in tensor.shape)
        return cls(tuple(sizes), dynamic, tensor.dtype)


@dataclass(frozen=True)
class Loop:
    """A loop over time: its step, and what goes into that."""

    body: Body
    operands: Sequence[_Like]


#: What `torch.export` made of a network, and its loops by the number of the call.
_Traced = tuple[torch.export.ExportedProgram, Mapping[int, Loop]]


class _Step(nn.Module):
    """One step of a loop, as a module of its own."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, operands: Sequence[Tensor]) -> list[Tensor]:
        """The next states, and the outputs of the step."""
        return self.body.program.run(operands)


def _record(
    call: int,
    kind: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """One opaque node: x, first states, PyTorch's flat weights, lengths -> y and last states."""
    y_features = states[0].shape[-1] * (2 if bidirectional else 1)
    results: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{kind}",
        (x, *states, *weights, *([] if lengths is None else [lengths])),
        attrs={
            "call": call,
            "num_layers": num_layers,
            "bidirectional": int(bidirectional),
            "batch_first": int(batch_first),
            "has_biases": int(has_biases),
            "has_lengths": int(lengths is not None),
        },
        dtypes=[x.dtype] * (1 + len(states)),
        shapes=((*x.shape[:2], y_features), *(state.shape for state in states)),
        version=1,
    )
    return tuple(results)


def _recorder(kind: str) -> Callable[..., Any]:
    """Takes the arguments of torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu."""

    def record(call: int, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return (record_packed if is_packed((x, *rest)) else record_padded)(call, x, *rest)

    def record_packed(
        call: int,
        data: Tensor,
        lengths: Lengths,
        hx: Sequence[Tensor] | Tensor,
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,  # noqa: ARG001  # evaluation mode: no dropout
        train: bool,  # noqa: ARG001
        bidirectional: bool,
    ) -> tuple[Tensor, ...]:
        check_lengths(lengths)
        states = [hx] if isinstance(hx, Tensor) else hx
        y, *last = _record(
            call,
            kind,
            lengths.split(data),
            states,
            weights,
            has_biases,
            num_layers,
            bidirectional,
            batch_first=False,
            lengths=lengths.rows,
        )
        return y.flatten(0, 1), *last

    def record_padded(
        call: int,
        x: Tensor,
        hx: Sequence[Tensor] | Tensor,
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,  # noqa: ARG001  # evaluation mode: no dropout
        train: bool,  # noqa: ARG001
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        states = [hx] if isinstance(hx, Tensor) else hx
        return _record(
            call, kind, x, states, weights, has_biases, num_layers, bidirectional, batch_first
        )

    return record


def _cell_recorder(kind: str) -> Callable[..., Any]:
    """Takes the arguments of torch.lstm_cell and its siblings: a layer of one step.

    Shapes: x (batch, input), each state (batch, hidden), as each result.
    """

    def record(
        call: int,
        x: Tensor,
        hx: Sequence[Tensor] | Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        states = [hx[None]] if isinstance(hx, Tensor) else [state[None] for state in hx]
        weights = [w for w in (w_ih, w_hh, b_ih, b_hh) if w is not None]
        _, *last = _record(call, kind, x[None], states, weights, b_ih is not None, 1, False, False)
        return last[0][0] if isinstance(hx, Tensor) else tuple(state[0] for state in last)

    return record


_RECORDERS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    torch.lstm: _recorder("LSTM"),
    torch.gru: _recorder("GRU"),
    torch.rnn_tanh: _recorder("RNN_TANH"),
    torch.rnn_relu: _recorder("RNN_RELU"),
    torch.lstm_cell: _cell_recorder("LSTM"),
    torch.gru_cell: _cell_recorder("GRU"),
    torch.rnn_tanh_cell: _cell_recorder("RNN_TANH"),
    torch.rnn_relu_cell: _cell_recorder("RNN_RELU"),
}


@dataclass(frozen=True)
class Captured:
    """A graph with recurrent layers kept whole, and how the author calls what goes in and out.

    The outputs behind those of `output_paths` are the last states of every recurrent call. `loops`
    are the loops over time, by the number of the call. `narrowed` says which sizes forward may not
    take the same way, if there are such; `guards` are the relations of sizes that PyTorch's
    exporter relied on, each with the axes that its symbols are the sizes of.
    """

    model: ir.Model
    input_paths: tuple[tuple[str, ...], ...]
    output_paths: tuple[tuple[str, ...], ...]
    loops: Mapping[int, Loop]
    narrowed: str | None = None
    guards: Sequence[tuple[Any, Mapping[Any, str]]] = ()


def capture(module: Explicit, example: Example, opset: int) -> Captured:
    """Exports the network to a graph with recurrent layers kept whole and named dynamic axes.

    The graph's inputs are the example's leaves, in order.

    Raises:
        ExportError: the module fails on its example, freezes a dynamic axis, writes into an
            argument, or uses what PyTorch's exporter cannot express.
    """
    name = type(module.network).__qualname__
    program, loops, narrowed = _trace(module, example)
    _refuse_mutation(program, example)
    output_paths = _output_paths(program)
    guards = _guards(program, example)
    _drop_idle_squeezes(program)
    model = _to_onnx(program, name, opset)
    _check_inputs(model, example)
    _name_axes(model, example)
    for value in list(model.graph.initializers.values()):
        if value.name is not None:
            while value.name.startswith("network."):
                value.name = value.name.removeprefix("network.")  # as the author's module calls it
    paths = _input_paths(module.network, example)
    return Captured(model, paths, output_paths, loops, narrowed, guards)


def _guards(
    program: torch.export.ExportedProgram, example: Example
) -> list[tuple[Any, Mapping[Any, str]]]:
    """The relations of sizes that the exporter relied on, in its own symbols."""
    inputs = program.graph.find_nodes(op="placeholder")
    tensors = [node.meta["val"] for node in inputs if isinstance(node.meta.get("val"), Tensor)]
    axes, guards = {}, []
    for tensor, leaf in zip(tensors[-len(example.leaves) :], example.leaves, strict=False):
        for size, axis in zip(tuple[Any, ...](tensor.shape), leaf.shape, strict=True):
            if isinstance(size, torch.SymInt) and isinstance(axis, str):
                axes[size.node.expr] = axis
                guards = [guard.expr for guard in size.node.shape_env.guards]
    used = [(one, {s: axes[s] for s in one.free_symbols & axes.keys()}) for one in guards]
    return [(guard, named) for guard, named in used if named.keys() == guard.free_symbols]


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


def _trace(
    module: Explicit, example: Example
) -> tuple[torch.export.ExportedProgram, Mapping[int, Loop], str | None]:
    """The program, its loops, and which sizes forward may not take the same way, if there are."""
    arguments = example.make(example.sizes)
    narrowed = None

    def export(dims: Mapping[str, Any]) -> _Traced:
        return _export(module, arguments, _dynamic_shapes(module, arguments, example, dims))

    with quiet(), torch.no_grad():
        try:
            try:
                program, loops = with_named_axes(example.sizes, export)
            except torch._dynamo.exc.UserError as error:
                narrowed = str(_why_not(module.network, example, error))
                # Second choice: takes the sizes that a slice of length time - 1 leaves open, where
                # named axes insist on all. Both refuse an axis that is fixed; parity is judged at
                # the other sizes anyway.
                try:
                    program, loops = export(loose_axes(example.sizes))
                except torch._dynamo.exc.UserError:
                    raise error from None
            # The signature of a functional program shows what forward writes into.
            program = functional(program)
        except ExportError:
            raise
        except (Exception, SystemExit) as error:  # the user's forward may raise anything
            raise _why_not(module.network, example, error) from error
    return program, loops, narrowed


@contextlib.contextmanager
def opaque_layers(network: nn.Module) -> Iterator[Mapping[int, Loop]]:
    """Recurrent layers are opaque nodes inside; gives the loops by the number of the call."""
    with unchanged_shared(network), _RecurrentLayers() as layers, traceable(network):
        yield layers.loops


def _export(module: Explicit, arguments: Arguments, shapes: Any) -> _Traced:
    # PyTorch prints the graph so far where a number is taken out of a tensor.
    with (
        opaque_layers(module.network) as loops,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        program = torch_export(module, tuple(arguments), shapes)
    return program, loops


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
            f"{raised_in(module, error)} takes numbers out of a tensor{_line(error)}: tolist, "
            "numpy, item, int, max as a size, or an if. An ONNX file cannot know them before it "
            "runs. Keep them in the tensor: torch.where chooses, pack_padded_sequence takes "
            "lengths.cpu() itself, and pad_packed_sequence needs no total_length other than "
            "x.size(1)."
        )
    return ExportError(
        f"{name} could not be traced{where(module, error)}: {type(error).__name__}: "
        f"{_first_line(error)}{leftovers(module)}"
    )


def _line(error: BaseException) -> str:
    """The line of the author's code that an error comes from, where there is one."""
    packages = tuple(
        f"{Path(file).parent}{os.sep}" for file in (stateport_exporter.__file__, torch.__file__)
    )
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(packages)]
    return f" ({Path(theirs[-1].filename).name}: {theirs[-1].line!r})" if theirs else ""


def _condition(text: str, axis: str) -> str:
    """The condition in PyTorch's message, "6 <= time"; the whole message if it has none."""
    text = re.sub(r"L\[[^ ]*?\.size\(\)\[\d+\]", axis, text)
    text = text.partition("generated guard ")[2] or text
    return text.replace(f" and {axis} <= IntInfinity()", "").rstrip(".")


def _refuse_mutation(program: torch.export.ExportedProgram, example: Example) -> None:
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


def _drop_idle_squeezes(program: torch.export.ExportedProgram) -> None:
    """Takes out `x.squeeze(dim)` where the size is not 1: it does nothing, and ONNX refuses it.

    PyTorch's decompositions make a `view_of` of it, which its ONNX writer does not know. Versions
    before 2.13 write `squeeze.dims` for it first.
    """
    aten = torch.ops.aten
    for target in (aten.squeeze.dim, aten.squeeze.dims, torch.ops.prims.view_of.default):
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

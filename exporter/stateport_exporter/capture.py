"""From a module and its example to a graph in which every recurrent layer is still one node.

PyTorch's exporter takes recurrent layers apart, and in doing so freezes time, leaves things out or
writes what no runtime loads (pytorch#184872, #189225). So while it looks, each call of a recurrent
layer is recorded as one opaque node of the domain `stateport.torch`, with PyTorch's own operands;
`layers` then writes that node in ONNX.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .errors import ExportError
from .example import Arguments, Example, key_name
from .explicit import Explicit

DOMAIN: Final = "stateport.torch"

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

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # the protocol's signature
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        record = _RECORDERS.get(func)
        if record is None:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return record(self.count - 1, *args, **(kwargs or {}))


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
) -> tuple[Tensor, ...]:
    """One opaque node: x, the first states and PyTorch's flat weights -> y and the last states."""
    y_features = states[0].shape[-1] * (2 if bidirectional else 1)
    results: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{kind}",
        (x, *states, *weights),
        attrs={
            "call": call,
            "num_layers": num_layers,
            "bidirectional": int(bidirectional),
            "batch_first": int(batch_first),
            "has_biases": int(has_biases),
        },
        dtypes=[x.dtype] * (1 + len(states)),
        shapes=((*x.shape[:2], y_features), *(state.shape for state in states)),
        version=1,
    )
    return tuple(results)


def _recorder(kind: str) -> Callable[..., Any]:
    """Takes the arguments of torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu."""

    def record(
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


def _refuse(what: str) -> Callable[..., Any]:
    def refuse(*_: object, **__: object) -> None:
        raise ExportError(f"The network uses {what}, which stateport cannot export yet.")

    return refuse


_RECORDERS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    torch.lstm: _recorder("LSTM"),
    torch.gru: _recorder("GRU"),
    torch.rnn_tanh: _recorder("RNN_TANH"),
    torch.rnn_relu: _recorder("RNN_RELU"),
    torch.lstm_cell: _cell_recorder("LSTM"),
    torch.gru_cell: _cell_recorder("GRU"),
    torch.rnn_tanh_cell: _cell_recorder("RNN_TANH"),
    torch.rnn_relu_cell: _cell_recorder("RNN_RELU"),
    torch._pack_padded_sequence: _refuse("packed sequences (pack_padded_sequence)"),
}


@dataclass(frozen=True)
class Captured:
    """A graph with recurrent layers kept whole, and how the author calls what goes in and out.

    The outputs behind those of `output_paths` are the last states of every recurrent call.
    """

    model: ir.Model
    input_paths: tuple[tuple[str, ...], ...]
    output_paths: tuple[tuple[str, ...], ...]


def capture(module: Explicit, example: Example, opset: int) -> Captured:
    """Exports the network to a graph with recurrent layers kept whole and named dynamic axes.

    The graph's inputs are the example's leaves, in order.

    Raises:
        ExportError: the module fails on its example, freezes a dynamic axis, writes into an
            argument, or uses what PyTorch's exporter cannot express.
    """
    program = _trace(module, example)
    _refuse_mutation(program)
    with _quiet():
        try:
            exported = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
        except Exception as error:  # whatever PyTorch's exporter raises
            raise ExportError(
                f"PyTorch's exporter could not write {type(module.network).__qualname__} at opset "
                f"{opset}: {_first_line(error)}"
            ) from error
    assert exported is not None
    model: ir.Model = exported.model
    _check_inputs(model, example)
    _name_axes(model, example)
    for value in list(model.graph.initializers.values()):
        if value.name is not None:
            value.name = value.name.removeprefix("network.")  # as the author's module calls it
    return Captured(model, _input_paths(module.network, example), _output_paths(program, model))


def _trace(module: Explicit, example: Example) -> torch.export.ExportedProgram:
    arguments = example.make(example.sizes)
    named = {name: torch.export.Dim(name) for name in example.sizes}
    # Second choice: takes the sizes that a slice of length time - 1 leaves open, where named axes
    # insist on all. Both refuse an axis that is fixed; parity is judged at the other sizes anyway.
    loose = dict.fromkeys(example.sizes, torch.export.Dim.DYNAMIC)
    with _quiet(), torch.no_grad():
        try:
            try:
                program = _export(module, arguments, _dynamic_shapes(arguments, example, named))
            except torch._dynamo.exc.UserError as error:
                try:
                    program = _export(module, arguments, _dynamic_shapes(arguments, example, loose))
                except torch._dynamo.exc.UserError:
                    raise error from None
            # Makes the graph functional, so that the signature shows what forward writes into.
            functional: torch.export.ExportedProgram = program.run_decompositions({})
        except ExportError:
            raise
        except (Exception, SystemExit) as error:  # the user's forward may raise anything
            raise ExportError(_why_not(module.network, example, error)) from error
    return functional


def _export(
    module: Explicit, arguments: Arguments, shapes: tuple[Any, ...]
) -> torch.export.ExportedProgram:
    with _RecurrentLayers():
        program: torch.export.ExportedProgram = torch.export.export(
            module, tuple(arguments), dynamic_shapes=shapes, strict=False
        )
    return program


def _dynamic_shapes(
    arguments: Arguments, example: Example, dims: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The named axes in the structure that `torch.export` wants: that of the arguments."""
    leaves = iter(example.leaves)

    def axes(value: object) -> dict[int, Any] | None:
        if not isinstance(value, Tensor):
            return None
        shape = enumerate(next(leaves).shape)
        return {position: dims[axis] for position, axis in shape if isinstance(axis, str)}

    shapes: tuple[Any, ...] = pytree.tree_map(axes, tuple(arguments))
    return shapes


def _why_not(module: nn.Module, example: Example, error: BaseException) -> str:
    name, text = type(module).__qualname__, str(error)
    frozen = re.search(r"marked (\w+) as dynamic but your code specialized it to be", text)
    if frozen:
        return (
            f"{name} cannot take any size of the axis {frozen[1]!r}: its forward fixes it "
            f"(traced at {example.sizes.get(frozen[1])}). A Python loop over that axis, int() of "
            "a size, or a comparison of sizes does that. Rewrite it with tensor operations."
        )
    violated = re.search(r"Constraints violated \((\w+)\).*?\n\s*- (.*)", text)
    if violated:
        return f"{name} cannot take any size of the axis {violated[1]!r}: {violated[2]}"
    return f"{name} could not be traced: {type(error).__name__}: {_first_line(error)}"


def _refuse_mutation(program: torch.export.ExportedProgram) -> None:
    # Buffers are another matter: `repeatable` finds out whether updating them has any effect.
    for name in sorted(program.graph_signature.user_inputs_to_mutate.values()):
        raise ExportError(
            f"forward writes into its argument {name!r}, which an ONNX file cannot do. "
            "Return the new value instead."
        )


def _check_inputs(model: ir.Model, example: Example) -> None:
    if len(model.graph.inputs) != len(example.leaves):
        names = ", ".join(str(value.name) for value in model.graph.inputs)
        raise ExportError(
            f"The example has {len(example.leaves)} tensors, but the exported graph takes {names}."
        )


def _input_paths(module: nn.Module, example: Example) -> tuple[tuple[str, ...], ...]:
    paths = [leaf.path for leaf in example.leaves]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):  # PyTorch's own names, not an author's
        paths = [("x",) if path == ("input",) else (*path, "0") for path in paths]
    return tuple(paths)


def _output_paths(
    program: torch.export.ExportedProgram, model: ir.Model
) -> tuple[tuple[str, ...], ...]:
    """Where each of the author's results stands: keys of dicts, fields, positions."""
    structure, count = program.call_spec.out_spec, len(model.graph.outputs)
    kinds = {spec.arg.__class__.__name__ for spec in program.graph_signature.output_specs}
    if structure is None or structure.num_leaves != count or kinds != {"TensorArgument"}:
        raise ExportError(
            "forward returns something besides tensors (a number, or None); return tensors only."
        )
    leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(count), structure))
    paths = [tuple(key_name(key) for key in path) for path, _ in leaves]
    return tuple(tuple(rest) for result, *rest in paths if result == "0")


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps PyTorch's exporter from talking about its own internals and missing packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"

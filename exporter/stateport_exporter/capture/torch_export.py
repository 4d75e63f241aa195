# SPDX-License-Identifier: Apache-2.0
"""`torch.export`, without the errors of some of its versions."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import starmap
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch._decomp import decompositions
from torch.export import ExportedProgram, dynamic_shapes
from torch.export.graph_signature import OutputKind
from torch.fx.experimental import symbolic_shapes

T = TypeVar("T")

#: The version that corrected the shape of an LSTM's last states (pytorch#185716).
_MENDED: Final = (2, 13)
#: The modules of functions, besides PyTorch's operators, that only compute: with sizes, above all.
_COMPUTING: Final = ("_operator", "math", "torch", "torch.fx.experimental.symbolic_shapes")


def torch_export(module: nn.Module, args: tuple[Any, ...], shapes: Any) -> ExportedProgram:
    """Traces a module; `shapes` says which dimensions are dynamic, as `torch.export` takes it.

    Raises:
        Exception: whatever forward or PyTorch raises.
    """
    # PyTorch prints the graph so far where a number is taken out of a tensor.
    hidden = contextlib.redirect_stderr(io.StringIO())
    with _mended_lstm(), _ended_vmaps(), hidden:
        program: ExportedProgram = torch.export.export(
            module, args, dynamic_shapes=shapes, strict=False
        )
    return program


def functional(program: ExportedProgram, *, decomposed: bool = False) -> ExportedProgram:
    """The program without operators that write in place, and without composite views.

    PyTorch takes composite views, such as `chunk`, apart into simple ones on the way. With
    `decomposed`, other composite operators such as recurrent layers are decomposed as well. Without
    it, a program that has neither is returned as it is.
    """
    if not decomposed and not _must_change(program):
        return program

    with _mended_lstm(), _ended_vmaps():
        result: ExportedProgram = program.run_decompositions(None if decomposed else {})
    return result


def _must_change(program: ExportedProgram) -> bool:
    """Whether any operator may write in place, or is a composite view; True where unknown."""
    keeps_state = any(
        spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs
    )
    if keeps_state:
        return True

    for graph_module in program.graph_module.modules():
        graph = getattr(graph_module, "graph", None)
        if graph is None or any(map(_is_to_change, graph.nodes)):
            return True
    return False


def _is_to_change(node: torch.fx.Node) -> bool:
    if node.op != "call_function":
        return node.op not in ("placeholder", "output", "get_attr")
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable) or _is_composite_view(node.target)
    return getattr(node.target, "__module__", None) not in _COMPUTING


def _is_composite_view(operator: torch._ops.OpOverload) -> bool:
    """Whether an operator is made of others, and its result shares the memory of an operand."""
    shares = any(result.alias_info is not None for result in operator._schema.returns)
    name = str(operator.name())  # type: ignore[no-untyped-call]
    return shares and torch._C._dispatch_has_kernel_for_dispatch_key(
        name, "CompositeImplicitAutograd"
    )


def with_named_axes(
    axes: Iterable[str],
    export: Callable[[Mapping[str, Any]], T],
    multiples: Mapping[str, int] | None = None,
) -> T:
    """Calls `export` with named axes. `multiples` has those whose sizes are multiples of a number.

    If PyTorch cannot say what an axis must be, `export` is called again with axes that may be
    anything. PyTorch 2.9 and 2.10 raise a bare AssertionError then (pytorch#171673), and later
    versions one on a Dim "with inconsistent min", where a size is padded to a multiple.
    """
    names = tuple(axes)
    try:
        return export({name: _dim(name, (multiples or {}).get(name, 1)) for name in names})
    except AssertionError as error:
        if not _is_from_shapes(error):
            raise

    return export(loose_axes(names))


def _dim(name: str, multiple: int) -> Any:
    """A named axis. PyTorch counts the multiples of one that is a multiple of a number."""
    if multiple == 1:
        return torch.export.Dim(name)
    return multiple * torch.export.Dim(f"{name}_parts")


def loose_axes(axes: Iterable[str]) -> Mapping[str, Any]:
    """Dynamic axes that may take fewer sizes than all, in place of named ones."""
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


def _is_from_shapes(error: BaseException) -> bool:
    """Whether an error was raised by PyTorch's reasoning on sizes, rather than by the network."""
    file = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename

    reasoning = (symbolic_shapes.__file__, dynamic_shapes.__file__)
    return Path(file) in {Path(str(module_file)) for module_file in reasoning}


@contextlib.contextmanager
def _mended_lstm() -> Iterator[None]:
    """Gives the last states of an LSTM their right shape while a network is traced.

    Before version 2.13 PyTorch's decomposition removes the wrong axis, so states have the shape
    (layers, 1, batch, hidden) and cannot be passed to the next call (pytorch#185716).
    """
    if _version() >= _MENDED:
        yield
        return

    patched: Any = decompositions
    original = patched.one_layer_lstm

    def one_layer_lstm(x: Tensor, hidden: tuple[Tensor, Tensor], *rest: Any, **named: Any) -> Any:
        y, last = original(x, hidden, *rest, **named)
        pairs = zip(last, hidden, strict=True)
        return y, tuple(starmap(_with_rank_of, pairs))

    try:
        patched.one_layer_lstm = one_layer_lstm
        yield
    finally:
        patched.one_layer_lstm = original


@contextlib.contextmanager
def _ended_vmaps() -> Iterator[None]:
    """Ends each `torch.vmap` that an error inside leaves open.

    PyTorch's program of a vmap opens and closes it by calls of their own. If it fails between them,
    everything in the process runs as if inside the vmap.
    """
    functorch: Any = torch._C._functorch
    depth = functorch.get_dynamic_layer_stack_depth()
    try:
        yield
    finally:
        if functorch.get_dynamic_layer_stack_depth() > depth:
            functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)


def _with_rank_of(state: Tensor, first: Tensor) -> Tensor:
    """The last state without the axis that the first state does not have."""
    if state.dim() > first.dim():
        return state.squeeze(0)
    return state


def _version() -> tuple[int, ...]:
    return tuple(map(int, torch.__version__.split(".")[:2]))

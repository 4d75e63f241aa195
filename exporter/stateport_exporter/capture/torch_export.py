"""`torch.export`, without what some of its versions get wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch._decomp import decompositions
from torch.export import ExportedProgram
from torch.fx.experimental import symbolic_shapes

T = TypeVar("T")

#: The version that mended the shape of an LSTM's last states (pytorch#185716).
_MENDED: Final = (2, 13)


def torch_export(module: nn.Module, args: tuple[Any, ...], shapes: Any) -> ExportedProgram:
    """Traces a module; `shapes` says which dimensions are dynamic, as `torch.export` takes it.

    Raises:
        Exception: whatever forward or PyTorch raises.
    """
    with _mended_lstm():
        program: ExportedProgram = torch.export.export(
            module, args, dynamic_shapes=shapes, strict=False
        )
    return program


def functional(program: ExportedProgram, *, decomposed: bool = False) -> ExportedProgram:
    """The program without operators that write in place.

    With `decomposed`, composite operators such as recurrent layers are taken apart as well.
    """
    with _mended_lstm():
        result: ExportedProgram = program.run_decompositions(None if decomposed else {})
    return result


def with_named_axes(axes: Iterable[str], export: Callable[[Mapping[str, Any]], T]) -> T:
    """Calls `export` with named axes.

    Where PyTorch fails to say what an axis must be, `export` is called again with axes that may be
    anything. PyTorch 2.9 and 2.10 end in a bare AssertionError there (pytorch#171673).
    """
    names = tuple(axes)
    try:
        return export({name: torch.export.Dim(name) for name in names})
    except AssertionError as error:
        if not _is_from_shapes(error):
            raise
    return export(loose_axes(names))


def loose_axes(axes: Iterable[str]) -> Mapping[str, Any]:
    """Dynamic axes that may take fewer sizes than all, in place of named ones."""
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


def _is_from_shapes(error: BaseException) -> bool:
    """Whether an error was raised by PyTorch's reasoning on sizes, rather than by the network."""
    trail = error.__traceback__
    while trail is not None and trail.tb_next is not None:
        trail = trail.tb_next
    file = trail.tb_frame.f_code.co_filename if trail is not None else ""
    return Path(file) == Path(str(symbolic_shapes.__file__))


@contextlib.contextmanager
def _mended_lstm() -> Iterator[None]:
    """Gives the last states of an LSTM their right shape while a network is traced.

    Before version 2.13 PyTorch's own decomposition takes away the wrong axis, so that states appear
    as (layers, 1, batch, hidden) and cannot be handed to the next call (pytorch#185716).
    """
    if _version() >= _MENDED:
        yield
        return
    torchs: Any = decompositions
    original = torchs.one_layer_lstm

    def one_layer_lstm(x: Tensor, hidden: tuple[Tensor, Tensor], *rest: Any, **named: Any) -> Any:
        y, last = original(x, hidden, *rest, **named)
        return y, tuple(
            state.squeeze(0) if state.dim() > first.dim() else state
            for state, first in zip(last, hidden, strict=True)
        )

    try:
        torchs.one_layer_lstm = one_layer_lstm
        yield
    finally:
        torchs.one_layer_lstm = original


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split(".")[:2])

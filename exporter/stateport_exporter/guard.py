"""Leaving the caller's world as it was: modules, random generators and PyTorch's flags."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stateport.errors import in_words

from .errors import ExportError

Module = TypeVar("Module", bound=nn.Module)


@contextlib.contextmanager
def no_idle_warnings() -> Iterator[None]:
    """Keeps PyTorch from saying what the user can do nothing about."""
    with warnings.catch_warnings():
        # Once for every LSTM with a projection, which oneDNN has not.
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps PyTorch's exporter from talking about its own internals and missing packages.

    What it or onnxscript prints on stdout, as onnxscript 0.5.6 does, goes to stderr: stdout may be
    what another program reads.
    """
    names = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        try:  # before anything is changed: Ctrl-C may come between any two lines
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def unchanged_globals(seed: int | None = None) -> Iterator[None]:
    """Puts the random generators, PyTorch's default dtype, threads and oneDNN flag back at the end.

    With a seed, the generators of PyTorch, NumPy and Python are set to it inside.
    """
    python, numpy = random.getstate(), np.random.get_state()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    onednn = bool(torch.backends.mkldnn.enabled)
    try:
        with torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        use_onednn(onednn)


def use_onednn(enabled: bool) -> None:
    """Whether PyTorch may use oneDNN, which has an LSTM of its own."""
    setattr(torch.backends.mkldnn, "enabled", enabled)  # noqa: B010  # typed as its descriptor


def evaluation_twin(module: Module, *, share_parameters: bool = True) -> Module:
    """A copy in evaluation mode that shares the parameters' memory, but nothing that changes.

    Buffers and attributes are copied, so that a network which updates them leaves the caller's
    alone. Without `share_parameters` the parameters are copied too.

    Raises:
        ExportError: the module holds something that cannot be copied.
    """
    parameters = module.parameters() if share_parameters else ()
    shared = {id(parameter): parameter for parameter in parameters}
    return _copy(module, shared).eval()


def float64_copy(module: Module) -> Module:
    """A copy of the module in float64."""
    return _copy(module, {}).double()


class _Float64(TorchFunctionMode):
    """Whatever asks for float32 gets float64: `.float()`, `.to(torch.float32)`, `dtype=`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        wider = [torch.float64 if arg is torch.float32 else arg for arg in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*wider, **named)


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """What forward makes itself, as torch.zeros(...) and x.float() do, is made in this dtype."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with _Float64() if dtype == torch.float64 else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)


def _copy(module: Module, memo: Mapping[int, object]) -> Module:
    # A logger belongs to the process, not to the network, and some cannot be copied.
    held = [value for part in module.modules() for value in vars(part).values()]
    loggers = {id(value): value for value in held if isinstance(value, logging.Logger)}
    try:
        return copy.deepcopy(module, {**memo, **loggers})
    except (Exception, SystemExit) as error:  # whatever a __deepcopy__ or an attribute raises
        raise ExportError(
            f"{type(module).__qualname__} cannot be copied ({in_words(error)}), so it cannot be "
            "exported without changing it. Remove attributes that hold open files, locks or "
            "tensors with a gradient history."
        ) from error

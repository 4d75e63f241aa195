# SPDX-License-Identifier: Apache-2.0
"""Keeps changes from the caller: to modules, random generators, the process and PyTorch's flags."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from stateport.picking import map_values

from .attributes import change_tensors
from .copying import check_initialised, copy_of

Module = TypeVar("Module", bound=nn.Module)


@contextlib.contextmanager
def no_idle_warnings() -> Iterator[None]:
    """Hides PyTorch's warnings about which the user can do nothing."""
    with warnings.catch_warnings():
        # Comes once for every LSTM with a projection, which oneDNN does not support.
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what PyTorch's exporter reports about its internals and missing packages.

    What it or onnxscript prints on stdout, as onnxscript 0.5.6 does, goes to stderr, since another
    program may read stdout.
    """
    names = ["torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript"]
    names.append("torch._subclasses.fake_tensor")  # it logs errors that are caught
    loggers = [*map(logging.getLogger, names)]
    levels = [logger.level for logger in loggers]

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        try:  # begins before anything is changed: Ctrl-C may come between any two lines
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raises KeyboardInterrupt as such where PyTorch's C++ made another error of it.

    An exception that crosses C++ comes out as a RuntimeError with its name in the text. What
    catches errors of the author's forward takes it for one of these.
    """
    try:
        yield
    except Exception as error:
        for each in _chain(error):
            if isinstance(each, RuntimeError) and KeyboardInterrupt.__name__ in str(each):
                raise KeyboardInterrupt from error
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from or in the handling of."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += filter(None, (each.__cause__, each.__context__))


@contextlib.contextmanager
def unchanged_process() -> Iterator[None]:
    """Puts back what PyTorch and forward set for the whole process.

    These are the environment's variables, `sys.path`, warnings, the levels of loggers, handlers of
    signals, the working directory and NumPy's handling of errors.
    """
    environment = dict(os.environ)
    folder = _folder()
    path = list(sys.path)
    levels = {name: logger.level for name, logger in _loggers()}
    signals = _signal_handlers()

    with warnings.catch_warnings(), np.errstate():
        try:
            yield
        finally:
            if folder is not None and _folder() != folder:
                os.chdir(folder)

            sys.path[:] = path
            _put_back_environment(environment)
            _put_back_levels(levels)
            _put_back_signals(signals)


def _folder() -> Path | None:
    """The working directory; None where it has been deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def _put_back_environment(before: Mapping[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]

    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _put_back_levels(before: Mapping[str, int]) -> None:
    for name, logger in _loggers():
        if name in before and logger.level != before[name]:
            logger.setLevel(before[name])


def _put_back_signals(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _loggers() -> list[tuple[str, logging.Logger]]:
    """The root logger under the name "", then all loggers by name, placeholders left out."""
    entries = list(logging.root.manager.loggerDict.items())

    loggers = []
    for name, entry in entries:
        if isinstance(entry, logging.Logger):
            loggers.append((name, entry))

    return [("", logging.root), *loggers]


def _signal_handlers() -> dict[int, Any]:
    """The handlers that Python has set; none can be set outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    handlers = {}
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if handler is not None:
            handlers[int(number)] = handler
    return handlers


@contextlib.contextmanager
def usual_settings() -> Iterator[None]:
    """Lets PyTorch compute as by default, on the CPU in float32, whatever the caller has set."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_autocast_enabled("cpu"):
            stack.enter_context(torch.autocast("cpu", enabled=False))
        if not _makes_on_cpu():
            stack.enter_context(torch.device("cpu"))
        if torch.get_default_dtype() != torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)

        yield


def _makes_on_cpu() -> bool:
    """Whether new tensors are on the CPU; `torch.set_default_device` can change that."""
    try:
        return torch.empty(0).device.type == "cpu"
    except (RuntimeError, AssertionError):  # a device that this machine does not have
        return False


@contextlib.contextmanager
def unchanged_globals(seed: int | None = None) -> Iterator[None]:
    """Puts the random generators, and PyTorch's default dtype, threads, oneDNN flag and modes back.

    With a seed, the generators of PyTorch, NumPy and Python are set to it inside.
    """
    python = random.getstate()
    numpy = np.random.get_state()
    dtype = torch.get_default_dtype()
    threads = torch.get_num_threads()
    onednn = bool(torch.backends.mkldnn.enabled)
    modes = _active_modes()

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
        _leave_modes(modes)


def _active_modes() -> list[Any]:
    """The modes of PyTorch that are active, the innermost of each kind last."""
    functions = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [*functions, *_get_current_dispatch_mode_stack()]


def _leave_modes(before: Sequence[Any]) -> None:
    """Leaves the modes that were not active before.

    A signal may come when a mode is active already, and before Python knows how to leave it.
    """
    known = {id(mode) for mode in before}
    for mode in reversed(_active_modes()):
        if id(mode) not in known:
            mode.__exit__(None, None, None)


def use_onednn(enabled: bool) -> None:
    """Sets whether PyTorch may use oneDNN, which has its own implementation of LSTM."""
    setattr(torch.backends.mkldnn, "enabled", enabled)  # noqa: B010  # typed as its descriptor


def evaluation_twin(module: Module, *, share_parameters: bool = True) -> Module:
    """A copy in evaluation mode that shares the parameters' memory, but nothing that changes.

    Buffers and attributes are copied, so a network that updates them does not change the caller's.
    Without `share_parameters` the parameters are copied too.

    Raises:
        ExportError: the module holds something that cannot be copied.
    """
    check_initialised(module)
    parameters = module.parameters() if share_parameters else ()
    # PyTorch cannot trace a tensor that was made in inference mode.
    shared = {}
    for tensor in parameters:
        if not tensor.is_inference():
            shared[id(tensor)] = tensor

    copied = copy_of(module, shared)
    copied.eval()  # an author's own may return nothing
    return copied


def float64_copy(module: Module) -> Module:
    """A copy of the module in float64, with what it keeps in attributes."""
    copied = copy_of(module, {}).double()
    change_tensors(copied, _in_float64)
    return copied


def _in_float64(tensor: Tensor) -> Tensor:
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    is_integer = not tensor.is_complex() and not tensor.is_floating_point()
    # A parameter that is in a list as well stays the same object.
    return tensor if is_integer or tensor.dtype == wide else tensor.detach().to(wide)


class _Float64(TorchFunctionMode):
    """Gives float64 wherever float32 is asked for: `.float()`, `.to(torch.float32)`, `dtype=`.

    Complex numbers get parts of float64, too.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        for argument in args:
            if argument is torch.float32 or argument is torch.complex64:
                args = tuple(map(_as_float64, args))
                break
        if not kwargs:
            return func(*args)

        widened = map_values(_as_float64, kwargs)
        return func(*args, **widened)


def _as_float64(argument: Any) -> Any:
    if argument is torch.complex64:
        return torch.complex128
    return torch.float64 if argument is torch.float32 else argument


@contextlib.contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Gives tensors that forward makes, as by torch.zeros(...) and x.float(), this dtype."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with _Float64() if dtype == torch.float64 else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)

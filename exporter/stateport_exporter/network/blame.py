"""What in a network is to blame: which layer, which line of its author, and what it still holds."""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import stateport
import stateport_exporter
from stateport import StateportError
from stateport.errors import in_words

from ..errors import ExportError

#: Folders whose code is no author's: PyTorch, what it computes with, this package, Python itself.
_OURS, *_LIBRARIES = (
    f"{Path(file).parent}{os.sep}"
    for file in (stateport_exporter.__file__, stateport.__file__, torch.__file__, np.__file__)
)
_PYTHON: Final = sysconfig.get_path("stdlib") + os.sep
_PACKAGES: Final = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
_COMPUTING: Final = tuple(
    f"{folder}{name}{os.sep}" for folder in _PACKAGES for name in ("sympy", "mpmath")
)


@dataclass(frozen=True)
class Line:
    """A line of the author's code."""

    file: str
    number: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.number).strip()
        where = f"{Path(self.file).name}:{self.number}"
        return f"{where}, {text!r}" if text else where


def is_authors(file: str) -> bool:
    """Whether code is of the network's author, or of a package that he took layers from."""
    # A module that is built into Python has no file.
    if not file or file.startswith(("<frozen", "<eval_with_key", "<__array_function__")):
        return False
    if file.startswith((_OURS, *_LIBRARIES, *_COMPUTING)):
        return False
    return file.startswith(_PACKAGES) or not file.startswith(_PYTHON)


def author_line() -> Line | None:
    """The innermost line of the author's that this package is running."""
    frame: FrameType | None = sys._getframe(1)
    innermost = None
    while frame is not None:
        file = frame.f_code.co_filename
        if innermost is None and is_authors(file):
            innermost = Line(file, frame.f_lineno)
        elif innermost is not None and file.startswith(_OURS):
            return innermost
        frame = frame.f_back
    return None  # what is outside of this package only called it


def raised_line(error: BaseException) -> Line | None:
    """The innermost line of the author's that an error came through."""
    innermost, ours = None, False
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        ours = ours or file.startswith(_OURS)
        if ours and is_authors(file):
            innermost = Line(file, number)
    return innermost


@contextlib.contextmanager
def told(network: nn.Module) -> Iterator[None]:
    """Says where the author's code raises something, in a call of whatever number.

    Raises:
        ExportError: with the error and its line, in place of what the author's code raises.
    """
    try:
        yield
    except StateportError:
        raise
    except (Exception, SystemExit) as error:  # the user's forward may raise anything
        line = raised_line(error)
        if line is None:
            raise
        raise ExportError(
            f"{type(network).__qualname__} fails when it is run again{where(network, error)} "
            f"({line}): {in_words(error)}. It is run many times, at several sizes; let every call "
            "work by itself."
        ) from error


def where(network: nn.Module, error: BaseException) -> str:
    """The innermost part of the network that was running: " in 'encoder.gru'", or nothing."""
    paths = {id(module): path for path, module in network.named_modules()}
    found, frame = "", error.__traceback__
    while frame is not None:
        found = paths.get(id(frame.tb_frame.f_locals.get("self")), found)
        frame = frame.tb_next
    return f" in {found!r}" if found else ""


def leftovers(network: nn.Module) -> str:
    """A sentence on the tensors that modules keep in attributes, as from an earlier call."""
    kept = [
        f"{path}.{name}".removeprefix(".")
        for path, module in network.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        and any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
    ]
    if not kept:
        return ""
    return (
        f" The network keeps tensors in {', '.join(map(repr, kept))}: if they have the batch of an "
        "earlier call, reset them before it is exported."
    )

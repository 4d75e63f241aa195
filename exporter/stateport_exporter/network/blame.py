# SPDX-License-Identifier: Apache-2.0
"""Which part of a network caused an error: its layer, its author's line, its leftover tensors."""

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
from torch import nn

import stateport
import stateport_exporter
from stateport import StateportError
from stateport.errors import in_words

from ..errors import ExportError
from .trees import tensors_in

#: Folders whose code no author wrote: this package, PyTorch and what it computes with, Python.
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
        position = f"{Path(self.file).name}:{self.number}"
        return f"{position}, {text!r}" if text else position


def at_line(line: Line | None) -> str:
    """A line for messages, as " (line)"; empty if there is none."""
    return f" ({line})" if line else ""


def is_authors(file: str) -> bool:
    """Whether the network's author wrote this file, or a package from which he took layers."""
    # A module that is built into Python has no file.
    if not file or file.startswith(("<frozen", "<eval_with_key", "<__array_function__")):
        return False
    if file.startswith((_OURS, *_LIBRARIES, *_COMPUTING)):
        return False

    # Installed packages may lie inside the folder of the standard library.
    return file.startswith(_PACKAGES) or not file.startswith(_PYTHON)


def author_line() -> Line | None:
    """The innermost running line of the author's code, if this package called that code."""
    frame: FrameType | None = sys._getframe(1)
    innermost = None
    while frame is not None:
        file = frame.f_code.co_filename
        if innermost is None and is_authors(file):
            innermost = Line(file, frame.f_lineno)
        elif innermost is not None and file.startswith(_OURS):
            return innermost

        frame = frame.f_back

    # Code outside of this package, such as the script that calls export, only called it.
    return None


def raised_line(error: BaseException) -> Line | None:
    """The innermost line of the author's code that an error passed through."""
    innermost = None
    inside_package = False
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        inside_package = inside_package or file.startswith(_OURS)
        if inside_package and is_authors(file):
            innermost = Line(file, number)

    return innermost


@contextlib.contextmanager
def told(network: nn.Module) -> Iterator[None]:
    """Names the author's line in an error that a later run of the network raises.

    Raises:
        ExportError: in place of any other error, with its text, and with the line if it comes from
            the author's code. Errors of files and memory are raised as they are.
    """
    try:
        yield
    except (StateportError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's forward may raise anything
        line = raised_line(error)
        if line is None:
            raise ExportError(
                f"{type(network).__qualname__} could not be exported{where(network, error)}: "
                f"{in_words(error)}. This error is not known here. Please report it together with "
                "the network."
            ) from error

        raise ExportError(
            f"{type(network).__qualname__} fails when it is run again{where(network, error)} "
            f"({line}): {in_words(error)}. It is run many times, at several sizes; let every call "
            "work by itself."
        ) from error


def paths_of(network: nn.Module) -> dict[int, str]:
    """The paths of a network's modules, by the ids of the modules."""
    return {id(module): path for path, module in network.named_modules()}


def where(network: nn.Module, error: BaseException) -> str:
    """The innermost module that was running, as " in 'encoder.gru'"; empty if there is none."""
    paths = paths_of(network)
    innermost = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        innermost = paths.get(id(frame.f_locals.get("self")), innermost)

    return f" in {innermost!r}" if innermost else ""


def leftovers(network: nn.Module) -> str:
    """A sentence that names the attributes in which modules keep tensors, as of an earlier call."""
    attributes = list(_tensor_attributes(network))
    if not attributes:
        return ""

    return (
        f" The network keeps tensors in {', '.join(map(repr, attributes))}: if they have the batch "
        "of an earlier call, reset them before it is exported."
    )


def _tensor_attributes(network: nn.Module) -> Iterator[str]:
    """The paths of public attributes that hold tensors, directly or in containers."""
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and tensors_in(value):
                yield f"{path}.{name}".removeprefix(".")

# SPDX-License-Identifier: Apache-2.0
"""Networks that draw random numbers by a generator of their own, which no seed of ours reaches."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import nn

from stateport.picking import among

from ..errors import ExportError
from ..network.blame import Line, at_line
from .kept import authored, names_in, slots

#: Names of functions and classes that give random numbers from a seed of the operating system.
_SOURCES: Final = (
    *("default_rng", "Random", "SystemRandom", "RandomState", "urandom", "uuid4"),
    *("token_bytes", "randbelow", "randbits", "PCG64", "SeedSequence"),
)
_GENERATORS: Final = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


def check_no_own_generator(network: nn.Module) -> None:
    """Refuses a network whose code names a source of random numbers, or that keeps a generator.

    It says why results differ from call to call. Whether they do is known already.

    Raises:
        ExportError: with the author's line, or the attribute.
    """
    for name, slot in slots(network).items():
        if isinstance(slot.value, _GENERATORS):
            raise _refusal(f"the generator {name!r}", None)
    for name, line in _named_sources(network):
        raise _refusal(f"{name}()", line)


def _named_sources(network: nn.Module) -> Iterator[tuple[str, Line]]:
    """The sources of random numbers that the author's functions name, with their lines."""
    for function in authored(network).functions:
        names = names_in(function.__code__)
        for name in among(_SOURCES, names):
            yield name, _line_with(function.__code__.co_filename, function, name)


def _line_with(file: str, function: object, name: str) -> Line:
    """The first line of a function in which a name is; its first line if the code is not there."""
    try:
        lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return Line(file, 0)
    for number, text in enumerate(lines):
        if name in text:
            return Line(file, first + number)
    return Line(file, first)


def _refusal(source: str, line: Line | None) -> ExportError:
    return ExportError(
        f"forward draws random numbers with {source}{at_line(line)}, in evaluation mode too, so "
        "its results are others in every call. Draw only while training (self.training), or pass "
        "the numbers as an argument of forward."
    )

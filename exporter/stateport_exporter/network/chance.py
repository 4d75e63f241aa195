# SPDX-License-Identifier: Apache-2.0
"""Networks that draw random numbers by Python's `random` or by NumPy.

Such a draw leaves no node in a graph: PyTorch's exporter runs forward once, and keeps what was
drawn then.
"""

from __future__ import annotations

import contextlib
import random
import sys
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ExportError
from .blame import Line, at_line, is_authors
from .example import Example
from .isolation import unchanged_globals


def check_no_chance(network: nn.Module, example: Example) -> None:
    """Refuses a network whose forward draws from Python's or NumPy's global generator.

    Args:
        network: an `Explicit` network; it is run once, or twice where it draws.
        example: what it takes.

    Raises:
        ExportError: it draws, with the author's line.
    """
    generator = _drawn_from(network, example)
    if generator is None:
        return

    line = _first_draw(network, example)
    raise ExportError(
        f"forward draws random numbers with {generator}{at_line(line)}. A file would keep those "
        "that were drawn once. Draw only while training (self.training), or pass the numbers as an "
        "argument of forward."
    )


def _drawn_from(network: nn.Module, example: Example) -> str | None:
    """The module whose global generator a run of the network changes."""
    with unchanged_globals(seed=0):
        before = _states()
        _run(network, example)
        for name, state in _states().items():
            if state != before[name]:
                return name
    return None


def _states() -> dict[str, object]:
    """The state of each global generator, by its name for messages."""
    name, keys, *rest = np.random.get_state(legacy=True)
    numpy = (name, np.asarray(keys).tobytes(), *rest)
    return {"Python's random": random.getstate(), "numpy.random": numpy}


def _run(network: nn.Module, example: Example) -> None:
    """Runs the network. Its errors are found, and explained, when it is captured."""
    arguments = example.make(example.sizes)
    with torch.no_grad(), contextlib.suppress(Exception, SystemExit):
        network(*arguments)


def _first_draw(network: nn.Module, example: Example) -> Line | None:
    """The first line of the author's code after which a generator has another state."""
    lines: list[Line] = []
    running: dict[FrameType, Line] = {}
    before = None

    def follow(frame: FrameType, event: str, _: object) -> Any:
        if not is_authors(frame.f_code.co_filename):
            return None
        if frame in running and not lines and _states() != before:
            lines.append(running[frame])
        if event == "return":
            running.pop(frame, None)
        else:
            running[frame] = Line(frame.f_code.co_filename, frame.f_lineno)
        return follow

    with unchanged_globals(seed=0):
        before = _states()
        tracer = sys.gettrace()
        sys.settrace(follow)
        try:
            _run(network, example)
        finally:
            sys.settrace(tracer)
    return lines[0] if lines else None

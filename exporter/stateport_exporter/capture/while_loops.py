# SPDX-License-Identifier: Apache-2.0
"""`while_loop` of PyTorch, where the length of the sequence is not known yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..network.higher_order import replaced
from .refusals import FixedTimeError, is_data_dependent


@contextlib.contextmanager
def endless_loops_refused(name: str) -> Iterator[None]:
    """Refuses to trace a `while_loop` of a network of this name, if its end cannot be known.

    It may count the time steps: at a fixed length its end is known.

    Raises:
        FixedTimeError: the network has such a loop.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            if not is_data_dependent(error):
                raise
            raise FixedTimeError(
                f"{name} has a while_loop that runs until values of tensors end it, or that takes "
                "a number out of a tensor, which an ONNX file cannot know before it runs. Let the "
                "loop count the time steps, and keep what else it needs in tensors."
            ) from error

    with replaced("while_loop", "while_loop_op", run) as original:
        yield

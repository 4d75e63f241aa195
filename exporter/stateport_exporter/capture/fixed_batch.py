# SPDX-License-Identifier: Apache-2.0
"""Networks that are made for one batch: a number in the code, or a buffer of that size."""

from __future__ import annotations

import re
from typing import Final

from ..errors import ExportError
from ..network.blame import at_line, leftovers, raised_line
from ..network.example import Example
from ..network.explicit import Explicit
from ..network.trial import runs_at
from .refusals import is_data_dependent, message_of, root_of

#: Batches that are tried besides those that the error names.
_USUAL: Final = (1, 2, 4, 8, 16, 32, 64)
#: The largest batch that is tried.
_LARGEST: Final = 4096


def why_fixed_batch(
    network: Explicit, example: Example, error: BaseException
) -> ExportError | None:
    """The error for a network that runs at one batch alone; None where that is not the reason.

    Args:
        network: the network, which failed with `error` at the example's sizes.
        example: the example.
        error: what it failed with. The numbers in its message are tried as batches first.
    """
    # These have a reason of their own, which says more.
    if is_data_dependent(error) or leftovers(network.network):
        return None

    traced = example.sizes["batch"]
    if "batch" not in example.axes or runs_at(network, example, {}):
        return None

    numbers = [*map(int, re.findall(r"\b\d{1,4}\b", message_of(root_of(error))))]
    for batch in dict.fromkeys((*numbers, *_USUAL)):
        is_sensible = 0 < batch <= _LARGEST and batch != traced
        if is_sensible and runs_at(network, example, {"batch": batch}):
            return _refusal(network, traced, batch, error)
    return None


def _refusal(network: Explicit, traced: int, batch: int, error: BaseException) -> ExportError:
    name = type(network.network).__qualname__
    # A size that PyTorch's exporter does not fix has a name there, "s33".
    message = re.sub(r"\bs\d+\b", str(traced), message_of(root_of(error)))
    return ExportError(
        f"{name} is made for a batch of {batch}{at_line(raised_line(error))}; with {traced} rows "
        f"it fails: {message}. Take the size from the input, x.shape[0], also "
        f"for first states and buffers. Or export it for that batch alone: write {batch} for "
        '"batch" in its Spec.'
    )

# SPDX-License-Identifier: Apache-2.0
"""Why a network cannot be captured, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn
from torch._subclasses.fake_tensor import UnsupportedOperatorException

from stateport.errors import first_line, text_of

from ..errors import ExportError
from ..network.blame import at_line, leftovers, raised_line, where
from ..network.example import Example
from ..network.packing import raised_in


class FixedTimeError(ExportError):
    """Forward fixes the number of time steps, as a Python loop over them does."""


def why_not(module: nn.Module, example: Example, error: BaseException) -> ExportError:
    """The error that says why a network could not be traced."""
    name = type(module).__qualname__
    text = text_of(error)

    frozen = re.search(r"marked (\w+) as dynamic but your code specialized it to be", text)
    if frozen:
        text = fixed_size_in_words(name, frozen[1], example.sizes.get(frozen[1]))
        return _size_error(frozen[1])(text + leftovers(module))

    violated = re.search(r"Constraints violated \((\w+)\).*?\n\s*- (.*)", text)
    if violated:
        return _size_error(violated[1])(
            _narrowed(name, violated[1], _condition(violated[2], violated[1]))
        )

    unknown = re.search(r"Found <class '([\w.<>]+)'> in output, which is not a known type", text)
    if unknown:
        kind = unknown[1].rpartition(".")[2]
        return ExportError(
            f"{name} returns a {kind}, a container that PyTorch cannot look into. Leave it out of "
            "what forward returns (for networks of transformers, with the argument "
            "use_cache=False). Or register it: torch.export.register_dataclass for a dataclass, "
            "torch.utils._pytree.register_pytree_node for another container."
        )

    if _needs_numbers(error, text):
        return ExportError(
            f"{raised_in(module, error)} calls an operator that an extension in C++ or CUDA brings"
            f"{at_line(raised_line(error))}, and that runs on numbers alone. PyTorch's exporter "
            "cannot look into it. Let forward use what the package has in Python, if it has that."
        )

    if "combine_mode='pointwise'" in text:
        return ExportError(
            f"{raised_in(module, error)} calls associative_scan with combine_mode='pointwise'"
            f"{at_line(raised_line(error))}, which PyTorch runs on CUDA alone. Call it with "
            "combine_mode='generic' for the export: it computes the same."
        )

    if is_data_dependent(error):
        line = raised_line(error)
        return ExportError(
            f"{raised_in(module, error)} takes numbers out of a tensor{at_line(line)}: tolist, "
            "numpy, item, int, max as a size, or an if. An ONNX file cannot know them before it "
            "runs. Keep them in the tensor: torch.where chooses, pack_padded_sequence takes "
            "lengths.cpu() itself, and pad_packed_sequence needs no total_length other than "
            "x.size(1)."
        )

    return ExportError(
        f"{name} could not be traced{where(module, error)}: {type(error).__name__}: "
        f"{message_of(error)}{leftovers(module)}{_without_time(example)}"
    )


def fixed_size_in_words(name: str, axis: str, size: int | None) -> str:
    """The sentence on a network that has the size of an axis that it was traced at."""
    return (
        f"{name} cannot take any size of the axis {axis!r}: its forward fixes it (traced at "
        f"{size}). A Python loop over that axis, len(x), int() of a size, or a comparison of sizes "
        "does that. Take sizes as x.shape[0], and use tensor operations in place of loops and "
        "comparisons."
    )


def narrowed_in_words(name: str, ranges: Mapping[str, tuple[int, int | None]]) -> str:
    """The sentence on a network that does the same at some sizes of its axes alone.

    Args:
        name: the network's name.
        ranges: the smallest and the largest of these sizes, None for no largest, of at least one
            axis.
    """
    axis, (smallest, largest) = min(ranges.items())
    end = "" if largest is None else f" and {axis} <= {largest}"
    return _narrowed(name, axis, f"{smallest} <= {axis}{end}")


def _narrowed(name: str, axis: str, condition: str) -> str:
    return (
        f"{name} does one thing where {condition}, and another at other sizes of the axis "
        f"{axis!r}. A comparison of sizes or a slice of a fixed length in forward does that."
    )


def _without_time(example: Example) -> str:
    """A hint for an example none of whose axes is time."""
    others = sorted(example.axes - {"batch"})
    if "time" in example.axes or not others:
        return ""
    return f" No axis of the example is called 'time'. If {others[0]!r} is time, call it 'time'."


def _needs_numbers(error: BaseException, text: str) -> bool:
    """Whether an operator without a meta kernel was called, which PyTorch cannot trace."""
    return isinstance(error, UnsupportedOperatorException) or "data is not allocated yet" in text


def is_data_dependent(error: BaseException) -> bool:
    """Whether forward takes numbers out of a tensor."""
    text = text_of(error)
    return "data-dependent" in text or ".numpy() is not supported" in text


def _size_error(axis: str) -> type[ExportError]:
    """The class of an error about the sizes of an axis."""
    return FixedTimeError if axis == "time" else ExportError


def _condition(text: str, axis: str) -> str:
    """The condition in PyTorch's message, "6 <= time"; the whole message if it has none."""
    text = re.sub(r"L\[[^ ]*?\.size\(\)\[\d+\]", axis, text)
    text = text.partition("generated guard ")[2] or text
    return text.replace(f" and {axis} <= IntInfinity()", "").rstrip(".")


def root_of(error: BaseException) -> BaseException:
    """The first cause of an error; PyTorch's exporter itself says only what to do next."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def message_of(error: BaseException) -> str:
    """The first line of an error's message."""
    return first_line(error) or "no message"

# SPDX-License-Identifier: Apache-2.0
"""Which sizes a source takes, and which shapes its outputs have at these."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from stateport import Contract
from stateport.contract import ArraySpec, Axis
from stateport.errors import StateportError, first_line

from ..errors import ExportError
from ..vectors.cases import BATCHES
from .source_cases import AcceptedSizes, Source, input_axes, make_case

#: The sizes of time, of the batch, and of axes that are neither ("free" ones).
_Sizes = tuple[int, int, int]

#: Sizes that are tried for free axes, such as an image's width.
_FREE_SIZES: Final = (4, 16, 64, 256)
#: Sizes of the batch that are tried, in this order, for files that are made for one of them.
_FROZEN_BATCHES: Final = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 64, 128, 256)


def accepted_sizes(
    source: Source, contract: Contract, lengths: Mapping[str, int] = MappingProxyType({})
) -> AcceptedSizes:
    """The sizes that the source takes, of the batch and of axes that are neither batch nor time.

    `lengths` are as in `draw_array`.

    Raises:
        ExportError: the source takes none of the sizes that are tried; with its first error.
    """
    axes = input_axes(contract)
    free_sizes = _FREE_SIZES if axes - {"batch", "time"} else _FREE_SIZES[:1]
    batches = _FROZEN_BATCHES if "batch" in axes else (1,)
    reason = ""

    # Most files take a batch of one. Others hold a constant that is made for one batch.
    for batch, free in itertools.product(batches, free_sizes):
        problem = _refusal(source, contract, batch, free, lengths)
        if problem is None:
            batches_taken = _accepted_batches(source, contract, batch, free, lengths)
            return AcceptedSizes(free, batches_taken, lengths)
        reason = reason or problem

    raise ExportError(
        "The file takes nothing that was tried, so there is nothing to compare the new file with. "
        f"Tried were {_tried(axes)}. The first error: {reason.rstrip('.')}. "
        f"{_advice(reason)}"
    )


def _tried(axes: set[str]) -> str:
    """The sizes that were tried."""
    sizes = []
    if "batch" in axes:
        sizes.append(f"batches of {_FROZEN_BATCHES[0]} to {_FROZEN_BATCHES[-1]}")
    if "time" in axes:
        sizes.append("64 steps")
    for axis in sorted(axes - {"batch", "time"}):
        sizes.append(f"{axis!r} of {', '.join(map(str, _FREE_SIZES))}")
    return "; ".join(sizes) or "the sizes that it fixes"


def _advice(reason: str) -> str:
    """What to do about an error of ONNX Runtime."""
    if re.search(r"not support|NOT_IMPLEMENTED", reason):
        return (
            "ONNX Runtime lacks an operator in this dtype, so that nothing can be compared: "
            "convert the file to float32."
        )
    return (
        "If an axis that the file leaves open has one size, or an input has one value, say so: "
        "`stateport contract` takes --axes x=batch,576, and it and `stateport lift` take "
        "--constant rate=16000."
    )


def _accepted_batches(
    source: Source, contract: Contract, accepted: int, free: int, lengths: Mapping[str, int]
) -> tuple[int, ...]:
    """The sizes of the batch that are recorded, if the source takes them, and an accepted one."""
    batches = [accepted]
    if "batch" in input_axes(contract):
        for size in BATCHES:
            if size == accepted:
                continue
            if _refusal(source, contract, size, free, lengths) is None:
                batches.append(size)
    return tuple(sorted(batches))


def _refusal(
    source: Source, contract: Contract, batch: int, free: int, lengths: Mapping[str, int]
) -> str | None:
    """Why a source does not take these sizes; None if it does."""
    try:
        case = make_case(contract, "whole", [64], batch, free_size=free, lengths=lengths)
        source(case.inputs)
    except StateportError as error:
        return first_line(error)
    return None


def with_measured_outputs(source: Source, contract: Contract, sizes: AcceptedSizes) -> Contract:
    """The contract, with the shapes of outputs as they have been measured.

    Files need not declare them, or may declare them wrongly. An axis is the batch or time if it has
    that size in every call that was tried.
    """
    measured = _measure_shapes(source, contract, sizes)
    _, first = next(iter(measured))

    axes = input_axes(contract)
    all_vary = _all_vary(axes, [sizes for sizes, _ in measured])
    outputs = []
    for spec in contract.outputs:
        shape: list[Axis] = []
        for axis in range(len(first[spec.name])):
            lengths = {sizes: shapes[spec.name][axis] for sizes, shapes in measured}
            measured_axis = _measured_axis(spec, axis, lengths)
            has_one_length = len(set(lengths.values())) == 1
            if all_vary and measured_axis not in axes and has_one_length:
                measured_axis = first[spec.name][axis]  # nothing changes it
            shape.append(measured_axis)
        outputs.append(replace(spec, shape=tuple(shape)))
    return replace(contract, outputs=tuple(outputs))


def _measure_shapes(
    source: Source, contract: Contract, accepted: AcceptedSizes
) -> list[tuple[_Sizes, dict[str, tuple[int, ...]]]]:
    """The shapes of all outputs at several sizes, without the sizes that the source refuses."""
    axes = input_axes(contract)
    first_batch = accepted.batches[0]
    batch = accepted.batches[-1]
    time = 96 if "time" in axes else 64

    measured: dict[_Sizes, dict[str, tuple[int, ...]]] = {}
    tried = (
        (64, first_batch, accepted.free),
        (64, batch, accepted.free),
        (time, first_batch, accepted.free),
        (64, first_batch, 3 * accepted.free),
    )
    for sizes in tried:
        steps, batch_size, free = sizes
        with contextlib.suppress(StateportError):
            case = make_case(contract, "whole", [steps], batch_size, free_size=free)
            outputs = source(case.inputs)
            measured[sizes] = {name: array.shape for name, array in outputs.items()}
    return list(measured.items())


def _all_vary(axes: set[str], tried: Sequence[_Sizes]) -> bool:
    """Whether each kind of axis that the inputs have was tried at several sizes."""
    kinds = ["time" in axes, "batch" in axes, bool(axes - {"batch", "time"})]
    varied = [len(set(sizes)) > 1 for sizes in zip(*tried, strict=True)]
    return all(vary or not has for vary, has in zip(varied, kinds, strict=True))


def _measured_axis(spec: ArraySpec, axis: int, lengths: Mapping[_Sizes, int]) -> Axis:
    """What an axis of an output is, from its lengths at several sizes."""
    if len(lengths) > 1:
        if _follows(lengths, [batch for _, batch, _ in lengths]):
            return "batch"
        if _follows(lengths, [time for time, _, _ in lengths]):
            return "time"

    declared = spec.shape[axis] if axis < len(spec.shape) else "?"
    is_wrong = isinstance(declared, int) and set(lengths.values()) != {declared}
    if declared == "?" or is_wrong:
        return f"{spec.name} axis {axis}"
    return declared


def _follows(lengths: Mapping[_Sizes, int], sizes: Sequence[int]) -> bool:
    """Whether the lengths are these sizes, which have to differ."""
    return len(set(sizes)) > 1 and sizes == list(lengths.values())

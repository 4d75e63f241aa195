# SPDX-License-Identifier: Apache-2.0
"""Whether vectors are sound: their arrays fit their contract, and there is something to compare.

Vectors are checked before a model runs on them, so that a fault in them is reported as theirs, and
not as an engine's. Vectors that every answer would pass are refused, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..axes import SIZE_LIMIT, resolve, with_known_sizes
from ..contract import ArraySpec, Contract, describe, has_time, names_of
from ..shown import shown

if TYPE_CHECKING:
    from .vectors import Case, Vectors

Array = NDArray[Any]

#: The most elements of one truth: of longer rows only some elements are recorded.
MOST_ELEMENTS: Final = 1 << 20

#: An engine may lose a few times the floor. So any answer would pass a floor whose lowest value is
#: more than this share of the largest value, or whose highest is more than this multiple of it.
_LOWEST_SHARE: Final = 1 / 8
_HIGHEST_SHARE: Final = 1000.0
#: Values below this count as this large: what is zero in float64 may be off by that in float32.
_SMALLEST: Final = 1e-6


def check_vectors(vectors: Vectors) -> None:
    """Checks that vectors fit their contract, and have something to compare for each output.

    Raises:
        ValueError: what is wrong with them.
    """
    contract = vectors.contract
    specs = (*contract.outputs, *contract.state_outputs)
    if not specs:
        raise ValueError("their contract has no outputs, so there is nothing to compare")
    if not vectors.cases:
        raise ValueError("they have no cases, so there is nothing to compare")
    if vectors.truth not in ("float64", "float32"):
        raise ValueError(f"their truth is {shown(vectors.truth)}; float64 or float32 was expected")

    steps = max(sum(case.chunks) for case in vectors.cases)
    _check_floors(vectors.floor, {*names_of(specs)}, steps)
    _check_cases(vectors)

    for spec in specs:
        _check_recorded(spec, vectors)
    _check_trace(vectors)


def _check_cases(vectors: Vectors) -> None:
    for case in vectors.cases:
        try:
            check_case(vectors.contract, case)
        except ValueError as error:
            raise ValueError(f"in the case {shown(case.name)}, {error}") from error


def _check_trace(vectors: Vectors) -> None:
    trace = vectors.trace
    if trace is None:
        return

    names = {case.name for case in vectors.cases}
    if trace.case not in names:
        raise ValueError(f"their trace is of the unknown case {shown(trace.case)}")


def _check_floors(floor: Mapping[str, Array], names: set[str], steps: int) -> None:
    _check_names("floor", floor, names)

    for name, array in floor.items():
        if array.dtype != np.float64 or array.ndim != 1 or len(array) < steps:
            raise ValueError(
                f"the floor of {shown(name)} is {describe(array.dtype, array.shape)}; "
                f"float64 for each of {steps} steps was expected"
            )

        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(f"the floor of {shown(name)} is negative, or no number")


def _check_names(what: str, arrays: Mapping[str, Array], names: set[str]) -> None:
    for name in sorted(arrays.keys() ^ names):
        wrong = "is not there" if name in names else "is not in the contract"
        raise ValueError(f"the {what} of {shown(name)} {wrong}")


def check_case(contract: Contract, case: Case) -> None:
    """Refuses a case whose arrays are not those of its contract at its sizes.

    Raises:
        ValueError: what is wrong with it.
    """
    specs = (*contract.outputs, *contract.state_outputs)
    if case.through not in ("model", "stream"):
        raise ValueError(f"calls go through {shown(case.through)}; model or stream was expected")
    if case.through == "stream" and not contract.streaming.ok:
        raise ValueError("calls go through a stream, which the contract rules out")

    _check_inputs(contract, case)
    _check_initial(contract, case)

    _check_names("truth", case.truth, {*names_of(specs)})
    for name in case.kept.keys() - case.truth.keys():
        raise ValueError(f"elements of {shown(name)} are kept, which is not in the contract")

    for spec in specs:
        _check_truth(spec, case)


def _check_inputs(contract: Contract, case: Case) -> None:
    _check_names("input", case.inputs, {*names_of(contract.inputs)})

    sizes = {**case.sizes, "time": sum(case.chunks)}
    for spec in contract.inputs:
        timed = "time" in spec.shape
        # Without a time axis, the inputs of all calls are stacked.
        calls = () if timed else (len(case.chunks),)
        _check_array(spec, case.inputs[spec.name], calls, sizes)
        if spec.lengths_of is not None and not timed:
            _check_lengths(spec, case)

    if case.through == "stream":
        _check_chunks(contract, case)


def _check_chunks(contract: Contract, case: Case) -> None:
    """Refuses chunks that a stream of the network does not take."""
    if not has_time(contract):
        return

    multiple = contract.streaming.chunk_multiple
    for chunk in case.chunks:
        if chunk % multiple:
            raise ValueError(f"a stream is fed {chunk} steps, which is no multiple of {multiple}")


def _check_initial(contract: Contract, case: Case) -> None:
    if not case.initial:
        return
    _check_names("first state", case.initial, {*names_of(contract.state_inputs)})
    for spec in contract.state_inputs:
        _check_array(spec, case.initial[spec.name], (), case.sizes)


def _check_array(
    spec: ArraySpec, array: Array, calls: tuple[int, ...], sizes: Mapping[str, int]
) -> None:
    """Refuses an array of another dtype or shape than its spec has at these sizes.

    `calls` are the axes before those of the spec.
    """
    shape = (*calls, *with_known_sizes(spec.shape, sizes))
    if array.dtype != np.dtype(spec.dtype) or not _fits_shape(array, shape):
        raise ValueError(
            f"{shown(spec.name)} is {describe(array.dtype, array.shape)}; "
            f"{shown(describe(spec.dtype, shape))} was expected"
        )


def _fits_shape(array: Array, shape: Sequence[int | str]) -> bool:
    """Whether an array has this shape; an axis of unknown size, a `str`, has any but zero."""
    if len(shape) != array.ndim:
        return False
    return all(map(_fits_size, shape, array.shape))


def _fits_size(axis: int | str, size: int) -> bool:
    return size > 0 if isinstance(axis, str) else size == axis


def _check_lengths(spec: ArraySpec, case: Case) -> None:
    """Refuses lengths of rows that the model would refuse: engines do not check them."""
    assert spec.lengths_of is not None
    longest: int | Array
    if spec.lengths_of == "time":
        longest = np.array(case.chunks).reshape(-1, *[1] * len(spec.shape))
    else:
        longest = case.sizes.get(spec.lengths_of, SIZE_LIMIT)

    lengths = case.inputs[spec.name]
    if ((lengths < 1) | (lengths > longest)).any():
        raise ValueError(f"{shown(spec.name)} holds lengths of rows that do not fit")


def _check_truth(spec: ArraySpec, case: Case) -> None:
    truth = case.truth[spec.name]
    floating = spec.dtype.startswith("float")
    kinds = "f" if floating else "iub"
    if truth.ndim != 2 or truth.dtype.kind not in kinds:
        raise ValueError(
            f"the truth of {shown(spec.name)} is {describe(truth.dtype, truth.shape)}; rows of "
            f"{'floating-point numbers' if floating else 'integers'} were expected"
        )

    rows, elements = _truth_size(spec, case)
    fits = len(truth) == rows and elements in (None, truth.shape[1])
    if not fits:
        raise ValueError(
            f"the truth of {shown(spec.name)} has the shape {truth.shape}; "
            f"{(rows, elements)} was expected"
        )


def _truth_size(spec: ArraySpec, case: Case) -> tuple[int, int | None]:
    """The rows of a truth and the elements of each; None where these are known after a call only.

    The engine's answers are compared with such a truth by their shape later.
    """
    rows: int
    elements: int | None
    try:
        rows, elements = _table_size(spec, case)
    except KeyError:
        rows, elements = len(case.truth[spec.name]), None

    recorded = case.kept.get(spec.name)
    if recorded is not None:
        elements = _recorded_elements(spec, recorded, rows, elements)
    return rows, elements


def _table_size(spec: ArraySpec, case: Case) -> tuple[int, int]:
    """The rows of all answers to a case, and the elements of each; see `vectors.rows`.

    Raises:
        KeyError: the size of an axis is not known before a call.
    """
    counts = Counter(case.chunks)
    shapes = {chunk: resolve(spec.shape, {**case.sizes, "time": chunk}) for chunk in counts}
    axis = spec.time_axis
    if axis is None:
        return len(case.chunks), prod(shapes[case.chunks[0]])

    shapes_beside_time = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes.values()}
    if len(shapes_beside_time) == 1:
        rows = sum(counts[chunk] * shape[axis] for chunk, shape in shapes.items())
        return rows, prod(*shapes_beside_time)
    # (time, time): every element is a row.
    return sum(counts[chunk] * prod(shape) for chunk, shape in shapes.items()), 1


def _recorded_elements(spec: ArraySpec, recorded: Array, rows: int, elements: int | None) -> int:
    """The number of recorded elements of each row.

    Args:
        spec: the output.
        recorded: which elements of a row are recorded.
        rows: the number of rows.
        elements: the number of elements of a row, recorded or not; None where unknown.

    Raises:
        ValueError: `recorded` cannot be that.
    """
    if recorded.ndim != 1 or recorded.dtype.kind not in "iu" or not len(recorded):
        raise ValueError(f"no elements of {shown(spec.name)} are kept")

    last = int(recorded[-1]) if elements is None else elements - 1
    in_range = recorded[0] >= 0 and recorded[-1] <= last
    if not in_range or (recorded[1:] <= recorded[:-1]).any():
        raise ValueError(f"the elements of {shown(spec.name)} that are kept are not in order")

    least = min(max(MOST_ELEMENTS // max(rows, 1), 1), last + 1)
    if len(recorded) < least:
        raise ValueError(
            f"of {shown(spec.name)} {len(recorded)} elements of each row are kept; {least} can be"
        )
    return len(recorded)


def _check_recorded(spec: ArraySpec, vectors: Vectors) -> None:
    """Refuses vectors that record nothing, or no numbers, of an output."""
    if not any(case.truth[spec.name].size for case in vectors.cases):
        raise ValueError(f"nothing of {shown(spec.name)} is recorded: there is nothing to compare")
    if not [*_magnitudes(spec.name, vectors)]:
        raise ValueError(f"no value of {shown(spec.name)} is a number: there is nothing to compare")


def check_floor(vectors: Vectors) -> None:
    """Checks that a bound of a few times the floor does not allow any answer.

    Raises:
        ValueError: it allows any answer for an output.
    """
    for name, floor in vectors.floor.items():
        largest = max(_magnitudes(name, vectors))
        scale = max(largest, _SMALLEST)
        is_too_low = floor.min() > _LOWEST_SHARE * scale
        is_too_high = floor.max() > _HIGHEST_SHARE * scale
        if is_too_low or is_too_high:
            raise ValueError(
                f"the floor of {shown(name)} is {floor.min():.1e} to {floor.max():.1e}, where the "
                f"largest value is {largest:.1e}: any answer would pass"
            )


def _magnitudes(name: str, vectors: Vectors) -> Iterator[float]:
    """The largest finite absolute value of each case that has one."""
    for case in vectors.cases:
        truth = case.truth[name]
        finite = truth[np.isfinite(truth)]
        if finite.size:
            yield max(abs(float(finite.max())), abs(float(finite.min())))

"""Whether vectors are sound: what they hold fits their contract, and says something.

Vectors are held against a model by what they are, so that anything that is wrong with them is said
of them, and not of an engine that cannot take it. And there is something to compare: vectors that
every answer would pass are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..axes import SIZE_LIMIT, resolve
from ..contract import ArraySpec, Contract, describe
from ..shown import shown

if TYPE_CHECKING:
    from .vectors import Case, Vectors

Array = NDArray[Any]

#: Of longer rows only so many elements are kept that no truth is larger than this.
MOST_ELEMENTS: Final = 1 << 20

#: What an engine may lose is a few times the floor. So a floor that is more than an eighth of the
#: largest value at its lowest, or so many times that value at its highest, allows anything.
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
    _check_floors(vectors.floor, {spec.name for spec in specs}, steps)
    for case in vectors.cases:
        try:
            check_case(contract, case)
        except ValueError as error:
            raise ValueError(f"in the case {shown(case.name)}, {error}") from error
    for spec in specs:
        _check_recorded(spec, vectors)
    if vectors.trace is not None and vectors.trace.case not in {c.name for c in vectors.cases}:
        raise ValueError(f"their trace is of the unknown case {shown(vectors.trace.case)}")


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
    _check_names("truth", case.truth, {spec.name for spec in specs})
    for name in case.kept.keys() - case.truth.keys():
        raise ValueError(f"elements of {shown(name)} are kept, which is not in the contract")
    for spec in specs:
        _check_truth(spec, case)


def _check_inputs(contract: Contract, case: Case) -> None:
    _check_names("input", case.inputs, {spec.name for spec in contract.inputs})
    for spec in contract.inputs:
        timed = "time" in spec.shape
        sizes = {**case.sizes, "time": sum(case.chunks)}
        calls = () if timed else (len(case.chunks),)
        _check_kind(spec, case.inputs[spec.name], calls, sizes)
        if spec.lengths_of is not None and not timed:
            _check_lengths(spec, case)
    multiple = contract.streaming.chunk_multiple
    if case.through == "stream" and any("time" in spec.shape for spec in contract.inputs):
        for chunk in case.chunks:
            if chunk % multiple:
                raise ValueError(
                    f"a stream is fed {chunk} steps, which is no multiple of {multiple}"
                )


def _check_initial(contract: Contract, case: Case) -> None:
    if case.initial:
        _check_names("first state", case.initial, {spec.input for spec in contract.states})
        for spec in contract.state_inputs:
            _check_kind(spec, case.initial[spec.name], (), case.sizes)


def _check_kind(
    spec: ArraySpec, array: Array, calls: tuple[int, ...], sizes: Mapping[str, int]
) -> None:
    axes = (sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in spec.shape)
    wanted = (*calls, *axes)
    fits = len(wanted) == array.ndim and all(
        size == axis or (isinstance(axis, str) and size > 0)
        for axis, size in zip(wanted, array.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(spec.dtype):
        raise ValueError(
            f"{shown(spec.name)} is {describe(array.dtype, array.shape)}; "
            f"{shown(describe(spec.dtype, wanted))} was expected"
        )


def _check_lengths(spec: ArraySpec, case: Case) -> None:
    """Engines trust the lengths of rows: the model would refuse those that do not fit."""
    assert spec.lengths_of is not None
    longest = (
        np.array(case.chunks).reshape(-1, *[1] * len(spec.shape))
        if spec.lengths_of == "time"
        else case.sizes.get(spec.lengths_of, SIZE_LIMIT)
    )
    lengths = case.inputs[spec.name]
    if ((lengths < 1) | (lengths > longest)).any():
        raise ValueError(f"{shown(spec.name)} holds lengths of rows that do not fit")


def _check_truth(spec: ArraySpec, case: Case) -> None:
    truth, kept = case.truth[spec.name], case.kept.get(spec.name)
    kinds = "f" if spec.dtype.startswith("float") else "iub"
    if truth.ndim != 2 or truth.dtype.kind not in kinds:
        raise ValueError(
            f"the truth of {shown(spec.name)} is {describe(truth.dtype, truth.shape)}; rows of "
            f"{'floating-point numbers' if kinds == 'f' else 'integers'} were expected"
        )
    try:
        rows, elements = _table(spec, case)
    except KeyError:  # an axis whose size is not known before a call; it is compared then
        rows, elements = len(truth), None
    if kept is not None:
        elements = _kept_elements(spec, kept, rows, elements)
    if len(truth) != rows or truth.shape[1] != (truth.shape[1] if elements is None else elements):
        raise ValueError(
            f"the truth of {shown(spec.name)} has the shape {truth.shape}; "
            f"{(rows, elements)} was expected"
        )


def _table(spec: ArraySpec, case: Case) -> tuple[int, int]:
    """How many rows of how many elements the answers to a case are; see `vectors.rows`.

    `KeyError` where the size of an axis is not known.
    """
    counts = Counter(case.chunks)
    shapes = {chunk: resolve(spec.shape, {**case.sizes, "time": chunk}) for chunk in counts}
    axis = spec.time_axis
    if axis is None:
        return len(case.chunks), prod(shapes[case.chunks[0]])
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes.values()}
    if len(others) == 1:
        return sum(counts[chunk] * shapes[chunk][axis] for chunk in counts), prod(*others)
    return sum(counts[chunk] * prod(shapes[chunk]) for chunk in counts), 1


def _kept_elements(spec: ArraySpec, kept: Array, rows: int, elements: int | None) -> int:
    """How many elements of each row are kept."""
    if kept.ndim != 1 or kept.dtype.kind not in "iu" or not len(kept):
        raise ValueError(f"no elements of {shown(spec.name)} are kept")
    last = int(kept[-1]) if elements is None else elements - 1
    if kept[0] < 0 or kept[-1] > last or (kept[1:] <= kept[:-1]).any():
        raise ValueError(f"the elements of {shown(spec.name)} that are kept are not in order")
    least = min(max(MOST_ELEMENTS // max(rows, 1), 1), last + 1)
    if len(kept) < least:
        raise ValueError(
            f"of {shown(spec.name)} {len(kept)} elements of each row are kept; {least} can be"
        )
    return len(kept)


def _check_recorded(spec: ArraySpec, vectors: Vectors) -> None:
    """An output of which nothing is recorded proves nothing."""
    if not any(case.truth[spec.name].size for case in vectors.cases):
        raise ValueError(f"nothing of {shown(spec.name)} is recorded: there is nothing to compare")
    if not [*_magnitudes(spec.name, vectors)]:
        raise ValueError(f"no value of {shown(spec.name)} is a number: there is nothing to compare")


def check_floor(vectors: Vectors) -> None:
    """Checks that a bound of a few times the floor does not allow anything.

    Raises:
        ValueError: it does, for an output.
    """
    for name, floor in vectors.floor.items():
        largest = max(_magnitudes(name, vectors))
        scale = max(largest, _SMALLEST)
        if floor.min() > _LOWEST_SHARE * scale or floor.max() > _HIGHEST_SHARE * scale:
            raise ValueError(
                f"the floor of {shown(name)} is {floor.min():.1e} to {floor.max():.1e}, where the "
                f"largest value is {largest:.1e}: any answer would pass"
            )


def _magnitudes(name: str, vectors: Vectors) -> Iterator[float]:
    """The largest finite size of each case."""
    for case in vectors.cases:
        truth = case.truth[name]
        finite = truth[np.isfinite(truth)]
        if finite.size:
            yield max(abs(float(finite.max())), abs(float(finite.min())))

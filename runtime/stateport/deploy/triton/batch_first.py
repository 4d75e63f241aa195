# SPDX-License-Identifier: Apache-2.0
"""A copy of a model's file with the batch axis first everywhere, and the proof that it is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...bench.workload import Workload, random_inputs
from ...contract import ArraySpec, Contract
from ...errors import StateportError
from ...model import Model, load
from ...state import State

Array = NDArray[Any]

#: The entry points that write such a copy: functions (source, path) -> None.
GROUP: Final = "stateport.layouts"
#: In another layout an engine may sum in another order: so many times float's precision.
_ROUNDING: Final = 64
#: Rows and, in multiples of the shortest chunk, the lengths of the calls that are compared.
_BATCHES: Final = (1, 3)
_CHUNKS: Final = (1, 3, 2, 1, 5)


def is_batch_first(contract: Contract) -> bool:
    """Whether the batch is the first axis of every array that has one."""
    specs = (*contract.inputs, *contract.outputs, *contract.state_inputs)
    return all("batch" not in spec.shape[1:] for spec in specs)


def write_batch_first(source: Path, path: Path) -> None:
    """Writes a copy of a model's file with the batch axis first, and compares the two.

    Raises:
        StateportError: the exporter, which changes graphs, is not installed; or a stream of the
            copy gives something else.
        FileError: a file cannot be read or written.
    """
    writers: list[Callable[[Path, Path], None]]
    writers = [entry.load() for entry in entry_points(group=GROUP)]
    if not writers:
        raise StateportError(
            f"{source} has arrays whose batch axis is not the first one, so that Triton's ONNX "
            "Runtime backend needs a changed copy, which the exporter writes. Install it: pip "
            "install stateport-exporter. Or pass --backend python, which takes the file as it is."
        )
    writers[0](source, path)
    check_same_streams(load(source), load(path))


def check_same_streams(original: Model, copy: Model) -> None:
    """Compares chains of calls with random inputs: their outputs and their states.

    Raises:
        StateportError: something differs; the message names it.
    """
    for batch in _BATCHES:
        state: State | None = None
        state_of_copy: State | None = None
        for call, inputs in enumerate(_calls(original.contract, batch)):
            outputs, state = original.run(inputs, state)
            first = _moved(inputs, original.contract.inputs, copy.contract.inputs)
            copied, state_of_copy = copy.run(first, state_of_copy)

            specs = (*original.contract.outputs, *original.contract.state_inputs)
            specs_of_copy = (*copy.contract.outputs, *copy.contract.state_inputs)
            back = _moved(copied | dict(state_of_copy), specs_of_copy, specs)
            for name, expected in (outputs | dict(state)).items():
                _check_same(name, expected, back[name], f"call {call + 1} of {batch} rows")


def _calls(contract: Contract, batch: int) -> Iterator[dict[str, Array]]:
    """The inputs of a chain of calls of several lengths that the contract allows."""
    least = contract.step_multiple
    step = contract.shortest_chunk
    most = dict(contract.limits).get("time", step * max(_CHUNKS))
    for seed, chunk in enumerate(_CHUNKS):
        time = min(chunk * step, most - most % least)
        yield random_inputs(contract, Workload(batch, time), seed)


def _moved(
    arrays: Mapping[str, Array], old: tuple[ArraySpec, ...], new: tuple[ArraySpec, ...]
) -> dict[str, Array]:
    """The arrays with their batch axes moved from where one contract has them to another's."""
    places = {spec.name: spec.shape.index("batch") for spec in new if "batch" in spec.shape}
    moved = dict(arrays)
    for spec in old:
        if spec.name in places:
            array = np.moveaxis(arrays[spec.name], spec.shape.index("batch"), places[spec.name])
            moved[spec.name] = np.ascontiguousarray(array)
    return moved


def _check_same(name: str, expected: Array, array: Array, where: str) -> None:
    if np.array_equal(expected, array, equal_nan=expected.dtype.kind == "f"):
        return
    if expected.dtype.kind == "f" and expected.shape == array.shape:
        largest = max(float(np.abs(expected).max(initial=0)), 1.0)
        bound = _ROUNDING * float(np.finfo(expected.dtype).eps) * largest
        if float(np.abs(expected - array).max(initial=0)) <= bound:
            return
    raise StateportError(
        f"The copy with the batch axis first gives another {name!r} in {where}; the same was "
        "expected. Nothing was written. Pass --backend python, and please report this file."
    )

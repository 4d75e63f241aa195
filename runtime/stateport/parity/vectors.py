# SPDX-License-Identifier: Apache-2.0
"""Vectors: recorded inputs and PyTorch's answers to them, in a file beside the model.

The file is safetensors; its metadata hold one JSON object under `stateport.vectors`. docs/parity.md
describes it.

Answers are stored as *rows*, so that every error has a step at which it happened: one row per step
for an output with an axis that grows with time, one row per call for everything else.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ..axes import SIZE_LIMIT, is_count
from ..contract import ArraySpec, Contract
from ..errors import ContractError, FileError
from ..files.reading import parse_json, read_arrays, texts_of, value_of
from ..shown import shown
from .soundness import check_vectors

Array = NDArray[Any]

VECTORS_KEY: Final = "stateport.vectors"
VERSION: Final = 1

#: The fields of a case that hold arrays.
_PARTS: Final = ("inputs", "initial", "truth", "kept")


def vectors_path(model: Path) -> Path:
    """The file with the vectors of a model: `lstm.onnx` -> `lstm.vectors.safetensors`."""
    return model.with_name(f"{model.stem}.vectors.safetensors")


@dataclass(frozen=True)
class Case:
    """One sequence of calls, from a first state.

    Attributes:
        name: the name that people read: "whole 2x64".
        through: "model": every call takes the state that the last one returned; "stream": a
            `Stream` carries it.
        sizes: the sizes of the axes other than time.
        chunks: the steps of each call; 1 each for a network without a time axis.
        inputs: by name; whole along the time axis, or stacked per call where there is none.
        initial: the first state by name; empty for the contract's own.
        truth: by output and state output, the answers as rows: (rows, recorded elements).
        kept: by name, the indices of the recorded elements of a row, where not all are recorded.
    """

    name: str
    through: str
    sizes: Mapping[str, int]
    chunks: tuple[int, ...]
    inputs: Mapping[str, Array]
    initial: Mapping[str, Array]
    truth: Mapping[str, Array] = field(default_factory=dict)
    kept: Mapping[str, Array] = field(default_factory=dict)

    @cached_property
    def ends(self) -> list[int]:
        """The step at which each call ends, counted from 1."""
        return list(accumulate(self.chunks))


@dataclass(frozen=True)
class Trace:
    """The value of every node of the file when it was written, computed in float64.

    Attributes:
        case: the case whose first call was traced.
        nodes: by the name of a node, the names of its outputs; "" for an output that it leaves out.
        values: by name, float64 where the file has float32. The largest are left out.
    """

    case: str
    nodes: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Vectors:
    """All cases, and the floor: what PyTorch itself loses.

    Attributes:
        contract: the contract of the model that they belong to.
        truth: the dtype in which PyTorch computed the truth, "float64" or "float32".
        floor: by output and state output, (steps,) float64: the largest error of PyTorch in
            float32 against the truth up to that step, over all cases.
        cases: the cases.
        made_with: versions and platform of the recording.
        trace: the values of the file's nodes, for `stateport verify --locate`; None where unknown.
        models: the SHA-256 (`pair.digest`) of the file that they were recorded with, and of files
            that were derived from it and verified with these vectors. Empty where unknown.
    """

    contract: Contract
    truth: str
    floor: Mapping[str, Array]
    cases: tuple[Case, ...]
    made_with: Mapping[str, str]
    trace: Trace | None = None
    models: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Writes the vectors; the same vectors give the same bytes."""
        trace = None
        if self.trace is not None:
            trace = {"case": self.trace.case, "nodes": dict(self.trace.nodes)}

        document = {
            "version": VERSION,
            "models": list(self.models),
            "truth": self.truth,
            "contract": json.loads(self.contract.to_json()),
            "made_with": dict(self.made_with),
            "trace": trace,
            "cases": [*map(_describe_case, self.cases)],
        }

        arrays = self._named_arrays()
        path.write_bytes(safetensors.numpy.save(arrays, {VECTORS_KEY: json.dumps(document)}))

    def _named_arrays(self) -> dict[str, Array]:
        """All arrays, by the names that they have in the file."""
        arrays = {f"floor/{name}": array for name, array in self.floor.items()}
        for number, case in enumerate(self.cases):
            for part in _PARTS:
                for name, array in getattr(case, part).items():
                    arrays[f"{number}/{part}/{name}"] = np.ascontiguousarray(array)

        if self.trace is not None:
            for name, array in self.trace.values.items():
                arrays[f"trace/{name}"] = array
        return arrays

    @classmethod
    def load(cls, path: Path) -> Vectors:
        """Reads vectors.

        Raises:
            FileError: the file is missing, cut off, or holds no vectors of a known version.
        """
        try:
            arrays, metadata = read_arrays(path)
        except FileError as error:
            raise FileError(
                f"The vectors cannot be used: {error} `stateport export` writes them beside the "
                "model; copy both."
            ) from error

        try:
            if VECTORS_KEY not in metadata:
                raise ValueError(f"its metadata have no {VECTORS_KEY!r}")
            vectors = cls._from_parts(parse_json(metadata[VECTORS_KEY]), arrays)
            check_vectors(vectors)
        except (ValueError, ContractError) as error:
            raise FileError(
                f"{path} holds no vectors that this stateport reads ({error}). Export the model "
                "again."
            ) from error

        return vectors

    @classmethod
    def _from_parts(cls, document: Any, arrays: Mapping[str, Array]) -> Vectors:
        version = value_of(document, "version", int)
        if version is True or version != VERSION:
            raise ValueError(f"version {shown(version)}, not {VERSION}")

        entries = value_of(document, "cases", list)
        groups = _group_arrays(arrays, len(entries))
        return cls(
            contract=Contract.from_document(document.get("contract")),
            truth=value_of(document, "truth", str),
            floor=groups["floor"],
            cases=tuple(_read_case(entry, str(i), groups) for i, entry in enumerate(entries)),
            made_with=texts_of(document, "made_with"),
            trace=_read_trace(document.get("trace"), groups["trace"]),
            models=_read_digests(document.get("models", [])),
        )


def _describe_case(case: Case) -> dict[str, Any]:
    """A case without its arrays, as the document has it."""
    return {
        "name": case.name,
        "through": case.through,
        "sizes": dict(case.sizes),
        "chunks": list(case.chunks),
    }


def _group_arrays(arrays: Mapping[str, Array], cases: int) -> defaultdict[str, dict[str, Array]]:
    """The arrays by the prefix of their names, such as "floor" or "0/inputs"."""
    groups: defaultdict[str, dict[str, Array]] = defaultdict(dict)
    known = {"floor", "trace", "came", *(f"{i}/{part}" for i in range(cases) for part in _PARTS)}

    for name, array in arrays.items():
        first, second, *_ = (*name.split("/", 2), "")
        group = first if first in known else f"{first}/{second}"
        if group not in known:
            raise ValueError(f"the array {shown(name)} belongs to nothing")
        groups[group][name[len(group) + 1 :]] = array
    return groups


def _read_case(entry: Any, number: str, groups: Mapping[str, Mapping[str, Array]]) -> Case:
    sizes = value_of(entry, "sizes", dict)
    chunks = value_of(entry, "chunks", list)
    for size in (*sizes.values(), *chunks):
        if not is_count(size, 1, SIZE_LIMIT - 1):
            raise ValueError(f"a size or a chunk is {shown(size)}; a number above 0 was expected")

    if not chunks:
        raise ValueError("a case has no calls")

    return Case(
        name=value_of(entry, "name", str),
        through=value_of(entry, "through", str),
        sizes=sizes,
        chunks=tuple(chunks),
        **{part: groups[f"{number}/{part}"] for part in _PARTS},
    )


def _read_digests(document: Any) -> tuple[str, ...]:
    if not _is_list_of_texts(document):
        raise ValueError(f"models is {shown(document)}; a list of digests was expected")
    return tuple(document)


def _read_trace(document: Any, values: Mapping[str, Array]) -> Trace | None:
    if document is None:
        return None

    nodes = {}
    for name, outputs in value_of(document, "nodes", dict).items():
        if not _is_list_of_texts(outputs):
            raise ValueError(f"the outputs of the node {shown(name)} are {shown(outputs)}")
        nodes[name] = tuple(outputs)
    return Trace(value_of(document, "case", str), nodes, values)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def most_steps(cases: Iterable[Case]) -> int:
    """The steps of the longest case."""
    return max(sum(case.chunks) for case in cases)


def results(contract: Contract) -> tuple[ArraySpec, ...]:
    """The specs of everything that is compared: the outputs, then the states."""
    return (*contract.outputs, *contract.state_outputs)


def call_inputs(contract: Contract, case: Case) -> Iterator[dict[str, Array]]:
    """The inputs of each call of a case, by name."""
    arrays = [(spec.name, case.inputs[spec.name], _before_time(spec)) for spec in contract.inputs]
    start = 0
    for number, chunk in enumerate(case.chunks):
        end = start + chunk
        inputs = {}
        for name, array, before in arrays:
            if before is None:
                inputs[name] = np.asarray(array[number])
            else:
                inputs[name] = array[*before, start:end]

        yield inputs
        start = end


def _before_time(spec: ArraySpec) -> tuple[slice, ...] | None:
    """An index of all axes before time; None where there is no time."""
    if "time" not in spec.shape:
        return None
    return (slice(None),) * spec.shape.index("time")


class Rows(NamedTuple):
    """The answers of all calls to one output.

    Attributes:
        table: (rows, elements), as `rows` arranges them.
        steps: (rows,), the step of each row, counted from 0.
    """

    table: Array
    steps: Array


def rows(spec: ArraySpec, case: Case, answers: Sequence[Array]) -> Rows:
    """The answers of all calls to one output as rows.

    Args:
        spec: the output.
        case: the case whose calls these are.
        answers: the answer of each call.
    """
    try:
        if spec.time_axis is None:
            table, steps = _rows_of_calls(case, answers)
        else:
            table, steps = _rows_of_steps(spec, spec.time_axis, case, answers)
    except ValueError:  # (time, time): every element becomes a row
        table = np.concatenate([answer.ravel() for answer in answers])
        steps = _last_steps(case, [answer.size for answer in answers])
    return Rows(table.reshape(len(table), math.prod(table.shape[1:])), steps)


def _rows_of_calls(case: Case, answers: Sequence[Array]) -> Rows:
    """One row per call, for an output without an axis that grows with time."""
    shape = answers[0].shape
    table = np.concatenate(answers) if shape else np.array(answers)
    return Rows(table.reshape(len(answers), *shape), _last_steps(case, 1))


def _rows_of_steps(spec: ArraySpec, axis: int, case: Case, answers: Sequence[Array]) -> Rows:
    """One row per element of the axis that grows with time."""
    table = np.moveaxis(np.concatenate(answers, axis), axis, 0)
    if spec.shape[axis] == "time":
        return Rows(table, np.arange(len(table)))
    # Which element of "batch*time" belongs to which step is unknown: all are there at the end.
    return Rows(table, _last_steps(case, [answer.shape[axis] for answer in answers]))


def _last_steps(case: Case, counts: int | Sequence[int]) -> Array:
    """The last step of each call, repeated by the count of that call."""
    steps: Array = np.repeat(np.array(case.ends) - 1, counts)
    return steps


def row_errors(table: Array, truth: Array) -> Array:
    """(rows,): the largest difference in each row of two (rows, elements) arrays."""
    # Rows are short: numpy finds their maxima faster in column order.
    errors: Array = np.asfortranarray(differences(table, truth)).max(axis=1, initial=0.0)
    return errors


def differences(values: Array, truth: Array) -> Array:
    """|values - truth|, element by element; infinite where only one of the two is finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        off: Array = np.abs(values.astype(np.float64) - truth)

    if np.isfinite(off).all():
        return off

    same = (values == truth) | (np.isnan(values) & np.isnan(truth))
    finite_or_infinite = np.where(np.isfinite(off), off, np.inf)
    return np.where(same, 0.0, finite_or_infinite)

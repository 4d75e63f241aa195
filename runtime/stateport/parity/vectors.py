"""Vectors: recorded inputs and PyTorch's answers to them, in a file beside the model.

The file is safetensors; its metadata hold one JSON object under `stateport.vectors`. docs/parity.md
describes it.

Answers are kept as *rows*, along time for an output with an axis that grows with it, one per call
for everything else, so that an error has a step at which it happened.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ..axes import SIZE_LIMIT
from ..contract import ArraySpec, Contract
from ..errors import ContractError, FileError
from ..files.reading import parse_json, read_arrays, texts_of, value_of
from ..shown import shown
from .soundness import check_vectors

Array = NDArray[Any]

VECTORS_KEY: Final = "stateport.vectors"
VERSION: Final = 1

#: What a case has arrays of.
_PARTS: Final = ("inputs", "initial", "truth", "kept")


def vectors_path(model: Path) -> Path:
    """Where the vectors of a model stand: `lstm.onnx` -> `lstm.vectors.safetensors`."""
    return model.with_name(f"{model.stem}.vectors.safetensors")


@dataclass(frozen=True)
class Case:
    """One sequence of calls, from a first state.

    Attributes:
        name: what people call it: "whole 2x64".
        through: "model": every call takes the state that the last one returned; "stream": a
            `Stream` carries it.
        sizes: the sizes of the axes other than time.
        chunks: the steps of each call; 1 each for a network without a time axis.
        inputs: by name; whole along the time axis, or stacked per call where there is none.
        initial: the first state by name; empty for the contract's own.
        truth: by output and state output, the float64 answers as rows (rows, kept elements).
        kept: by name, which elements of a row are kept, where not all are.
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
    """What every node of the file gave when it was written, computed in float64.

    Attributes:
        case: the case whose first call it is.
        nodes: by the name of a node, the names of its outputs; "" for one that is left out.
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
        truth: the dtype in which PyTorch gave the truth, "float64" or "float32".
        floor: by output and state output, (steps,) float64: the largest error of PyTorch in
            float32 against the truth up to that step, over all cases.
        cases: the cases.
        made_with: versions and platform of the recording.
        trace: what the file's nodes gave, for `stateport verify --locate`; None where unknown.
        models: the SHA-256 (`pair.digest`) of the file that they were recorded with, and of files
            that were made of it and verified against them. Empty where unknown.
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
        arrays = {f"floor/{name}": array for name, array in self.floor.items()}
        for number, case in enumerate(self.cases):
            for part in _PARTS:
                for name, array in getattr(case, part).items():
                    arrays[f"{number}/{part}/{name}"] = np.ascontiguousarray(array)
        trace = None
        if self.trace is not None:
            arrays |= {f"trace/{name}": array for name, array in self.trace.values.items()}
            trace = {"case": self.trace.case, "nodes": dict(self.trace.nodes)}
        document = {
            "version": VERSION,
            "models": list(self.models),
            "truth": self.truth,
            "contract": json.loads(self.contract.to_json()),
            "made_with": dict(self.made_with),
            "trace": trace,
            "cases": [
                {
                    "name": case.name,
                    "through": case.through,
                    "sizes": dict(case.sizes),
                    "chunks": list(case.chunks),
                }
                for case in self.cases
            ],
        }
        path.write_bytes(safetensors.numpy.save(arrays, {VECTORS_KEY: json.dumps(document)}))

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
        groups = _grouped(arrays, len(entries))
        return cls(
            contract=Contract.from_document(document.get("contract")),
            truth=value_of(document, "truth", str),
            floor=groups["floor"],
            cases=tuple(_case(entry, str(i), groups) for i, entry in enumerate(entries)),
            made_with=texts_of(document, "made_with"),
            trace=_trace(document.get("trace"), groups["trace"]),
            models=_digests(document.get("models", [])),
        )


def _grouped(arrays: Mapping[str, Array], cases: int) -> defaultdict[str, dict[str, Array]]:
    """The arrays by what stands before their own names: "floor", "0/inputs"."""
    groups: defaultdict[str, dict[str, Array]] = defaultdict(dict)
    known = {"floor", "trace", "came", *(f"{i}/{part}" for i in range(cases) for part in _PARTS)}
    for name, array in arrays.items():
        first, second, *_ = (*name.split("/", 2), "")
        group = first if first in known else f"{first}/{second}"
        if group not in known:
            raise ValueError(f"the array {shown(name)} belongs to nothing")
        groups[group][name[len(group) + 1 :]] = array
    return groups


def _case(entry: Any, number: str, groups: Mapping[str, Mapping[str, Array]]) -> Case:
    sizes, chunks = value_of(entry, "sizes", dict), value_of(entry, "chunks", list)
    for size in (*sizes.values(), *chunks):
        if type(size) is not int or not 0 < size < SIZE_LIMIT:
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


def _digests(document: Any) -> tuple[str, ...]:
    if not isinstance(document, list) or not all(isinstance(digest, str) for digest in document):
        raise ValueError(f"models is {shown(document)}; a list of digests was expected")
    return tuple(document)


def _trace(document: Any, values: Mapping[str, Array]) -> Trace | None:
    if document is None:
        return None
    nodes = {}
    for name, outputs in value_of(document, "nodes", dict).items():
        if not isinstance(outputs, list) or not all(isinstance(o, str) for o in outputs):
            raise ValueError(f"the outputs of the node {shown(name)} are {shown(outputs)}")
        nodes[name] = tuple(outputs)
    return Trace(value_of(document, "case", str), nodes, values)


def results(contract: Contract) -> tuple[ArraySpec, ...]:
    """Everything that is compared: the outputs, then the states."""
    return (*contract.outputs, *contract.state_outputs)


def call_inputs(contract: Contract, case: Case) -> Iterator[dict[str, Array]]:
    """The inputs of each call of a case."""
    cuts = [(spec.name, case.inputs[spec.name], _before_time(spec)) for spec in contract.inputs]
    start = 0
    for number, chunk in enumerate(case.chunks):
        end = start + chunk
        yield {
            name: np.asarray(array[number]) if before is None else array[*before, start:end]
            for name, array, before in cuts
        }
        start = end


def _before_time(spec: ArraySpec) -> tuple[slice, ...] | None:
    """All of the axes before time, as an index; None where there is no time."""
    return (slice(None),) * spec.shape.index("time") if "time" in spec.shape else None


class Rows(NamedTuple):
    """The answers of all calls to one output.

    `table` is (rows, all other elements), `steps` the step, counted from 0, of each row.
    """

    table: Array
    steps: Array


def rows(spec: ArraySpec, case: Case, answers: Sequence[Array]) -> Rows:
    """The answers of all calls to one output as rows."""
    axis, shape = spec.time_axis, answers[0].shape
    try:
        if axis is None:
            table = np.concatenate(answers) if shape else np.array(answers)
            table, steps = table.reshape(len(answers), *shape), _at_ends(case, 1)
        else:
            table = np.moveaxis(np.concatenate(answers, axis), axis, 0)
            steps = np.arange(len(table))
            if spec.shape[axis] != "time":
                # Which element of "batch*time" is which step is not known: all are, by the end.
                steps = _at_ends(case, [answer.shape[axis] for answer in answers])
    except ValueError:  # (time, time): every element is a row of its own
        table = np.concatenate([answer.ravel() for answer in answers])
        steps = _at_ends(case, [answer.size for answer in answers])
    return Rows(table.reshape(len(table), math.prod(table.shape[1:])), steps)


def _at_ends(case: Case, counts: int | Sequence[int]) -> Array:
    """For each call, its last step, so many times."""
    steps: Array = np.repeat(np.array(case.ends) - 1, counts)
    return steps


def row_errors(table: Array, truth: Array) -> Array:
    """The largest difference in each row."""
    # Rows are short: their maxima are found quicker when each column lies together.
    errors: Array = np.asfortranarray(differences(table, truth)).max(axis=1, initial=0.0)
    return errors


def differences(values: Array, truth: Array) -> Array:
    """|values - truth|, element by element; what is a number in one alone differs infinitely."""
    with np.errstate(invalid="ignore", over="ignore"):
        off: Array = np.abs(values.astype(np.float64) - truth)
    if not np.isfinite(off).all():
        same = (values == truth) | (np.isnan(values) & np.isnan(truth))
        off = np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))
    return off

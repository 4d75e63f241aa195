"""Vectors: recorded inputs and PyTorch's answers to them, in a file beside the model.

The file is safetensors; its metadata hold one JSON object under `stateport.vectors`. docs/parity.md
describes it.

Answers are kept as *rows*, along time for an output with an axis that grows with it, one per call
for everything else, so that an error has a step at which it happened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ..contract import ArraySpec, Contract
from ..errors import ContractError, FileError

Array = NDArray[Any]

VECTORS_KEY: Final = "stateport.vectors"
VERSION: Final = 1


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
    """

    contract: Contract
    truth: str
    floor: Mapping[str, Array]
    cases: tuple[Case, ...]
    made_with: Mapping[str, str]
    trace: Trace | None = None

    def save(self, path: Path) -> None:
        """Writes the vectors; the same vectors give the same bytes."""
        arrays = {f"floor/{name}": array for name, array in self.floor.items()}
        for number, case in enumerate(self.cases):
            for part in ("inputs", "initial", "truth", "kept"):
                for name, array in getattr(case, part).items():
                    arrays[f"{number}/{part}/{name}"] = np.ascontiguousarray(array)
        trace = None
        if self.trace is not None:
            arrays |= {f"trace/{name}": array for name, array in self.trace.values.items()}
            trace = {"case": self.trace.case, "nodes": dict(self.trace.nodes)}
        document = {
            "version": VERSION,
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
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except OSError as error:
            raise FileError(
                f"The vectors {path} could not be read: {error.strerror or error}. "
                "`stateport export` writes them beside the model; copy both."
            ) from error
        except safetensors.SafetensorError as error:
            raise FileError(f"{path} is not a safetensors file: {error}.") from error
        try:
            return cls._from_parts(json.loads(metadata[VECTORS_KEY]), arrays)
        except (KeyError, TypeError, ValueError, ContractError) as error:
            raise FileError(
                f"{path} holds no vectors that this stateport reads ({error}). Export the model "
                "again."
            ) from error

    @classmethod
    def _from_parts(cls, document: Mapping[str, Any], arrays: Mapping[str, Array]) -> Vectors:
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r}, not {VERSION}")

        def part(prefix: str) -> dict[str, Array]:
            return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}

        cases = tuple(
            Case(
                name=entry["name"],
                through=entry["through"],
                sizes=entry["sizes"],
                chunks=tuple(entry["chunks"]),
                **{p: part(f"{i}/{p}/") for p in ("inputs", "initial", "truth", "kept")},
            )
            for i, entry in enumerate(document["cases"])
        )
        vectors = cls(
            contract=Contract.from_json(json.dumps(document["contract"])),
            truth=document["truth"],
            floor=part("floor/"),
            cases=cases,
            made_with=document["made_with"],
            trace=_trace(document.get("trace"), part("trace/")),
        )
        vectors._check()
        return vectors

    def _check(self) -> None:
        names = {spec.name for spec in results(self.contract)}
        if not self.cases:
            raise ValueError("no cases")
        if any(not (np.isfinite(f).all() and (f >= 0).all()) for f in self.floor.values()):
            raise ValueError("a floor that is negative, or no number")
        if self.trace is not None and self.trace.case not in {case.name for case in self.cases}:
            raise ValueError(f"a trace of the unknown case {self.trace.case!r}")
        for case in self.cases:
            if case.truth.keys() != names or self.floor.keys() != names:
                raise ValueError(f"case {case.name!r} has not one answer per output")
            if case.inputs.keys() != {spec.name for spec in self.contract.inputs}:
                raise ValueError(f"case {case.name!r} has not one array per input")


def _trace(document: Mapping[str, Any] | None, values: Mapping[str, Array]) -> Trace | None:
    if document is None:
        return None
    nodes = {name: tuple(outputs) for name, outputs in document["nodes"].items()}
    return Trace(document["case"], nodes, values)


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

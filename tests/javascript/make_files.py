# SPDX-License-Identifier: Apache-2.0
"""Writes what the tests in JavaScript compare with: files, recorded answers, states, messages.

python -m tests.javascript.make_files FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import nn

import stateport
from models import sentiment, text_generator
from models.lstm import ReferenceLSTM
from stateport import Model, StateportError
from stateport.parity.bounds import FLOOR_FACTOR
from stateport.parity.run_case import fitted, run_case
from stateport.parity.vectors import (
    Case,
    Vectors,
    call_inputs,
    results,
    rows,
    vectors_path,
)
from stateport_exporter import Spec, export
from tests.javascript.messages import write_messages

Array = NDArray[Any]

CASES: Final = "cases.json"


class LearnedStart(nn.Module):
    """A GRU whose first state is a parameter, so that the file has its values."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, batch_first=True)
        self.start = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, 5) -> (batch, time, 8)."""
        y: torch.Tensor
        y, _ = self.gru(x, self.start.expand(-1, x.shape[0], -1).contiguous())
        return y


class Strided(nn.Module):
    """A convolution that divides time by 2, before a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(5, 6, 2, stride=2)
        self.gru = nn.GRU(6, 7, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, time, 5) -> (batch, time / 2, 7)."""
        y: torch.Tensor
        y, _ = self.gru(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        return y


def float_input() -> tuple[Spec, ...]:
    """One input, (batch, time, 5) float32."""
    return (Spec("float32", "batch", "time", 5),)


def networks() -> dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]]:
    """By name: how the network is made, its example, and the options of the export."""
    references = {
        "reference": ReferenceLSTM,
        "two layers": lambda: ReferenceLSTM(num_layers=2, batch_first=False),
        "bidirectional": lambda: ReferenceLSTM(bidirectional=True),
        "projected": lambda: ReferenceLSTM(hidden_size=16, proj_size=4),
        "text generator": text_generator.trained,
        "sentiment": sentiment.trained,
    }
    made: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {}
    for name, make in references.items():
        made[name] = (make, None, {})
    made["learned"] = (LearnedStart, float_input(), {})
    made["strided"] = (Strided, float_input(), {})
    made["half"] = (LearnedStart, float_input(), {"dtype": "float16"})
    return made


def main() -> None:
    """Writes everything into a folder."""
    folder = Path(sys.argv[1])
    described: dict[str, dict[str, Any]] = {}
    for number, (name, (make, example, options)) in enumerate(networks().items()):
        torch.manual_seed(number)
        module: Any = make()
        path = folder / f"{name.replace(' ', '-')}.onnx"
        given = module.example_inputs if example is None else example
        export(module, given, path, **options)
        described[name] = {"file": path.name, "cases": write_cases(path)}
        if stateport.load(path).contract.streaming.ok:
            described[name]["handover"] = write_handover(path)

    (folder / CASES).write_text(json.dumps(described))
    write_messages(folder)


def write_cases(path: Path) -> list[dict[str, Any]]:
    """Writes the recorded calls of a model, and what is allowed at each element of each answer.

    Answers are compared in the order in which they come: `index` are positions in the answers of
    all calls, one behind the other.
    """
    model, vectors = stateport.load(path), Vectors.load(vectors_path(path))
    arrays: dict[str, Array] = {}
    cases = []
    for number, case in enumerate(vectors.cases):
        answers, _ = run_case(model, case)
        for spec in results(model.contract):
            index, steps = index_of(spec, case, answers[spec.name])
            truth = case.truth[spec.name]
            arrays[f"{number}/index/{spec.name}"] = index.astype("i8").ravel()
            arrays[f"{number}/truth/{spec.name}"] = truth.astype("f8").ravel()
            allowed = allowances(vectors, model, spec.name, truth, steps)
            arrays[f"{number}/allowed/{spec.name}"] = allowed.ravel()

        calls = [*call_inputs(model.contract, fitted(model, case))]
        for name in case.inputs:
            flat = [call[name].ravel() for call in calls]
            arrays[f"{number}/inputs/{name}"] = np.concatenate(flat)
        for name, array in fitted(model, case).initial.items():
            arrays[f"{number}/initial/{name}"] = np.ascontiguousarray(array)
        cases.append(
            {
                "name": case.name,
                "through": case.through,
                "calls": [{name: x.shape for name, x in call.items()} for call in calls],
                "initial": [*case.initial],
            }
        )

    path.with_suffix(".cases").write_bytes(safetensors.numpy.save(arrays))
    return cases


def index_of(spec: Any, case: Case, answers: list[Array]) -> tuple[Array, Array]:
    """(rows, elements): where each recorded element is in all answers, and (rows,) its step."""
    start = 0
    positions = []
    for answer in answers:
        positions.append(np.arange(start, start + answer.size).reshape(answer.shape))
        start += answer.size

    table, steps = rows(spec, case, positions)
    if spec.name in case.kept:
        table = table[:, case.kept[spec.name]]
    return table, steps


def allowances(vectors: Vectors, model: Model, name: str, truth: Array, steps: Array) -> Array:
    """(rows, elements): the error that is allowed."""
    if model.precision == "float16":  # in place of a signal-to-noise ratio
        return np.full(truth.shape, 0.01)
    floor = vectors.floor[name][steps]
    return np.broadcast_to(FLOOR_FACTOR * floor[:, None], truth.shape)


def write_handover(path: Path) -> dict[str, Any]:
    """Writes a stream's state after its first part, and the inputs of two more parts."""
    model = stateport.load(path)
    random = np.random.default_rng(0)
    parts = [*random_chunks(model, random)]
    stream = model.stream()
    stream.run(parts[0])
    stream.state.save(path.with_suffix(".state"))

    whole = [stream.run(part) for part in parts[1:]]
    for number, part in enumerate(parts[1:], 1):
        file = path.with_suffix(f".part{number}")
        file.write_bytes(safetensors.numpy.save({**part}))
        expected = {name: np.ascontiguousarray(y) for name, y in whole[number - 1].items()}
        path.with_suffix(f".whole{number}").write_bytes(safetensors.numpy.save(expected))
    return {"inputs": [spec.name for spec in model.contract.inputs]}


def random_chunks(model: Model, random: np.random.Generator) -> Iterator[Mapping[str, Array]]:
    """The inputs of three chunks of 4 steps, with 2 rows."""
    sizes = {"batch": 2, "time": 4}
    for _ in range(3):
        inputs = {}
        for spec in model.contract.inputs:
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
            values = (
                random.integers(0, 60, shape) if "int" in spec.dtype else random.normal(size=shape)
            )
            inputs[spec.name] = np.asarray(values, spec.dtype)
        yield inputs


if __name__ == "__main__":
    try:
        main()
    except StateportError as error:
        sys.exit(str(error))

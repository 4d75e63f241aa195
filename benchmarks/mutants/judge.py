"""Judges broken files on one engine, in a separate process that an engine may take down.

`python -m benchmarks.mutants.judge ENGINE GOOD.onnx BROKEN.onnx...` prints a JSON object per file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import stateport
from stateport import State, StateportError
from stateport.contract import ArraySpec
from stateport.model import Model
from stateport.model_file.onnx_outline import read
from stateport.model_file.read_contract import read_contract
from stateport.parity.bounds import FLOOR_FACTOR
from stateport.parity.engine_report import bound_for, judge_case, measure_model
from stateport.parity.vectors import Case, Vectors, results, row_errors, rows, vectors_path
from stateport.validation import Array
from stateport_exporter.locate.locate import locate

#: What becomes of a broken file: it is refused, or fails; or it passes because it changes no output
#: by more than twice what is allowed; or it is missed.
REFUSED, CRASHED, FAILED, WITHIN, MISSED = "refused", "crashed", "failed", "within", "missed"
CAUGHT: Final = (REFUSED, CRASHED, FAILED)

#: Fresh inputs, apart from the recorded ones: seeds, and (batch, time).
_SEEDS: Final = range(3)
_SIZES: Final = (3, 150)


def judge_all(engine: str, good: Path, broken: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """What becomes of each file; one that takes the process down is caught, and the rest go on."""
    rest = list(broken)
    while rest:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.mutants.judge", engine]
        run = subprocess.run(
            [*command, str(good), *map(str, rest)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        told = [json.loads(line) for line in run.stdout.splitlines()]
        yield from told
        rest = rest[len(told) :]
        if rest and run.returncode:
            yield {"verdict": CRASHED}
            rest = rest[1:]


def main() -> None:
    """Judges the files that are named on the command line."""
    engine, good, *broken = sys.argv[1:]
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    vectors = Vectors.load(vectors_path(Path(good)))
    honest = stateport.load(good, engine=engine)
    for path in broken:
        print(json.dumps(judge(engine, honest, vectors, Path(path))), file=stdout, flush=True)


def judge(engine: str, honest: Model, vectors: Vectors, path: Path) -> dict[str, Any]:
    """What becomes of one file, as `stateport verify` has it; and where the fault was located."""
    try:
        read_contract(read(path))
        model = stateport.load(path, engine=engine)
        if engine == "ort-cpu":
            return _located(honest, model, vectors, path)
        bound = bound_for(vectors, model.precision, None)
        found = (m for case in vectors.cases for m in judge_case(model, vectors, case, bound))
        if model.contract != vectors.contract or not all(m.passed for m in found):
            return {"verdict": FAILED}
    except StateportError:
        return {"verdict": REFUSED}
    return {"verdict": _passed(honest, model, vectors)}


def _located(honest: Model, model: Model, vectors: Vectors, path: Path) -> dict[str, Any]:
    report = measure_model(model, vectors)
    if report.passed:
        return {"verdict": _passed(honest, model, vectors)}
    try:
        one = locate(path, model, {}, vectors, report, path.with_suffix(".node.onnx"))
    except StateportError as error:
        return {"verdict": FAILED, "node": None, "because": str(error)}
    return {"verdict": FAILED, "node": one.node}


def _passed(honest: Model, model: Model, vectors: Vectors) -> str:
    """Whether a file that passes changes an output by more than twice what is allowed."""
    for seed in _SEEDS:
        inputs, state = _fresh(honest, seed)
        ours, theirs = (_answers(m, inputs, state) for m in (honest, model))
        case = Case("fresh", "model", {"batch": _SIZES[0]}, (_SIZES[1],), {}, {})
        for spec in results(honest.contract):
            table, steps = rows(spec, case, [theirs[spec.name]])
            off = row_errors(table, rows(spec, case, [ours[spec.name]]).table)
            floor = vectors.floor[spec.name]
            if (off > 2 * FLOOR_FACTOR * floor[np.minimum(steps, len(floor) - 1)]).any():
                return MISSED
    return WITHIN


def _fresh(model: Model, seed: int) -> tuple[dict[str, Array], State]:
    random = np.random.default_rng(seed)
    batch, time = _SIZES
    sizes = {"batch": batch, "time": time}

    def array(spec: ArraySpec) -> Array:
        shape = [sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
        if spec.lengths_of is not None:
            return random.integers(1, time, shape).astype(spec.dtype)
        if spec.dtype.startswith("int"):
            return random.integers(0, 12, shape).astype(spec.dtype)
        return random.standard_normal(shape).astype(spec.dtype)

    contract = model.contract
    inputs = {spec.name: array(spec) for spec in contract.inputs}
    return inputs, State({spec.name: 0.3 * array(spec) for spec in contract.state_inputs})


def _answers(model: Model, inputs: dict[str, Array], state: State) -> dict[str, Array]:
    state = State({name: a.astype(np.float32) for name, a in state.items()})
    outputs, after = model.run(inputs, state or None)
    return {**outputs, **{s.output: after[s.input] for s in model.contract.states}}


if __name__ == "__main__":
    main()

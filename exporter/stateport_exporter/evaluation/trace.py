"""What every node of a file gives, recorded when it is written, so that a fault can be located."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx

from stateport.contract import Contract
from stateport.model_file.onnx_outline import read
from stateport.parity.bounds import Floor
from stateport.parity.engine_report import compare
from stateport.parity.vectors import Case, Trace, Vectors, call_inputs, results
from stateport.validation import initial_state

from .float64 import Values, values

#: A value of more elements is left out, and a larger file has no trace: it would take long to
#: write, and be much of the vectors.
_MOST_ELEMENTS: Final = 1 << 16
_MOST_BYTES: Final = 256 << 20


def first_call(path: Path, contract: Contract, case: Case) -> Values:
    """All inputs of a case's first call, the state among them."""
    inputs = next(call_inputs(contract, case))
    sizes = {**case.sizes, "time": case.chunks[0]}
    state = case.initial or initial_state(contract, read(path).initial, sizes)
    return {**inputs, **state}


def trace(path: Path, vectors: Vectors) -> Trace | None:
    """The trace of a file, on one of its cases; None where onnx's reference cannot run the file.

    It is PyTorch's truth that makes it one: a graph whose results differ from that has no trace.
    """
    case = min(vectors.cases, key=_unfitness)
    if len(case.chunks) > 1 or path.stat().st_size > _MOST_BYTES:
        return None
    try:
        model = onnx.load(path)
        found = values(model, first_call(path, vectors.contract, case))
    except Exception:  # an operator that onnx's reference has not, or stumbles over
        return None
    if not _is_truth(vectors, case, found):
        return None
    nodes = {node.name: tuple(node.output) for node in model.graph.node if node.name}
    kept = {name for outputs in nodes.values() for name in outputs if name}
    small = {
        name: np.array(found[name], order="C")
        for name in kept
        if found[name].size <= _MOST_ELEMENTS and found[name].dtype.kind in "fiub"
    }
    return Trace(case.name, nodes, dict(sorted(small.items())))


def _unfitness(case: Case) -> tuple[bool, bool, bool, int]:
    """One call of a few steps and a few rows, from a state: there, what is crossed shows."""
    steps = sum(case.chunks)
    several = all(size > 1 for size in case.sizes.values())
    return len(case.chunks) > 1, not several or steps < 3, not case.initial, steps


def _is_truth(vectors: Vectors, case: Case, found: Values) -> bool:
    specs = results(vectors.contract)
    answers = {spec.name: [found[spec.name].astype(spec.dtype)] for spec in specs}
    return all(m.passed for m in compare(vectors.contract, vectors, case, answers, Floor()))

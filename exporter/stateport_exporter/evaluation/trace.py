# SPDX-License-Identifier: Apache-2.0
"""What every node of a file gives, recorded when it is written, so that a fault can be located."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
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

#: Larger values are left out, and larger files have no trace: it would take long to write, and make
#: the vectors large.
_MOST_ELEMENTS: Final = 1 << 16
_MOST_BYTES: Final = 256 << 20


def first_call(path: Path, contract: Contract, case: Case) -> Values:
    """All inputs of a case's first call, the state among them."""
    inputs = next(call_inputs(contract, case))
    sizes = {**case.sizes, "time": case.chunks[0]}
    state = case.initial or initial_state(contract, read(path).initial, sizes)
    return {**inputs, **state}


def trace(path: Path, vectors: Vectors) -> Trace | None:
    """The values of a file's nodes, on one of its cases, in float64.

    None if onnx's reference cannot run the file, or its results are not PyTorch's.
    """
    case = min(vectors.cases, key=_unfitness)
    if len(case.chunks) > 1 or path.stat().st_size > _MOST_BYTES:
        return None
    try:
        model = onnx.load(path)
        evaluated = values(model, first_call(path, vectors.contract, case))
    except Exception:  # an operator that onnx's reference lacks, or fails on
        return None
    if not _is_truth(vectors, case, evaluated):
        return None

    nodes = {}
    for node in model.graph.node:
        if node.name:
            nodes[node.name] = tuple(node.output)

    return Trace(case.name, nodes, _small_outputs(nodes, evaluated))


def _small_outputs(nodes: Mapping[str, tuple[str, ...]], evaluated: Values) -> Values:
    """The nodes' outputs that are numbers and not too large, sorted by name."""
    names = set(itertools.chain.from_iterable(nodes.values()))
    small = {}
    for name in sorted(names - {""}):
        array = evaluated[name]
        is_small = array.size <= _MOST_ELEMENTS
        is_number = array.dtype.kind in "fiub"
        if is_small and is_number:
            small[name] = np.array(array, order="C")
    return small


def _unfitness(case: Case) -> tuple[bool, bool, bool, int]:
    """A sort key: best is one call of a few steps and a few rows, from a state other than zeros.

    Such a case shows axes and steps that are mixed up.
    """
    steps = sum(case.chunks)
    has_single_row = any(size <= 1 for size in case.sizes.values())
    return len(case.chunks) > 1, has_single_row or steps < 3, not case.initial, steps


def _is_truth(vectors: Vectors, case: Case, evaluated: Values) -> bool:
    answers = {}
    for spec in results(vectors.contract):
        answers[spec.name] = [evaluated[spec.name].astype(spec.dtype)]
    comparisons = compare(vectors.contract, vectors, case, answers, Floor())
    return all(comparison.passed for comparison in comparisons)

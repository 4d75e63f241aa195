# SPDX-License-Identifier: Apache-2.0
"""Writing the file: in the precision asked for, verified, for sizes at which it is right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx_ir as ir

from stateport import Contract
from stateport.contract import CONTRACT_KEY, PRECISION_KEY, takes_lengths
from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import Vectors

from ..capture.capture import Captured
from ..errors import CheckError
from ..evaluation.trace import trace
from ..graph.verified_file import write_verified
from ..sizes.beyond import Beyond
from ..states.naming import write_metadata
from ..variants.float16 import float16_contract, port_names, to_float16
from ..variants.native_operators import native_operators
from .narrowing import differences, narrowed_contract, narrowed_vectors

#: The most lines of the author's code that one message names.
_MOST_LINES: Final = 4


@dataclass(frozen=True)
class Form:
    """How a file is to be, as the arguments of `export`; `notes` are what it says of its origin."""

    path: Path
    dtype: str
    keep_float32: Collection[str]
    operators: str
    notes: Mapping[str, object]
    check: bool


@dataclass(frozen=True)
class WrittenFile:
    """What became of a file: its report, its contract, and notes."""

    report: EngineReport | None
    contract: Contract
    notes: tuple[str, ...] = ()


def write_file(
    captured: Captured,
    contract: Contract,
    vectors: Vectors,
    beyond: Beyond,
    form: Form,
    progress: Callable[[str], None],
) -> WrittenFile:
    """Writes a finished graph, which is changed, and its vectors.

    Raises:
        CheckError: the file does not give PyTorch's answers.
    """
    model = captured.model
    if form.operators == "native":
        progress("native operators")
        native_operators(model)
    if form.dtype == "float16":
        contract = _lower_precision(model, contract, form.keep_float32)
    write_metadata(model, contract, form.notes)
    if form.dtype != "float32":
        model.metadata_props[PRECISION_KEY] = form.dtype

    # A graph that PyTorch narrowed may hold for fewer sizes than its contract says.
    must_check = form.check or captured.narrowed is not None
    write = functools.partial(
        _write, captured, path=form.path, beyond=beyond, check=must_check, progress=progress
    )
    return _write_where_right(write, captured, contract, vectors)


def _lower_precision(
    model: ir.Model, contract: Contract, keep_float32: Collection[str]
) -> Contract:
    """Turns a model into float16, in place; its contract then."""
    ports = port_names(contract, keep_float32)
    to_float16(model, ports)
    return float16_contract(contract, ports)


def _write_where_right(
    write: Callable[[Vectors], EngineReport | None],
    captured: Captured,
    contract: Contract,
    vectors: Vectors,
) -> WrittenFile:
    """Writes a file; if it is wrong, then for those sizes alone that its graph was made for.

    Args:
        write: writes the captured graph and these vectors, and verifies them.
        captured: the graph.
        contract: its contract.
        vectors: its vectors.

    Raises:
        CheckError: the file does not give PyTorch's answers at those either.
    """
    try:
        return WrittenFile(write(vectors), contract)
    except CheckError:
        narrowed = narrowed_contract(contract, captured.ranges)
        fewer = None if narrowed is None else narrowed_vectors(vectors, narrowed)
        if narrowed is None or fewer is None:
            raise

    captured.model.metadata_props[CONTRACT_KEY] = narrowed.to_json()
    return WrittenFile(write(fewer), narrowed, (differences(narrowed, contract),))


def _write(
    captured: Captured,
    vectors: Vectors,
    path: Path,
    beyond: Beyond,
    *,
    check: bool,
    progress: Callable[[str], None],
) -> EngineReport | None:
    """Writes model, weights and vectors, verifies them, and lets them appear together."""

    def with_trace(file: Path) -> Vectors:
        progress("recording the values of every node")
        return replace(vectors, trace=trace(file, vectors))

    return write_verified(
        captured.model,
        path,
        with_trace,
        check=check,
        fault="The exported file does not give PyTorch's answers",
        advice=_advice(captured, vectors.contract, beyond),
        progress=progress,
    )


def _advice(captured: Captured, contract: Contract, beyond: Beyond) -> str:
    """What to do about a file that does not give PyTorch's answers."""
    sentences = []
    if beyond.lines:
        lines = "; at ".join(beyond.lines[:_MOST_LINES])
        sentences.append(f"Its sizes decide what it does: at {lines}.")

    if takes_lengths(contract):
        sentences.append(
            "Of a packed sequence, forward may compute with each step's data by itself, and must "
            "keep sorted_indices and unsorted_indices where it makes another of them. If it does, "
            "please report this network."
        )
    else:
        sentences.append(captured.narrowed or "Please report this network.")

    if captured.narrowed is None:
        sentences.append("To write the file anyway, pass check=False.")
    return " ".join(sentences)

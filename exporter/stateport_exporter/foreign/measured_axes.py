# SPDX-License-Identifier: Apache-2.0
"""Which axes of a graph's inputs are the batch and time of its recurrent operators, by running it.

Shape inference loses names on the way to an operator, as through a padding; and each input may have
a name of its own for the batch. The graph is run with one size for each name. The sizes of an
operator's sequence then say which names are its axes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stateport.engines import Engine, open_engine
from stateport.engines.base import answers
from stateport.errors import StateportError
from stateport.model_file.onnx_outline import read

from ..graph.dataflow import dims_of
from ..graph.serialization import write
from .recurrent_operators import is_recurrent

#: The sizes of the axes in two runs. They differ within a run and between the runs.
_RUNS: Final = ((64, 96, 40, 56), (128, 192, 80, 112))
#: The most elements of one input: a graph is not run on larger ones.
_MOST_ELEMENTS: Final = 1 << 24
MEANINGS: Final = ("time", "batch")

#: Names of axes that have one size.
_Group = tuple[str, ...]
#: The sizes of each operator's sequence along time and the batch.
_Sizes = list[tuple[int, int]]


def measured_meanings(model: ir.Model, names: Sequence[str]) -> dict[str, str]:
    """The meanings of axes by their names: {"x_b": "batch", "e_b": "batch", "t": "time"}.

    Names without a meaning that have to be of one size get the first of these names. The result is
    empty where the graph cannot be run, or may be run in several ways.

    Args:
        model: the graph. Axes of its inputs have sizes or names.
        names: these names.
    """
    if not 0 < len(names) <= len(_RUNS[0]):
        return {}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        ports = _write_probe(model, path)
        if not ports:
            return {}

        try:
            engine = open_engine("ort-cpu", read(path), None, {})
        except StateportError:  # what runs the source itself says why
            return {}

        fitting: list[tuple[list[_Group], list[_Sizes]]] = []
        for groups in sorted(_partitions(names), key=len, reverse=True):
            if fitting and len(groups) < len(fitting[0][0]):
                break
            runs = _run_probe(model, engine, ports, groups)
            if runs is not None:
                fitting.append((groups, runs))

    if len(fitting) != 1:
        return {}
    groups, runs = fitting[0]
    return _meanings(groups, runs)


def _write_probe(model: ir.Model, path: Path) -> list[str]:
    """Writes a file that gives the shapes of the operators' sequences too; returns their names.

    The model itself stays as it is. It is not copied, because it may be large.
    """
    graph = model.graph
    probes: list[ir.Node] = []
    for node in list(graph):
        if is_recurrent(node):
            probe = ir.node("Shape", [node.inputs[0]])
            probe.outputs[0].name = f"stateport.probe.{len(probes)}"
            probe.outputs[0].type = ir.TensorType(ir.DataType.INT64)
            probes.append(probe)
    if not probes:
        return []

    graph.extend(probes)
    graph.outputs.extend(probe.outputs[0] for probe in probes)
    write(model, path)

    del graph.outputs[-len(probes) :]
    graph.remove(probes, safe=True)
    return [str(probe.outputs[0].name) for probe in probes]


def _partitions(names: Sequence[str]) -> Iterator[list[_Group]]:
    """All ways to put names into groups."""
    if not names:
        yield []
        return

    first, *rest = names
    for groups in _partitions(rest):
        yield [(first,), *groups]
        for number, group in enumerate(groups):
            yield [*groups[:number], (first, *group), *groups[number + 1 :]]


def _run_probe(
    model: ir.Model, engine: Engine, ports: Sequence[str], groups: Sequence[_Group]
) -> list[_Sizes] | None:
    """The sizes of all sequences in both runs; None where the graph does not run."""
    outputs = [str(value.name) for value in model.graph.outputs]
    runs = []
    for sizes_of_groups in _RUNS:
        sizes = {}
        for group, size in zip(groups, sizes_of_groups, strict=False):
            sizes.update(dict.fromkeys(group, size))
        inputs = _inputs(model, sizes)
        if inputs is None:
            return None

        try:
            # All outputs are asked for: what follows the operators has to run as well.
            arrays = answers(engine, inputs, [*outputs, *ports])
        except StateportError:
            return None
        runs.append([(int(arrays[port][0]), int(arrays[port][1])) for port in ports])
    return runs


def _inputs(model: ir.Model, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]] | None:
    """Arrays of ones for all inputs, which is a valid number of a row or of steps as well.

    None where one of them would be too large.
    """
    arrays = {}
    for value in model.graph.inputs:
        dims = []
        for dim in dims_of(value):
            dims.append(dim if isinstance(dim, int) else sizes[str(dim.value)])
        if math.prod(dims) > _MOST_ELEMENTS:
            return None
        dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype
        arrays[str(value.name)] = np.ones(dims, dtype.numpy())
    return arrays


def _meanings(groups: Sequence[_Group], runs: Sequence[_Sizes]) -> dict[str, str]:
    """The meanings of the groups' names; the first operator that has one counts."""
    measured = {}
    for group, sizes in zip(groups, zip(*_RUNS, strict=True), strict=False):
        measured[sizes] = group

    found: dict[str, _Group] = {}
    for in_runs in zip(*runs, strict=True):
        for meaning, sizes in zip(MEANINGS, zip(*in_runs, strict=True), strict=True):
            if sizes in measured and measured[sizes] not in found.values():
                found.setdefault(meaning, measured[sizes])

    meanings = {name: group[0] for group in groups if len(group) > 1 for name in group}
    for meaning, group in found.items():
        meanings.update(dict.fromkeys(group, meaning))
    return meanings

# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs in dtypes that NumPy lacks, bfloat16 and float8, become float32.

Every value of these dtypes is a value of float32, so an output or a state loses nothing. A value of
an input is rounded inside of the file, where the caller would have had to round it before.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from stateport.contract import ArraySpec
from stateport.model_file.foreign.kinds import WITHIN_FLOAT32
from stateport.model_file.onnx_outline import OnnxFile

from .names import free_name


def wide_outline(file: OnnxFile) -> OnnxFile:
    """The outline of the file that `widen_ports` makes of a file."""
    return replace(
        file,
        inputs=tuple(map(_widened, file.inputs)),
        outputs=tuple(map(_widened, file.outputs)),
    )


def _widened(spec: ArraySpec) -> ArraySpec:
    return replace(spec, dtype="float32") if spec.dtype in WITHIN_FLOAT32 else spec


def widen_ports(model: ir.Model) -> tuple[str, ...]:
    """Puts a `Cast` behind each such input and in front of each such output, in place.

    Returns:
        A note on each: "x is bfloat16 in the source and float32 here".
    """
    graph = model.graph
    notes = []
    for value in [*graph.inputs, *graph.outputs]:
        if value.dtype is None or value.dtype.name.lower() not in WITHIN_FLOAT32:
            continue

        notes.append(f"{value.name} is {value.dtype.name.lower()} in the source and float32 here")
        if value.is_graph_input():
            _widen_input(graph, value)
        else:
            _widen_output(graph, value)
    return tuple(notes)


def _widen_input(graph: ir.Graph, value: ir.Value) -> None:
    """Lets the graph read a narrow copy of an input, which becomes float32."""
    narrow = ir.node("Cast", [value], {"to": value.dtype})
    copy = narrow.outputs[0]
    copy.name = free_name(graph, f"{value.name}_narrow")
    copy.type, copy.shape = value.type, value.shape
    value.replace_all_uses_with(copy, replace_graph_outputs=True)

    narrow.replace_input_with(0, value)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    if len(graph):
        graph.insert_before(graph[0], narrow)
    else:
        graph.append(narrow)


def _widen_output(graph: ir.Graph, value: ir.Value) -> None:
    """Lets a wide copy of an output take its place, and its name."""
    wide = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
    copy = wide.outputs[0]
    copy.type, copy.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    graph.append(wide)

    for position, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[position] = copy
    name = value.name
    value.name = free_name(graph, f"{name}_narrow")
    copy.name = name

"""Which axis of a graph's inputs is the batch and which is time, found by following sizes."""

from __future__ import annotations

import re

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .states import FIRSTS


def find_axes(model: ir.Model) -> dict[str, str]:
    """What the names of axes mean: {"s27": "time", "x axis 0": "batch"}.

    An axis without a name gets one. Then sizes are followed to the recurrent operators, which say
    what theirs are. Shapes in between are made anew.
    """
    for value in model.graph.inputs:
        _name_axes(value)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    ShapeInferencePass()(model)
    meanings: dict[str, str] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type not in FIRSTS or node.domain not in ("", "ai.onnx"):
            continue
        x, layout = node.inputs[0], node.attributes.get("layout")
        if x is None or x.shape is None or len(x.shape) != 3:
            continue
        batch_first = layout is not None and layout.as_int() == 1
        names = ("batch", "time") if batch_first else ("time", "batch")
        for dim, name in zip(x.shape, names, strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                meanings.setdefault(str(dim.value), name)
    given = {
        str(dim.value)
        for value in model.graph.inputs
        for dim in value.shape or ()
        if isinstance(dim, ir.SymbolicDim)
    }
    meanings = {axis: name for axis, name in meanings.items() if axis in given}
    _rename(model, meanings)
    return {name: name for name in meanings.values()}


def _rename(model: ir.Model, meanings: dict[str, str]) -> None:
    """Calls axes what they are, also in those that are computed from them."""
    if not meanings:
        return
    names = "|".join(re.escape(name) for name in sorted(meanings, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)({names})(?!\w)")
    made = (v for node in ir.traversal.RecursiveGraphIterator(model.graph) for v in node.outputs)
    for value in (*model.graph.inputs, *made):
        if value.shape is not None:
            value.shape = ir.Shape(
                dim
                if isinstance(dim, int) or dim.value is None
                else pattern.sub(lambda match: meanings[match[1]], str(dim.value))
                for dim in value.shape
            )


def _name_axes(value: ir.Value) -> None:
    if value.shape is None:
        return
    dims: list[int | str] = []
    for place, dim in enumerate(value.shape):
        size = dim if isinstance(dim, int) else dim.value
        known = size not in (None, "", "?", 0) and not (isinstance(size, int) and size < 0)
        dims.append(size if known and size is not None else f"{value.name} axis {place}")
    value.shape = ir.Shape(dims)

"""Cutting calls off, as a signal's handler does: between any two lines, or instructions, of Python.

Also a network with two states whose mixture is recognised as torn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import stateport
from stateport import ArraySpec, Contract, StateSpec
from stateport.contract import CONTRACT_KEY

Array = NDArray[np.float32]

_FOLDERS = tuple(str(Path(str(module.__file__)).parent) for module in (stateport, onnxruntime))

#: The sums of a chunk are added to h, and twice to c; y = x + hn. All are whole numbers, so that
#: nothing is rounded.
SUMS = Contract(
    inputs=(ArraySpec("x", "float32", ("batch", "time", 2)),),
    outputs=(ArraySpec("y", "float32", ("batch", "time", 2)),),
    states=(
        StateSpec("h0", "hn", "float32", (1, "batch", 2)),
        StateSpec("c0", "cn", "float32", ("batch", 2)),
    ),
)


def write_sums(path: Path, contract: Contract = SUMS) -> Path:
    """Writes the network of `SUMS`, under a contract that may name its axes in another way."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "one"], ["s"], keepdims=0),
        helper.make_node("Unsqueeze", ["s", "zero"], ["s1"]),
        helper.make_node("Add", ["h0", "s1"], ["hn"]),
        helper.make_node("Add", ["s", "s"], ["s2"]),
        helper.make_node("Add", ["c0", "s2"], ["cn"]),
        helper.make_node("Squeeze", ["hn", "zero"], ["h"]),
        helper.make_node("Unsqueeze", ["h", "one"], ["h1"]),
        helper.make_node("Add", ["x", "h1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [_value(spec) for spec in (*SUMS.inputs, *SUMS.state_inputs)],
        [_value(spec) for spec in (*SUMS.outputs, *SUMS.state_outputs)],
        [numpy_helper.from_array(np.array([n]), name) for n, name in ((0, "zero"), (1, "one"))],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    onnx.save(model, path)
    return path


def total(state: stateport.State) -> Array:
    """What the chunks of each sequence sum up to; the two states have to agree on it."""
    h: Array = state["h0"][0]
    assert np.array_equal(state["c0"], 2 * h), "h and c are of different steps"
    return h


def cut(call: Callable[[], Any], at: int, *, instructions: bool) -> bool:
    """Runs a call and raises KeyboardInterrupt before its line, or instruction, number `at`.

    Lines and instructions of stateport and ONNX Runtime count. Returns whether that number was
    reached.
    """
    trace = _Trace(at, instructions)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def length(call: Callable[[], Any], *, instructions: bool) -> int:
    """How many lines, or instructions, of a call `cut` could cut off."""
    trace = _Trace(sys.maxsize, instructions)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return trace.number


class _Trace:
    def __init__(self, at: int, instructions: bool) -> None:
        self.number = 0
        self._at = at
        self._instructions = instructions

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(_FOLDERS):
            return None
        frame.f_trace_opcodes = self._instructions
        frame.f_trace_lines = not self._instructions
        if event == ("opcode" if self._instructions else "line"):
            self.number += 1
            if self.number > self._at:
                raise KeyboardInterrupt  # and Python traces no more
        return self


def _value(spec: ArraySpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, spec.shape)

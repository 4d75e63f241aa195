"""ONNX files as other exporters write them, in raw protocol buffers, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import stateport
from stateport import Model, State

Array = NDArray[Any]
SIZE, HIDDEN = 3, 4
GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


def array(*shape: int, seed: int = 1, dtype: str = "float32") -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def constant(name: str, values: Any, dtype: str = "float32") -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def port(name: str, shape: Sequence[Any] | None, dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def weights(kind: str, directions: int = 1, dtype: str = "float32") -> list[TensorProto]:
    """W, R and B of one operator."""
    rows = GATES[kind] * HIDDEN
    return [
        constant("W", 0.4 * array(directions, rows, SIZE, seed=2), dtype),
        constant("R", 0.4 * array(directions, rows, HIDDEN, seed=3), dtype),
        constant("B", 0.4 * array(directions, 2 * rows, seed=4), dtype),
    ]


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    initializers: Sequence[TensorProto],
    *,
    opset: int = 17,
    ir_version: int = 8,
    **more: Any,
) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    onnx.save(model, path, **more)
    return path


def answers(path: Path, **inputs: Array) -> dict[str, Array]:
    """What ONNX Runtime gives for a file as it is."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def stepped(path: Path, chunks: Sequence[dict[str, Array]]) -> list[dict[str, Array]]:
    """The outputs of a lifted file for chunks; the caller's own loop carries the state."""
    model: Model = stateport.load(path)
    state: State | None = None
    outputs = []
    for chunk in chunks:
        output, state = model.run(chunk, state)
        outputs.append(output)
    return outputs


def in_chunks(path: Path, x: Array, name: str = "y", axis: int = 0) -> Array:
    """One output of a lifted file, whose only input is fed in chunks of 2, 1 and the rest."""
    (spec,) = stateport.load(path).contract.inputs
    chunks = [{spec.name: part} for part in np.split(x, [2, 3], axis)]
    return np.concatenate([output[name] for output in stepped(path, chunks)], axis)

"""The recurrent operators in NumPy, against ONNX Runtime's, with everything that they can have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from stateport_exporter.evaluation.float64 import values

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
STEPS, BATCH, INPUTS, HIDDEN = 6, 3, 4, 5


def built(
    kind: str, *, lengths: bool = False, peepholes: bool = False, bare: bool = False, **more: Any
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one operator, all of whose operands are inputs; and what to feed it."""
    random = np.random.default_rng(0)
    ways = 2 if more.get("direction") == "bidirectional" else 1
    rows = GATES[kind] * HIDDEN
    shapes: dict[str, tuple[int, ...]] = {
        "x": (STEPS, BATCH, INPUTS),
        "w": (ways, rows, INPUTS),
        "r": (ways, rows, HIDDEN),
    }
    if not bare:
        shapes["b"] = (ways, 2 * rows)
        shapes |= dict.fromkeys(("h", "c")[: STATES[kind]], (ways, BATCH, HIDDEN))
    if peepholes:
        shapes["p"] = (ways, 3 * HIDDEN)
    feed = {n: random.normal(0, 0.5, s).astype(np.float32) for n, s in shapes.items()}
    if lengths:
        feed["lengths"] = np.array([6, 2, 4], np.int32)
    names = ["x", "w", "r", "b", "lengths", "h", "c", "p"][: 8 if kind == "LSTM" else 6]
    operands = [name if name in feed else "" for name in names]
    outputs = ["y", "hn", "cn"][: 1 + STATES[kind]]
    node = helper.make_node(kind, operands, outputs, kind, hidden_size=HIDDEN, **more)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feed.items()
    ]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph([node], "one", inputs, results)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return model, feed


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"bare": True},
        {"direction": "reverse"},
        {"direction": "bidirectional"},
        {"lengths": True},
        {"lengths": True, "direction": "bidirectional"},
        {"lengths": True, "direction": "reverse"},
        {"clip": 0.4},
    ],
    ids=str,
)
def test_it_is_what_onnx_runtime_computes(kind: str, more: dict[str, Any]) -> None:
    check(*built(kind, **more))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("LSTM", {"peepholes": True}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}),
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Softsign"]}),
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 1, "lengths": True, "direction": "bidirectional"}),
        ("GRU", {"activations": ["Sigmoid", "Softplus"]}),
        ("RNN", {"activations": ["Relu"]}),
        ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
        ("RNN", {"activations": ["Elu"], "activation_alpha": [0.7]}),
        ("RNN", {"activations": ["Relu", "Tanh"], "direction": "bidirectional"}),
    ],
    ids=str,
)
def test_its_attributes_are_too(kind: str, more: dict[str, Any]) -> None:
    check(*built(kind, **more))


def check(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    names = [value.name for value in model.graph.output]
    session = ort.InferenceSession(model.SerializeToString())
    expected = session.run(names, feed)
    found = values(model, feed)
    for name, array in zip(names, expected, strict=True):
        assert found[name].dtype == np.float64
        np.testing.assert_allclose(found[name], array, rtol=2e-6, atol=2e-6)

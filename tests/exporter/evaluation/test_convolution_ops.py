"""The operators of convolutional networks, against ONNX Runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from stateport_exporter.evaluation.float64 import values

Array = NDArray[Any]


def in_dims(dims: int, more: dict[str, Any]) -> dict[str, Any]:
    """Attributes that are the same along each of the axes."""
    attributes = dict(more)
    for name in ("strides", "dilations"):
        if name in more:
            attributes[name] = more[name] * dims
    if "pads" in more:
        before, after = more["pads"]
        attributes["pads"] = [before] * dims + [after] * dims
    return attributes


def run(node: onnx.NodeProto, feed: dict[str, Array], opset: int = 20) -> tuple[Array, Array]:
    """What a model of one operator gives: in float64 by us, and by ONNX Runtime."""
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feed.items()
    ]
    output = helper.make_tensor_value_info("y", inputs[0].type.tensor_type.elem_type, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feed)
    return values(model, feed)["y"], expected


@pytest.mark.parametrize("sizes", [(11,), (9, 12), (5, 6, 7)])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"bias": False},
        {"group": 2},
        {"pads": (1, 2)},
        {"auto_pad": "VALID"},
        {"auto_pad": "SAME_UPPER", "strides": (2,)},
        {"auto_pad": "SAME_LOWER", "strides": (3,)},
        {"strides": (2,), "dilations": (2,), "pads": (2, 0)},
    ],
    ids=str,
)
def test_conv(sizes: tuple[int, ...], more: dict[str, Any]) -> None:
    attributes = in_dims(len(sizes), more)
    random = np.random.default_rng(0)
    kernel = (2, 3, 2)[: len(sizes)]
    shapes = {"x": (2, 4, *sizes), "w": (6, 4 // more.get("group", 1), *kernel), "b": (6,)}
    if attributes.pop("bias", True) is False:
        del shapes["b"]
    feed = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    y, expected = run(helper.make_node("Conv", list(shapes), ["y"], **attributes), feed)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sizes", [(11,), (9, 12), (5, 6, 7)])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pads": (1, 0)},
        {"auto_pad": "SAME_UPPER", "strides": (2,)},
        {"strides": (2,), "ceil_mode": 1},
        {"strides": (2,), "dilations": (2,)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_max_pool(sizes: tuple[int, ...], more: dict[str, Any], dtype: str) -> None:
    x = 20 * np.random.default_rng(0).standard_normal((2, 4, *sizes))
    attributes = {**in_dims(len(sizes), more), "kernel_shape": (2, 2, 2)[: len(sizes)]}
    node = helper.make_node("MaxPool", ["x"], ["y"], **attributes)
    y, expected = run(node, {"x": x.astype(dtype)})
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("opset", [9, 13, 14, 20])
def test_batch_normalization_does_not_train(opset: int) -> None:
    random = np.random.default_rng(0)
    feed = {"x": random.standard_normal((2, 3, 5), np.float32)}
    for name in ("scale", "bias", "mean", "variance"):
        feed[name] = 0.5 + random.random(3, np.float32)
    node = helper.make_node("BatchNormalization", list(feed), ["y"], epsilon=0.001)
    y, expected = run(node, feed, opset)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)

"""Conv by PyTorch, against ONNX Runtime's, with everything that it can have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from stateport_exporter.evaluation.float64 import values


def built(
    sizes: tuple[int, ...], kernel: tuple[int, ...], *, bias: bool = True, **more: Any
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one Conv of 4 channels, and what to feed it."""
    random = np.random.default_rng(0)
    shapes = {"x": (2, 4, *sizes), "w": (6, 4 // more.get("group", 1), *kernel), "b": (6,)}
    if not bias:
        del shapes["b"]
    feed = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    node = helper.make_node("Conv", list(shapes), ["y"], "conv", **more)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets), feed


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
def test_it_gives_what_onnx_runtime_gives(sizes: tuple[int, ...], more: dict[str, Any]) -> None:
    dims = len(sizes)
    given = dict(more)
    for name in ("strides", "dilations"):
        if name in more:
            given[name] = more[name] * dims
    if "pads" in more:
        before, after = more["pads"]
        given["pads"] = [before] * dims + [after] * dims

    model, feed = built(sizes, (2, 3, 2)[:dims], **given)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feed)
    y = values(model, feed)["y"]
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)

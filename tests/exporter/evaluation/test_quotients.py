"""Sigmoid and tanh as engines compute them, beside the exact ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from stateport_exporter.evaluation.float64 import evaluation
from stateport_exporter.evaluation.quotients import sigmoid, tanh

Function = Callable[[NDArray[Any]], NDArray[Any]]
X = np.linspace(-700, 700, 7001)


@pytest.mark.parametrize(
    ("function", "exact", "last_place"),
    [(sigmoid, lambda x: 1 / (1 + np.exp(-x)), 2.0**-24), (tanh, np.tanh, 2.0**-23)],
    ids=["sigmoid", "tanh"],
)
def test_float32_is_a_few_units_off_and_float64_is_exact(
    function: Function, exact: Function, last_place: float
) -> None:
    np.testing.assert_allclose(function(X), exact(X), rtol=1e-12, atol=0)
    narrow = X.astype(np.float32)
    assert function(narrow).dtype == np.float32
    assert np.abs(function(narrow) - exact(narrow.astype(float))).max() < 8 * last_place


@pytest.mark.parametrize("operator", ["Sigmoid", "Tanh"])
def test_a_graph_is_evaluated_as_engines_do_in_float32_alone(operator: str) -> None:
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "one operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    x = np.array([-12, -8, 0, 3], np.float32)
    function = {"Sigmoid": sigmoid, "Tanh": tanh}[operator]

    np.testing.assert_array_equal(evaluation(model, double=False)({"x": x})["y"], function(x))
    in_float64 = evaluation(model, double=True)({"x": x})["y"]
    np.testing.assert_allclose(in_float64, function(x.astype(float)), rtol=1e-12)

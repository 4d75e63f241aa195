# SPDX-License-Identifier: Apache-2.0
"""Rows that see each other share no pool, and no call of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import stateport
from stateport import ArraySpec, AsyncPool, Contract, State, StateSpec, StreamingError
from stateport.serve.joint_calls import JointCalls

Build = Callable[..., Path]
ENGINES = ("ort-cpu", "openvino", "tract", "onnx-reference")
SPECS = {name: ArraySpec(name, "float32", ("batch", 4)) for name in ("x", "y")}
CONTRACT = Contract(
    inputs=(SPECS["x"],),
    outputs=(SPECS["y"],),
    states=(StateSpec("h0", "hn", "float32", ("batch", 4)),),
)


def summed(build: Build, *over_the_batch: onnx.NodeProto) -> Path:
    """hn = h0 + c, y = tanh(hn), where the nodes compute c from x."""
    zero = onnx.numpy_helper.from_array(np.array([0]), "zero")
    nodes = [
        *over_the_batch,
        helper.make_node("Add", ["h0", "c"], ["hn"]),
        helper.make_node("Tanh", ["hn"], ["y"]),
    ]
    return build(CONTRACT, nodes, initializers=[zero])


@pytest.fixture
def independent(build: Build) -> Path:
    return summed(build, helper.make_node("Sin", ["x"], ["c"]))


def mean(build: Build) -> Path:
    return summed(
        build,
        helper.make_node("ReduceMean", ["x", "zero"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["c"]),
    )


def softmax(build: Build) -> Path:
    return summed(build, helper.make_node("Softmax", ["x"], ["c"], axis=0))


@pytest.mark.parametrize("engine", ENGINES)
def test_independent_rows_share_a_pool(independent: Path, engine: str) -> None:
    pool = stateport.load(independent, engine=engine).pool(2)
    x = np.ones((2, 4), "f4")
    np.testing.assert_allclose(pool.step(pool.open(2), x), np.tanh(np.sin(x)), atol=1e-6)


def loudest(build: Build) -> Path:
    """x / max(largest |x|, 10): a loud row changes the others."""
    ten = helper.make_tensor("value", onnx.TensorProto.FLOAT, [], [10.0])
    return summed(
        build,
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size", "zero"], ["largest"], keepdims=1),
        helper.make_node("Constant", [], ["ten"], value=ten),
        helper.make_node("Max", ["largest", "ten"], ["divisor"]),
        helper.make_node("Div", ["x", "divisor"], ["c"]),
    )


@pytest.mark.parametrize("engine", ["ort-cpu", "onnx-reference"])
@pytest.mark.parametrize("mixing", [mean, softmax, loudest])
def test_rows_that_see_each_other_share_no_pool(
    build: Build, mixing: Callable[[Build], Path], engine: str
) -> None:
    model = stateport.load(mixing(build), engine=engine)
    for make in (lambda: model.pool(2), lambda: AsyncPool(model, 2)):
        with pytest.raises(StreamingError, match=r"rows of '\w+' depend on the other rows"):
            make()
    assert model.stream()(np.ones((1, 4), "f4")).shape == (1, 4)


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_calls_of_rows_that_see_each_other_are_not_joined(build: Build) -> None:
    model = stateport.load(mean(build))
    calls = JointCalls(model, 8, ThreadPoolExecutor(1), 1)
    xs = [np.array([[number] * 4, [3 * number] * 4], np.float32) for number in range(1, 4)]

    async def main() -> None:
        state = State({"h0": np.zeros((2, 4), "f4")})
        answers = await asyncio.gather(*[calls.run({"x": x}, state) for x in xs])
        for x, answer in zip(xs, answers, strict=True):
            assert answer.batch == 1
            close(answer.outputs["y"], np.tanh(x - np.mean(x, axis=0)))

    asyncio.run(main())

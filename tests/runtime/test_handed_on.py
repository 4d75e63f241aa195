"""Graphs that hand an input on as an output: bound calls copy it too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import stateport
from stateport import ArraySpec, Contract, State, StateSpec

Build = Callable[..., Path]
_PORT = ("float32", ("batch", 2))
node = helper.make_node


def contract(output: str, *states: tuple[str, str]) -> Contract:
    x, y = (ArraySpec(name, *_PORT) for name in ("x", output))
    return Contract((x,), (y,), tuple(StateSpec(i, o, *_PORT) for i, o in states))


GRAPHS = {
    "state": (
        contract("y", ("h0", "hn")),
        [node("Add", ["x", "h0"], ["y"]), node("Identity", ["h0"], ["hn"])],
    ),
    "states crossed": (
        contract("y", ("a0", "an"), ("b0", "bn")),
        [
            node("Add", ["x", "a0"], ["y"]),
            node("Identity", ["a0"], ["bn"]),
            node("Identity", ["b0"], ["an"]),
        ],
    ),
    "input as state": (
        contract("y", ("h0", "hn")),
        [node("Add", ["x", "h0"], ["y"]), node("Identity", ["x"], ["hn"])],
    ),
    "state as output": (
        contract("y", ("h0", "hn")),
        [node("Identity", ["h0"], ["y"]), node("Add", ["x", "h0"], ["hn"])],
    ),
}


@pytest.mark.parametrize("engine", ["ort-cpu", "openvino", "tract"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_what_is_handed_on_arrives(build: Build, graph: str, engine: str) -> None:
    path = build(*GRAPHS[graph])
    model, truth = (
        stateport.load(path, engine=engine),
        stateport.load(path, engine="onnx-reference"),
    )
    names = [spec.input for spec in model.contract.states]
    state = State({name: np.full((3, 2), 5 + i, "f4") for i, name in enumerate(names)})
    x = np.random.default_rng(0).integers(-9, 9, (3, 2)).astype("f4")

    stream, pool = model.stream(), model.pool(4)
    stream.restore(state)
    streams = pool.open(4)
    for row in range(3):
        pool[int(streams[row])].state = State({n: a[row : row + 1] for n, a in state.items()})

    for _ in range(3):
        y, after = truth(x, state)
        np.testing.assert_array_equal(model(x, state)[0], y)
        assert model(x, state)[1] == after
        np.testing.assert_array_equal(stream(x), y)
        np.testing.assert_array_equal(pool.step(streams[:3], x), y)
        assert stream.state == after
        assert pool[int(streams[1])].state == State({n: a[1:2] for n, a in after.items()})
        state, x = after, x + 1

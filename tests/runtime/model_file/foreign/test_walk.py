"""Walking through graphs that make no sense: nothing is raised, and nothing grows without bound."""

from __future__ import annotations

import random
from collections import ChainMap

import pytest

from stateport.model_file.foreign.dims import (
    MOST_DIMS,
    MOST_NUMBERS,
    Dim,
    Value,
    broadcast,
    reshaped,
    rest,
)
from stateport.model_file.foreign.nodes import Attribute, Graph, Node, Tensor
from stateport.model_file.foreign.streaming import _RULES
from stateport.model_file.foreign.walk import Walk

OPERATORS = [*_RULES, "Add", "Concat", "Unsqueeze", "Nonsense"]
NUMBERS = (-(2**62), -5, -2, -1, 0, 1, 2, 3, 4, 7, 64, 2**31, 2**62)
AXES: tuple[Dim, ...] = (None, "time", "~time", "batch", "batch*time", 0, 1, 2, 3, 2**62)
NAMES = (
    "axis", "axes", "perm", "keepdims", "to", "shape", "starts", "ends", "steps", "pads", "layout",
    "strides", "dilations", "kernel_shape", "hidden_size", "num_scan_inputs", "scan_input_axes",
    "scan_output_axes", "scan_input_directions", "start", "end", "transA", "value_int",
    "value_ints",
)  # fmt: skip


def number(r: random.Random) -> int:
    return r.choice(NUMBERS)


def numbers(r: random.Random) -> tuple[int, ...]:
    return tuple(number(r) for _ in range(r.randint(0, 4)))


def attributes(r: random.Random, depth: int) -> dict[str, Attribute]:
    made: dict[str, Attribute] = {}
    for _ in range(r.randint(0, 3)):
        made[r.choice(NAMES)] = number(r) if r.random() < 0.5 else numbers(r)
    if r.random() < 0.1:
        made["value"] = Tensor(numbers(r), r.choice([None, numbers(r)]))
    if r.random() < 0.1:
        made["direction"] = r.choice(["reverse", "bidirectional", "", "\udcff"])
    if depth < 3 and r.random() < 0.2:
        made["body"] = graph(r, depth + 1)
    return made


def graph(r: random.Random, depth: int = 0) -> Graph:
    names = [f"{depth}.{i}" for i in range(12)]
    made = Graph(inputs=names[:2], outputs=[r.choice(names) for _ in range(3)])
    for i in range(r.randint(0, 4)):
        made.constants[f"{depth}.{i}"] = Tensor(numbers(r), r.choice([None, numbers(r)]))
    for _ in range(r.randint(1, 8)):
        operands = tuple(r.choice([*names, "x", "h", ""]) for _ in range(r.randint(0, 5)))
        results = tuple(r.choice(names) for _ in range(r.randint(0, 3)))
        node = Node(r.choice(OPERATORS), "", operands, results, attributes(r, depth))
        made.nodes.append(node)
    return made


@pytest.mark.parametrize("seed", range(20))
def test_graphs_that_make_no_sense_raise_nothing(seed: int) -> None:
    r = random.Random(seed)  # noqa: S311
    for _ in range(200):
        scope = ChainMap(
            {
                "x": Value(tuple(r.choice(AXES) for _ in range(r.randint(0, 4))), 1),
                "h": Value(r.choice([None, (1, "batch", 3)]), 2),
            }
        )
        Walk(_RULES, r.choice([1, 9, 12, 13, 18, 26]), 1, 2, 4).graph(graph(r), scope)


def test_nothing_grows_without_bound() -> None:
    twice = [Node("Concat", "", ("s", "s"), ("s",), {"axis": 0})] * 50
    wider = [Node("Unsqueeze", "", ("x", "zero"), ("x",), {})] * 50
    joined = [
        Node("Mul", "", ("y", "z"), ("w",), {}),
        Node("Flatten", "", ("w",), ("y",), {"axis": 0}),
        Node("Unsqueeze", "", ("y", "end"), ("z",), {}),
    ] * 50
    made = Graph(twice + wider + joined, [], ["s", "x", "y"])
    made.constants = {"s": Tensor((2,), (1, 2)), "zero": Tensor((1,), (0,))}
    made.constants["end"] = Tensor((1,), (2,))
    values = ChainMap({name: Value(("time", "batch"), 1) for name in "xyz"})
    for value in Walk(_RULES, 20, 1, 2, 4).graph(made, values):
        assert value.dims is None or len(value.dims) <= MOST_DIMS
        assert value.content is None or len(value.content) <= MOST_NUMBERS
        assert all(len(str(dim)) < 100 for dim in value.dims or ())


def test_shapes_are_followed() -> None:
    assert broadcast([("time", 1, 4), ("batch", 4), ()]) == ("time", "batch", 4)
    assert broadcast([None, (3,)]) is None
    assert broadcast([None, ("time", 3)]) == ("time", 3)
    assert reshaped(("time", "batch", 4), (-1, 4)) == ("batch*time", 4)
    assert reshaped(("time", "batch", 4), (0, 0, 2, -1)) == ("time", "batch", 2, 2)
    assert reshaped(("time", None, 4), (-1, 4)) == ("~time", 4)
    assert reshaped(None, (-1, "time")) == (None, "time")
    assert rest(("batch", 6), (3,)) == "batch*2"
    assert rest((6, 4), (5,)) is None

"""Which arguments and results of a graph are one state: by flow and shape, names break ties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper
from torch import Tensor

from stateport_exporter import ExportError
from stateport_exporter.network.returned import named_results
from stateport_exporter.states.declared import positions_of
from stateport_exporter.states.names import are_one
from stateport_exporter.states.pairs import NAMED, SHAPED, SURE, Matches, Port, match
from stateport_exporter.states.possible import alike, possible_states
from tests.exporter.graphs import Builder

#: What forward returns: the name of each result, "" where it has none, and its value.
Results = list[tuple[str, str]]
ROW = ("batch", 5)
WINDOW = ("batch", 8, 5)


def ports(build: Callable[[Builder], Results]) -> tuple[list[Port], list[Port]]:
    """The arguments and results of a graph; the first input leads."""
    b = Builder()
    returned = build(b)
    shapes = {
        info.name: [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]
        for info in b.inputs
    }
    for number, (_, value) in enumerate(returned):
        like = value.partition(" like ")
        shape = shapes.get(like[2], ["batch", 2])
        b.output(like[0], f"result_{number}", shape)
    graph = helper.make_graph(b.nodes, "graph", b.inputs, b.outputs, b.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made = ir.serde.deserialize_model(model).graph
    arguments = [
        Port(i, (str(value.name),), value, leads=i == 0) for i, value in enumerate(made.inputs)
    ]
    results = [Port(i, (returned[i][0] or str(i),), value) for i, value in enumerate(made.outputs)]
    return arguments, results


def matched(
    build: Callable[[Builder], Results],
) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """By how sure they are: the arguments, and the numbers of their results from 1."""
    arguments, results = ports(build)
    matches = match(arguments, results, alone=len(results) == 1)
    named = {
        level: [(arguments[a].path[0], r + 1) for a, r in pairs]
        for level, pairs in matches.pairs.items()
        if pairs
    }
    return named, matches.unclear


def mixed(b: Builder, *values: str) -> str:
    """Something that is computed from all of these."""
    made = values[0]
    for value in values[1:]:
        made = str(b.op("Add", [made, value]))
    return str(b.op("Tanh", [made]))


def shifted(b: Builder, window: str, step: str) -> str:
    """A window that moves on by a step."""
    joined = b.op("Concat", [window, step], axis=1)
    return str(b.op("Slice", [joined, *(b.constant([n]) for n in (1, 9, 1))]))


def rows(b: Builder, *names: str) -> list[str]:
    return [b.input(name, ROW) for name in names]


def window_of_two(b: Builder) -> Results:
    x = b.input("x", ("batch", 1, 5))
    k, v = (b.input(name, WINDOW) for name in ("past_k", "past_v"))
    next_k, next_v = shifted(b, k, mixed(b, x)), shifted(b, v, mixed(b, x))
    return [
        ("", mixed(b, next_k, next_v)),
        ("", f"{next_v} like past_v"),
        ("", f"{next_k} like past_k"),
    ]


def window_without_a_name(b: Builder) -> Results:
    x, q = b.input("x", ("batch", 1, 5)), b.input("q", WINDOW)
    return [("", mixed(b, x)), ("", f"{shifted(b, q, x)} like q")]


def attention(b: Builder) -> Results:
    frame, weights, total = rows(b, "frame", "attention_weights", "attention_weights_sum")
    new = mixed(b, frame, weights, total)
    return [
        ("", frame),
        ("attention_weights", f"{new} like frame"),
        ("attention_weights_sum", f"{mixed(b, total, new)} like frame"),
    ]


def states_in_another_order(b: Builder) -> Results:
    x, h, c = rows(b, "x", "h", "c")
    new = mixed(b, x, h, c)
    return [("", x), ("c", f"{new} like x"), ("h", f"{mixed(b, new, h)} like x")]


def states_without_names(b: Builder) -> Results:
    x, h, c = rows(b, "x", "h", "c")
    new = mixed(b, x, h, c)
    return [
        ("", f"{mixed(b, new)} like x"),
        ("", f"{mixed(b, new, h)} like x"),
        ("", f"{mixed(b, new, c)} like x"),
    ]


def carry_in_front(b: Builder) -> Results:
    carry, x = b.input("carry", ("batch", 6)), b.input("x", ROW)
    new = mixed(b, carry)
    return [("carry", f"{new} like carry"), ("y", f"{mixed(b, x)} like x")]


def cell(b: Builder) -> Results:
    x, h = rows(b, "x", "h")
    return [("", f"{mixed(b, x, h)} like x")]


def step_of_before(b: Builder) -> Results:
    x, prev_x = rows(b, "x", "prev_x")
    return [("", f"{mixed(b, x, prev_x)} like x"), ("x", f"{x} like x")]


def written_into(b: Builder) -> Results:
    x, ring = b.input("x", ("batch", 1, 5)), b.input("ring", WINDOW)
    place = b.constant(np.zeros((1, 1, 1), np.int64))
    return [
        ("", mixed(b, x)),
        ("", f"{b.op('ScatterElements', [ring, place, x], axis=1)} like ring"),
    ]


FOUND: dict[str, tuple[Callable[[Builder], Results], dict[str, list[tuple[str, int]]]]] = {
    "windows, crossed": (window_of_two, {SURE: [("past_k", 3), ("past_v", 2)]}),
    "a window of any name": (window_without_a_name, {SURE: [("q", 2)]}),
    "a buffer that is written into": (written_into, {SURE: [("ring", 2)]}),
    "attention": (attention, {SURE: [("attention_weights", 2), ("attention_weights_sum", 3)]}),
    "in another order": (states_in_another_order, {SURE: [("h", 3), ("c", 2)]}),
    "in order": (states_without_names, {NAMED: [("h", 2), ("c", 3)]}),
    "in front": (carry_in_front, {SURE: [("carry", 1)]}),
    "a cell": (cell, {NAMED: [("h", 1)]}),
    "the step before": (step_of_before, {SURE: [("prev_x", 2)]}),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_state_is_told_by_flow_and_by_names(name: str) -> None:
    build, pairs = FOUND[name]
    assert matched(build) == (pairs, [])


def two_signals(b: Builder) -> Results:
    mic, far, h = rows(b, "mic", "far", "h")
    new = mixed(b, h, mic)
    return [
        ("", f"{mixed(b, mic, far)} like mic"),
        ("", f"{mixed(b, far)} like far"),
        ("h", f"{new} like h"),
    ]


def signals_of_the_same_names(b: Builder) -> Results:
    video, audio = rows(b, "video", "audio")
    return [
        ("video", f"{mixed(b, video)} like video"),
        ("audio", f"{mixed(b, audio, video)} like audio"),
    ]


def delays(b: Builder) -> Results:
    x, x1, x2 = rows(b, "x", "x1", "x2")
    return [("", f"{mixed(b, x, x1, x2)} like x"), ("", f"{x} like x"), ("", f"{x1} like x")]


def filtered(b: Builder) -> Results:
    x, z1, z2 = rows(b, "x", "z1", "z2")
    y = mixed(b, x, z1)
    return [
        ("", f"{y} like x"),
        ("", f"{mixed(b, y, z2)} like x"),
        ("", f"{mixed(b, x, y)} like x"),
    ]


def robot(b: Builder) -> Results:
    image, state = b.input("image", ("batch", 9)), b.input("state", ROW)
    return [("", f"{mixed(b, state)} like state"), ("value", image)]


def one_of_two(b: Builder) -> Results:
    x, h = rows(b, "x", "h")
    new = mixed(b, x, h)
    return [("", x), ("", f"{new} like h"), ("", f"{mixed(b, new)} like h")]


UNCLEAR: dict[str, tuple[Callable[[Builder], Results], str]] = {
    "two signals": (
        two_signals,
        "Whether the argument 'far' is a state is not clear: result 2 has",
    ),
    "one name for both": (
        signals_of_the_same_names,
        "the argument 'audio' is a state is not clear",
    ),
    "a line of delays": (delays, "'x1' is a state is not clear: result 2 has its shape"),
    "a filter": (filtered, "'z1', 'z2' look like states, .* is not clear: result 2, result 3"),
    "the first result": (robot, "'state' looks like a state, .* is not clear: result 1"),
    "two results": (one_of_two, "'h' looks like a state, .* is not clear: result 2, result 3"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_cannot_be_told_is_asked_with_the_candidates(name: str) -> None:
    build, says = UNCLEAR[name]
    _, unclear = matched(build)
    with pytest.raises(ExportError, match=says):
        raise ExportError(unclear[0])
    assert "states={'" in unclear[0]
    assert "--no-state" in unclear[0]


def test_what_is_doubtful_is_paired_for_trying() -> None:
    found, _ = matched(two_signals)
    assert found == {SURE: [("h", 3)], SHAPED: [("far", 2)]}


def skip(b: Builder) -> Results:
    x, other = rows(b, "x", "skip")
    return [("", f"{mixed(b, x, other)} like x")]


def total(b: Builder) -> Results:
    x, acc = rows(b, "x", "acc")
    return [("acc", f"{mixed(b, x, acc)} like x")]


def mask(b: Builder) -> Results:
    x, held = rows(b, "x", "mask")
    return [("", f"{mixed(b, x)} like x"), ("mask", f"{held} like mask")]


def condition(b: Builder) -> Results:
    x, h, c = b.input("x", ("batch", 9)), *rows(b, "h", "kind")
    return [("", f"{mixed(b, h, c)} like h"), ("h", f"{mixed(b, h)} like h"), ("", x)]


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (skip, [("skip", "1")]),
        (total, [("acc", "acc")]),
        (mask, [("mask", "mask")]),
        (condition, [("kind", "1")]),
    ],
)
def test_what_looks_like_a_pair_and_is_none_is_reported(
    build: Callable[[Builder], Results], left: list[tuple[str, str]]
) -> None:
    arguments, results = ports(build)
    matches: Matches = match(arguments, results, alone=len(results) == 1)
    assert matches.unclear == []
    taken = matches.of((SURE, NAMED))
    rest = [port for port in arguments if port.position not in dict(taken)]
    used = {result for _, result in taken}
    possible = possible_states(alike(rest, [r for r in results if r.position not in used]))
    assert [(pair.argument, pair.result) for pair in possible] == left
    assert possible[0].shape == ROW
    assert "have the same shape, float32[batch, 5], and were not taken" in str(possible[0])


@pytest.mark.parametrize(
    ("argument", "result", "one"),
    [
        ("past_k", "k", True), ("past_k", "new_k", True), ("past_k", "v", False),
        ("h0", "hn", True), ("h_0", "h_n", True), ("state", "stateN", True), ("h", "h2", True),
        ("h1", "h2", False), ("prev", "next", False), ("x_prev", "x", True),
        ("convCache", "conv_cache_out", True), ("inputs", "inputs", True), ("a", "1", False),
        ("state.0", "state.0", True), ("state.0", "state.1", False), ("state.h", "h", True),
        ("cache.0", "new_cache.0", True), ("hidden", "cell", False),
    ],
)  # fmt: skip
def test_names_that_say_that_two_are_one(argument: str, result: str, one: bool) -> None:
    assert are_one(tuple(argument.split(".")), tuple(result.split("."))) is one


class Forwards:
    """Ways to end a forward."""

    def plain(self, x: Tensor, h: Tensor) -> Any:
        y, h = x, h
        return y, h, -x

    def nested(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        state = (h, c)
        return x, state, (h, c)

    def either(self, x: Tensor, h: Tensor) -> Any:
        def inner() -> Any:
            return h, x

        if x is h:
            return x, h
        return inner, h

    def starred(self, *x: Tensor) -> Any:
        return (*x, x)

    def alone(self, x: Tensor) -> Any:
        return x

    def kept(self) -> Any:
        return self.name, {"a": 1}

    name = 0


@pytest.mark.parametrize(
    ("function", "paths", "names"),
    [
        (Forwards.plain, "0 1 2", "y h 2"),
        (Forwards().plain, "0 1 2", "y h 2"),
        (Forwards.nested, "0 1.0 1.1 2.0 2.1", "x state.0 state.1 h c"),
        (Forwards.either, "0 1", "0 h"),
        (Forwards.starred, "0 1", "0 1"),
        (Forwards.alone, "", "x"),
        (Forwards.kept, "0 1.a", "name 1.a"),
        (len, "0 1", "0 1"),
    ],
)
def test_results_are_called_by_the_variables_that_are_returned(
    function: Callable[..., Any], paths: str, names: str
) -> None:
    given = [tuple(path.split(".")) if path else () for path in paths.split(" ")]
    assert [".".join(path) for path in named_results(function, given)] == names.split(" ")


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (
            {"z": "h"},
            "The declared argument 'z' does not exist; the arguments are mic, far, h",
        ),
        (
            {"h": "z"},
            r"The declared result 'z' does not exist; .* are result 1, result 2, result 3 \(h\)",
        ),
        ({"h": 4}, "The declared result 4 does not exist"),
        ({"h": True}, "The declared result True"),
        ({"h": "9" * 5000}, "The declared result '9999"),
        ({"h": 3, "far": "h"}, r"Two states have result 3 \(h\) as their next value"),
        (
            {"wide": 1},
            r"'wide' and the result 1 cannot be one state: the argument is float32\[batch, 9\]",
        ),
    ],
)
def test_declarations_that_do_not_fit_are_refused(declared: Any, says: str) -> None:
    def build(b: Builder) -> Results:
        made = two_signals(b)
        b.input("wide", ("batch", 9))
        return made

    arguments, results = ports(build)
    graph = arguments[0].value.graph
    assert graph is not None
    with pytest.raises(ExportError, match=says):
        positions_of(declared, graph, [a.path for a in arguments], [r.path for r in results])


def test_declarations_are_taken_by_name_and_by_number() -> None:
    arguments, results = ports(two_signals)
    graph = arguments[0].value.graph
    assert graph is not None
    paths = [a.path for a in arguments], [r.path for r in results]
    assert positions_of({"far": 2, "h": "h", "mic": None}, graph, *paths) == {1: 1, 2: 2, 0: None}
    assert positions_of({"far": "2"}, graph, *paths) == {1: 1}

"""What recurrent operators, loops and branches make of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .dims import Dims, Value, grows, merged, time_of
from .nodes import Graph
from .walk import Call, Rule, like

#: Where each operator takes its first states.
_FIRSTS: Final = {
    "LSTM": (5, 6), "GRU": (5,), "RNN": (5,), "com.microsoft::DynamicQuantizeLSTM": (5, 6),
}  # fmt: skip
_ANEW: Final = "starts every call from a state that is made in the call itself"
_BACKWARDS: Final = "runs backwards: it needs the whole sequence"


def _recurrent(call: Call) -> Sequence[Value]:
    node, x = call.node, call.value(0)
    direction = node.text("direction", "forward").lower()
    layout = node.number("layout", 0)
    axis = 1 if layout else 0
    over_time = x.dims is not None and len(x.dims) == 3 and grows(x.dims[axis])
    if over_time or call.is_uncertain(x):
        if direction == "bidirectional":
            call.tie("is bidirectional: its backward half needs the whole sequence")
        elif direction == "reverse":
            call.tie(_BACKWARDS)
    if over_time:
        call.walk.findings.recurs = True
        if call.has(4):
            call.tie("is told the length of each row, which chunks of it have not")
        for place in _FIRSTS[node.operator]:
            if not call.is_state(call.value(place)):
                call.tie(_ANEW if not call.has(place) else _start(call, place))
    elif call.is_uncertain(x):
        call.doubt("may run over time")
    return _results(call, x.dims, 2 if direction == "bidirectional" else 1, layout)


def _start(call: Call, place: int) -> str:
    """Why a first state that is there is not carried."""
    if call.value(place).origins:
        return f"starts from {call.node.inputs[place]!r}, which depends on no state"
    return _ANEW


def _results(call: Call, x: Dims | None, directions: int, layout: int) -> Sequence[Value]:
    if x is None or len(x) != 3:
        return [like(call, None)] * 3
    hidden = call.node.attributes.get("hidden_size")
    size = hidden if isinstance(hidden, int) else None
    if layout:
        batch, time = x[0], x[1]
        return [
            like(call, (batch, time, directions, size)),
            *[like(call, (batch, directions, size))] * 2,
        ]
    time, batch = x[0], x[1]
    return [
        like(call, (time, directions, batch, size)),
        *[like(call, (directions, batch, size))] * 2,
    ]


def _branches(call: Call) -> Sequence[Value]:
    results: list[Value] | None = None
    for graph in call.node.graphs:
        made = call.walk.graph(graph, call.scope)
        if results is None or len(results) != len(made):
            results = made
            continue
        results = [
            Value(
                merged(a.dims, b.dims),
                a.origins | b.origins | call.origins,
                a.content if a.content == b.content else None,
            )
            for a, b in zip(results, made, strict=True)
        ]
    return results or ()


def _scan(call: Call) -> Sequence[Value]:
    node, body = call.node, _body(call)
    count = node.number("num_scan_inputs", 0)
    if body is None or call.walk.opset < 9 or not 0 < count <= len(call.values):
        return _opaque(call)
    states, sequences = call.values[:-count], call.values[-count:]
    axes = node.numbers("scan_input_axes") or (0,) * count
    over_time = False
    slices = []
    for sequence, axis in zip(sequences, axes, strict=False):
        dims = sequence.dims
        if dims and -len(dims) <= axis < len(dims):
            over_time = over_time or grows(dims[axis])
            place = axis % len(dims)
            dims = (*dims[:place], *dims[place + 1 :])
        elif call.is_fed(sequence):
            call.doubt("may run over time")
        slices.append(replace(like(call, dims), content=None))
    if 1 in node.numbers("scan_input_directions") + node.numbers("scan_output_directions") and (
        over_time or any(map(call.is_uncertain, sequences))
    ):
        call.tie(_BACKWARDS)
    _check_starts(call, states, over_time)
    made = _inside(call, body, [*(replace(v, content=None) for v in states), *slices])
    time = ("~time",) if over_time else (None,)
    axes = node.numbers("scan_output_axes") or (0,) * len(made)
    results = [like(call, value.dims) for value in made[: len(states)]]
    for value, axis in zip(made[len(states) :], axes, strict=False):
        dims = value.dims
        if dims is not None:
            place = axis % (len(dims) + 1)
            dims = (*dims[:place], *time, *dims[place:])
        results.append(like(call, dims))
    return results


def _check_starts(call: Call, states: Sequence[Value], over_time: bool) -> None:
    if over_time and states:
        call.walk.findings.recurs = True
        if not all(call.is_state(value) for value in states):
            call.tie(_ANEW)


def _loop(call: Call) -> Sequence[Value]:
    body = _body(call)
    if body is None:
        return _opaque(call)
    rounds = (call.value(0).content or (None,))[0]
    carried = [replace(value, content=None, context=False) for value in call.values[2:]]
    before = len(call.walk.findings.ties)
    made = _inside(call, body, [Value((), counter=True), Value(()), *carried])
    # How often it goes round may depend on time in a way that cannot be seen.
    if grows(rounds) or (rounds is None and any(map(call.is_fed, call.values))) or _sees_time(call):
        call.walk.findings.recurs = True
        if len(call.walk.findings.ties) == before:
            call.doubt("may run over time in any way")
    results = [like(call, merged(a.dims, b.dims)) for a, b in zip(made[1:], carried, strict=False)]
    first = "~time" if grows(rounds) or rounds is None else rounds
    for value in made[1 + len(carried) :]:
        results.append(like(call, None if value.dims is None else (first, *value.dims)))
    return results


def _sees_time(call: Call) -> bool:
    return any(time_of(value.dims) is not None for value in call.values)


def _inside(call: Call, body: Graph, values: Sequence[Value]) -> list[Value]:
    """What a body gives; all that it is fed, and sees around it, flows from round to round."""
    origins = call.origins
    fed = [replace(value, origins=value.origins | origins) for value in values]
    bound = dict(zip(body.inputs, fed, strict=False))
    return call.walk.graph(body, call.scope.new_child(bound))


def _body(call: Call) -> Graph | None:
    graphs = call.node.graphs
    return graphs[0] if len(graphs) == 1 else None


def _opaque(call: Call) -> Sequence[Value]:
    if any(call.is_fed(value) for value in call.values):
        call.doubt("may run over time in any way")
    return ()


RECURRING: Final[dict[str, Rule]] = {
    **dict.fromkeys(_FIRSTS, _recurrent),
    "If": _branches,
    "Scan": _scan,
    "Loop": _loop,
}

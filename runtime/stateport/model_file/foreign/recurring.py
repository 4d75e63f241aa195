# SPDX-License-Identifier: Apache-2.0
"""What recurrent operators, loops and branches do to time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from .dims import Dim, Dims, Value, grows, has_axis, merged, time_of, with_axis
from .nodes import Graph, Node
from .walk import Call, Rule, Start, like

#: The positions of each operator's initial states among its operands.
_INITIAL_STATES: Final = {
    "LSTM": (5, 6),
    "GRU": (5,),
    "RNN": (5,),
    "com.microsoft::DynamicQuantizeLSTM": (5, 6),
}
_ROW_LENGTHS: Final = 4
_NOT_CARRIED: Final = "starts every call from a state that is made in the call itself"
_BACKWARDS: Final = "runs backwards: it needs the whole sequence"
_UNKNOWN_LOOP: Final = "may run over time in any way"


def _recurrent(call: Call) -> Sequence[Value]:
    node = call.node
    x = call.value(0)
    direction = node.text("direction", "forward").lower()
    batch_first = node.number("layout", 0) != 0
    runs_over_time = _runs_over_time(x.dims, batch_first)

    if runs_over_time or call.is_uncertain(x):
        _check_direction(call, direction)
    lasts = [0, 0]
    if runs_over_time:
        call.walk.findings.recurs = True
        lasts = _check_operands(call)
    elif call.is_uncertain(x):
        call.doubt("may run over time")

    directions = 2 if direction == "bidirectional" else 1
    sequence, hidden, cell = _recurrent_results(call, x.dims, directions, batch_first)
    return [
        _depending_on(sequence, lasts[0]),  # its last step is the last hidden state
        _depending_on(hidden, lasts[0]),
        _depending_on(cell, lasts[-1]),
    ]


def _depending_on(value: Value, bit: int) -> Value:
    return replace(value, origins=value.origins | bit)


def _runs_over_time(dims: Dims | None, batch_first: bool) -> bool:
    """Whether the sequence of a recurrent operator, (time, batch, features), is time itself."""
    if dims is None or len(dims) != 3:
        return False
    return grows(dims[1 if batch_first else 0])


def _check_direction(call: Call, direction: str) -> None:
    if direction == "bidirectional":
        call.tie("is bidirectional: its backward half needs the whole sequence")
    elif direction == "reverse":
        call.tie(_BACKWARDS)


def _check_operands(call: Call) -> list[int]:
    """Notes row lengths and where the initial states come from; gives bits for the last states."""
    if call.has(_ROW_LENGTHS):
        call.tie("takes the length of each row, which is unknown for a chunk")

    lasts = []
    for position in _INITIAL_STATES[call.node.operator]:
        initial = call.value(position)
        last = call.walk.new_bit()
        lasts.append(last)
        if call.is_state(initial):
            start = Start(str(call.node), call.node.inputs[position], initial.origins, last)
            call.walk.findings.starts.append(start)
        else:
            call.tie(_why_not_carried(call, position))
    return lasts


def _why_not_carried(call: Call, position: int) -> str:
    """Why an initial state does not carry over from call to call."""
    if call.has(position) and call.value(position).origins:
        return f"starts from {call.node.inputs[position]!r}, which depends on no state"
    return _NOT_CARRIED


def _recurrent_results(
    call: Call, x: Dims | None, directions: int, batch_first: bool
) -> Sequence[Value]:
    """The sequence of all states, and the last states."""
    if x is None or len(x) != 3:
        return [like(call, None)] * 3

    attribute = call.node.attributes.get("hidden_size")
    hidden = attribute if isinstance(attribute, int) else None
    if batch_first:
        batch, time, _ = x
        sequence = like(call, (batch, time, directions, hidden))
        last = like(call, (batch, directions, hidden))
    else:
        time, batch, _ = x
        sequence = like(call, (time, directions, batch, hidden))
        last = like(call, (directions, batch, hidden))
    return [sequence, last, last]


def _if(call: Call) -> Sequence[Value]:
    results: list[Value] | None = None
    for branch in call.node.graphs:
        values = call.walk.graph(branch, call.scope)
        if results is None or len(results) != len(values):
            results = values
        else:
            pairs = zip(results, values, strict=True)
            results = [_merged_value(call, a, b) for a, b in pairs]
    return results or ()


def _merged_value(call: Call, a: Value, b: Value) -> Value:
    """What is known about the result of one of two branches."""
    content = a.content if a.content == b.content else None
    return Value(merged(a.dims, b.dims), a.origins | b.origins | call.origins, content)


def _scan(call: Call) -> Sequence[Value]:
    node = call.node
    body = _body(call)
    count = node.number("num_scan_inputs", 0)
    is_valid = 0 < count <= len(call.values)
    if body is None or not is_valid or call.walk.opset < 9:
        return _unknown_loop(call)

    states = call.values[:-count]
    sequences = call.values[-count:]
    axes = node.numbers("scan_input_axes") or (0,) * count
    scanned = list(zip(sequences, axes, strict=False))
    steps = [_scanned_step(call, sequence, axis) for sequence, axis in scanned]
    runs_over_time = any(_grows_along(sequence.dims, axis) for sequence, axis in scanned)

    if _scans_backwards(node):
        _check_backwards(call, sequences, runs_over_time)
    if runs_over_time:
        _check_scan_states(call, states)

    results = _body_results(call, body, [*states, *steps])
    length = "~time" if runs_over_time else None
    return _scan_results(call, results, len(states), length)


def _grows_along(dims: Dims | None, axis: int) -> bool:
    if dims is None or not has_axis(dims, axis):
        return False
    return grows(dims[axis])


def _scanned_step(call: Call, sequence: Value, axis: int) -> Value:
    """One step of a scanned sequence: the sequence without the axis that is scanned."""
    dims = sequence.dims
    if dims is not None and has_axis(dims, axis):
        dims = with_axis(dims, axis % len(dims))
    elif call.is_fed(sequence):
        call.doubt("may run over time")
    return like(call, dims)


def _scans_backwards(node: Node) -> bool:
    read = node.numbers("scan_input_directions")
    written = node.numbers("scan_output_directions")
    return 1 in read or 1 in written


def _check_backwards(call: Call, sequences: Sequence[Value], runs_over_time: bool) -> None:
    if runs_over_time or any(map(call.is_uncertain, sequences)):
        call.tie(_BACKWARDS)


def _check_scan_states(call: Call, states: Sequence[Value]) -> None:
    """Notes states of a scan over time that no state of the file gives."""
    if not states:
        return

    call.walk.findings.recurs = True
    if not all(map(call.is_state, states)):
        call.tie(_NOT_CARRIED)


def _scan_results(call: Call, results: Sequence[Value], states: int, length: Dim) -> list[Value]:
    """The last states, and the sequences that a scan stacks up from the steps of its body."""
    stacked = results[states:]
    axes = call.node.numbers("scan_output_axes") or (0,) * len(results)

    values = [_like_result(call, value, value.dims) for value in results[:states]]
    for value, axis in zip(stacked, axes, strict=False):
        values.append(_like_result(call, value, _stacked_dims(value.dims, axis, length)))
    return values


def _like_result(call: Call, result: Value, dims: Dims | None) -> Value:
    """A result of a loop, which depends on what it depends on in the body."""
    return _depending_on(like(call, dims), result.origins)


def _stacked_dims(dims: Dims | None, axis: int, length: Dim) -> Dims | None:
    """The dimensions of a sequence of steps, with the sequence along `axis`."""
    if dims is None:
        return None

    position = axis % (len(dims) + 1)
    return (*dims[:position], length, *dims[position:])


def _loop(call: Call) -> Sequence[Value]:
    body = _body(call)
    if body is None:
        return _unknown_loop(call)

    ties_before = len(call.walk.findings.ties)
    iteration = Value((), counter=True)
    condition = Value(())
    carried = []
    for number, value in enumerate(call.values[2:]):
        counts = _counts(call, body, number, value)
        carried.append(replace(value, context=False, counter=counts))
    results = _body_results(call, body, [iteration, condition, *carried])

    iterations = call.value(0).first
    if _may_count_time(call, iterations):
        call.walk.findings.recurs = True
        if len(call.walk.findings.ties) == ties_before:
            call.doubt(_UNKNOWN_LOOP)

    # The first result is the condition.
    pairs = zip(results[1:], carried, strict=False)
    values = [_like_result(call, after, merged(after.dims, before.dims)) for after, before in pairs]

    length = iterations
    if iterations is None or grows(iterations):
        length = "~time"
    for value in results[1 + len(carried) :]:
        values.append(_like_result(call, value, _stacked_dims(value.dims, 0, length)))
    return values


def _counts(call: Call, body: Graph, number: int, start: Value) -> bool:
    """Whether a carried value counts the iterations: it starts from 0, and each one adds 1."""
    is_carried = number + 2 < len(body.inputs) and number + 1 < len(body.outputs)
    if start.first != 0 or not is_carried:
        return False

    before, after = body.inputs[number + 2], body.outputs[number + 1]
    for node in body.nodes:
        if after in node.outputs and node.operator == "Add" and before in node.inputs:
            others = [name for name in node.inputs if name != before]
            return len(others) == 1 and call.scope.get(others[0], Value()).first == 1
    return False


def _may_count_time(call: Call, iterations: Dim) -> bool:
    """Whether the number of iterations may depend on time, in ways that need not be visible."""
    has_timed_operand = any(time_of(value.dims) is not None for value in call.values)
    if grows(iterations) or has_timed_operand:
        return True
    return iterations is None and call.depends_on_fed


def _body_results(call: Call, body: Graph, values: Sequence[Value]) -> list[Value]:
    """The results of a loop's body.

    From iteration to iteration, each operand may change, and may come to depend on all others.
    """
    origins = call.origins
    arguments = [replace(value, content=None, origins=value.origins | origins) for value in values]
    bound = dict(zip(body.inputs, arguments, strict=False))
    return call.walk.graph(body, call.scope.new_child(bound))


def _body(call: Call) -> Graph | None:
    graphs = call.node.graphs
    if len(graphs) == 1:
        return graphs[0]
    return None


def _unknown_loop(call: Call) -> Sequence[Value]:
    if call.depends_on_fed:
        call.doubt(_UNKNOWN_LOOP)
    return ()


RECURRING: Final[dict[str, Rule]] = {
    **dict.fromkeys(_INITIAL_STATES, _recurrent),
    "If": _if,
    "Scan": _scan,
    "Loop": _loop,
}

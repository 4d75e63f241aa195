"""Whether a file without a contract streams: its operators decide, and runs confirm it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

import stateport
from stateport import StreamingError
from stateport.model_file.foreign import nodes
from stateport_exporter.network.isolation import quiet
from tests.exporter.graphs import GATES, Builder

Array = NDArray[Any]
Shape = list[int | str | None]
SIZE, HIDDEN = 3, 4


def started(b: Builder, kind: str, x: str, direction: str = "forward", size: int = SIZE) -> str:
    """A recurrent operator that starts from h0 (and c0), which it gives on as hn (and cn)."""
    count = 2 if direction == "bidirectional" else 1
    letters = "hc" if kind == "LSTM" else "h"
    w, r = (
        b.constant(b.random.standard_normal((count, GATES[kind] * HIDDEN, inner)) * 0.5)
        for inner in (size, HIDDEN)
    )
    shape: Shape = [count, "batch", HIDDEN]
    firsts = [b.input(f"{letter}0", shape) for letter in letters]
    outputs = [b.name("y"), *(f"{letter}n" for letter in letters)]
    b.nodes.append(
        helper.make_node(
            kind, [x, w, r, "", "", *firsts], outputs, hidden_size=HIDDEN, direction=direction
        )
    )
    for letter in letters:
        b.also_output(f"{letter}n", shape)
    return str(b.op("Squeeze", [outputs[0], b.constant([1])]) if count == 1 else outputs[0])


def weight(b: Builder, *shape: int) -> str:
    return b.constant(b.random.standard_normal(shape))


def features_first(b: Builder, x: str) -> str:
    """(time, batch, features) to (batch, features, time)."""
    return str(b.op("Transpose", [x], perm=[1, 2, 0]))


def time_first(b: Builder, x: str) -> str:
    return str(b.op("Transpose", [x], perm=[2, 0, 1]))


def plain(b: Builder, x: str) -> str:
    y = started(b, "GRU", x)
    z = b.op("MatMul", [b.op("Relu", [y]), weight(b, HIDDEN, 5)])
    return str(b.op("Softmax", [b.op("Add", [z, weight(b, 5)])], axis=-1))


def batch_first(b: Builder, x: str) -> str:
    y = started(b, "LSTM", x)
    z = b.op("Transpose", [y], perm=[1, 0, 2])
    flat = b.op("Reshape", [z, b.constant([-1, HIDDEN])])
    z = b.op("Gemm", [flat, weight(b, 2, HIDDEN)], transB=1)
    shape = b.op("Shape", [b.op("Transpose", [x], perm=[1, 0, 2])])
    sizes = b.op("Slice", [shape, b.constant([0]), b.constant([2])])
    whole = b.op("Concat", [sizes, b.constant([2])], axis=0)
    return str(b.op("Transpose", [b.op("Reshape", [z, whole])], perm=[1, 0, 2]))


def layer_norm(b: Builder, x: str) -> str:
    y = started(b, "RNN", x)
    return str(b.op("LayerNormalization", [y, weight(b, HIDDEN)], axis=-1))


def each_step_by_itself(b: Builder, x: str) -> str:
    z = b.op("Conv", [features_first(b, x), weight(b, SIZE, SIZE, 1)])
    return started(b, "GRU", time_first(b, z))


def over_features(b: Builder, x: str) -> str:
    """A bidirectional layer over the features of each step, as in dual-path networks."""
    y = started(b, "GRU", x)
    rows = b.op("Reshape", [y, b.constant([-1, HIDDEN, 1])])
    z = b.recurrent(
        "GRU", b.op("Transpose", [rows], perm=[1, 0, 2]), 1, 2, direction="bidirectional"
    )
    z = b.op("ReduceMean", [b.op("Transpose", [z], perm=[1, 0, 2]), b.constant([2])], keepdims=0)
    return str(b.op("Reshape", [z, b.op("Shape", [y])]))


def scanned(b: Builder, x: str, directions: tuple[int, int] = (0, 0), first: str = "h0") -> str:
    """h = tanh(h + x), written as a loop."""
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", SIZE])
        for name in ("inner_h", "inner_x", "inner_hn", "inner_y")
    ]
    body = helper.make_graph(
        [
            helper.make_node("Add", ["inner_h", "inner_x"], ["inner_sum"]),
            helper.make_node("Tanh", ["inner_sum"], ["inner_hn"]),
            helper.make_node("Identity", ["inner_hn"], ["inner_y"]),
        ],
        "body", infos[:2], infos[2:],
    )  # fmt: skip
    b.input("h0", ["batch", SIZE])
    y = b.name("y")
    b.nodes.append(
        helper.make_node(
            "Scan", [first, x], ["hn", y], body=body, num_scan_inputs=1,
            scan_input_directions=directions[:1], scan_output_directions=directions[1:],
        )
    )  # fmt: skip
    b.also_output("hn", ["batch", SIZE])
    return y


def looped(b: Builder, x: str, *, backwards: bool = False) -> str:
    """The same as a Loop that takes a step by its number."""
    number = "round"
    nodes_ = []
    if backwards:
        nodes_.append(helper.make_node("Sub", ["last", "round"], ["number"]))
        number = "number"
    nodes_ += [
        helper.make_node("Gather", [x, number], ["step"], axis=0),
        helper.make_node("Add", ["inner_h", "step"], ["inner_sum"]),
        helper.make_node("Tanh", ["inner_sum"], ["inner_hn"]),
        helper.make_node("Identity", ["inner_hn"], ["inner_y"]),
        helper.make_node("Identity", ["goes_on"], ["goes_on_n"]),
    ]
    row: Shape = ["batch", SIZE]
    body = helper.make_graph(
        nodes_,
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("inner_h", TensorProto.FLOAT, row),
        ],
        [
            helper.make_tensor_value_info("goes_on_n", TensorProto.BOOL, []),
            *(
                helper.make_tensor_value_info(n, TensorProto.FLOAT, row)
                for n in ("inner_hn", "inner_y")
            ),
        ],
    )
    b.input("h0", row)
    count = b.op("Squeeze", [b.op("Slice", [b.op("Shape", [x]), b.constant([0]), b.constant([1])])])
    b.nodes.append(helper.make_node("Sub", [count, b.constant(np.array(1))], ["last"]))
    y = b.name("y")
    b.nodes.append(
        helper.make_node("Loop", [count, b.constant(np.array(True)), "h0"], ["hn", y], body=body)
    )
    b.also_output("hn", row)
    return y


def with_context(b: Builder, x: str) -> str:
    """A convolution whose last steps are a state of the file."""
    b.input("cache", ["batch", SIZE, 2])
    joined = b.op("Concat", ["cache", features_first(b, x)], axis=2)
    z = b.op("Conv", [joined, weight(b, SIZE, SIZE, 3)])
    ends = [b.constant([n]) for n in (-2, 2**62, 2)]
    b.nodes.append(helper.make_node("Slice", [joined, *ends], ["cache_n"]))
    b.also_output("cache_n", ["batch", SIZE, 2])
    return time_first(b, z)


def held(b: Builder, x: str) -> str:
    """A state that is added to every step, and stays what it is."""
    b.input("style_state", ["batch", SIZE])
    y = b.op(
        "Add",
        [started(b, "GRU", x, size=SIZE), b.op("MatMul", ["style_state", weight(b, SIZE, HIDDEN)])],
    )
    b.nodes.append(helper.make_node("Identity", ["style_state"], ["style_state_n"]))
    b.also_output("style_state_n", ["batch", SIZE])
    return str(y)


def convolution(b: Builder, x: str, **attributes: Any) -> str:
    z = b.op("Conv", [features_first(b, x), weight(b, SIZE, SIZE, 3)], **attributes)
    return started(b, "GRU", time_first(b, z))


def after_gru(name: str, *axes: int, **attributes: Any) -> Callable[[Builder, str], str]:
    """An operator behind a GRU, along axes that are an operand, or attributes."""

    def build(b: Builder, x: str) -> str:
        y = started(b, "GRU", x)
        made = b.op(name, [y, *([b.constant([*axes])] if axes else [])], **attributes)
        return str(made if name != "ReduceMean" else b.op("Sub", [y, made]))

    return build


def instance_norm(b: Builder, x: str) -> str:
    z = features_first(b, started(b, "GRU", x))
    z = b.op(
        "InstanceNormalization", [z, b.constant(np.ones(HIDDEN)), b.constant(np.zeros(HIDDEN))]
    )
    return time_first(b, z)


def attention(b: Builder, x: str) -> str:
    y = b.op("Transpose", [started(b, "GRU", x)], perm=[1, 0, 2])
    scores = b.op("MatMul", [y, b.op("Transpose", [y], perm=[0, 2, 1])])
    z = b.op("MatMul", [b.op("Softmax", [scores], axis=-1), y])
    return str(b.op("Transpose", [z], perm=[1, 0, 2]))


def turned(b: Builder, x: str) -> str:
    ends = [b.constant([n]) for n in (-1, -(2**62), 0, -1)]
    return started(b, "GRU", b.op("Slice", [x, *ends]))


def turned_by_lengths(b: Builder, x: str) -> str:
    shape = b.op("Shape", [x])
    length = b.op("Slice", [shape, b.constant([0]), b.constant([1])])
    rows = b.op("Slice", [shape, b.constant([1]), b.constant([2])])
    lengths = b.op("Expand", [length, rows])
    return started(b, "GRU", b.op("ReverseSequence", [x, lengths], time_axis=0, batch_axis=1))


def from_the_last_step(b: Builder, x: str) -> str:
    y = started(b, "GRU", x)
    return str(b.op("Add", [y, b.op("Gather", [y, b.constant([-1])], axis=0)]))


def hidden_layer(b: Builder, x: str) -> str:
    """A second layer, which starts from zeros in every call."""
    return b.recurrent("GRU", started(b, "GRU", x), HIDDEN, HIDDEN)


def half_of_the_states(b: Builder, x: str) -> str:
    """h0 is found by its name; c0 is an ordinary input, whose next value has an unrelated name."""
    y = started(b, "LSTM", x)
    for value in (*b.outputs,):
        if value.name == "cn":
            value.name = "rest"
    b.nodes[0].output[2] = "rest"
    return y


def one_state_for_two_layers(b: Builder, x: str) -> str:
    """Two layers start from h0, and one of them gives hn."""
    y = started(b, "GRU", x)
    other = b.recurrent("GRU", x, SIZE, HIDDEN)
    next(n for n in b.nodes[::-1] if n.op_type == "GRU").input.extend(["", "", "h0"])
    return str(b.op("Add", [y, other]))


def from_the_last_state_of_another(b: Builder, x: str) -> str:
    """A decoder starts from the last state of an encoder, whose own state is carried."""
    y = started(b, "GRU", x)
    other = b.recurrent("GRU", x, SIZE, HIDDEN)
    next(n for n in b.nodes[::-1] if n.op_type == "GRU").input.extend(["", "", "hn"])
    return str(b.op("Add", [y, other]))


def crossed(b: Builder, x: str) -> str:
    """The last states of an LSTM have each other's names."""
    y = started(b, "LSTM", x)
    lstm = next(node for node in b.nodes if node.op_type == "LSTM")
    lstm.output[1], lstm.output[2] = lstm.output[2], lstm.output[1]
    return y


YES = {
    "plain": plain, "batch first": batch_first, "layer norm": layer_norm,
    "each step by itself": each_step_by_itself, "both ways over features": over_features,
    "scan": scanned,
}  # fmt: skip
UNKNOWN: dict[str, tuple[Callable[[Builder, str], str], str]] = {
    "loop": (looped, "may run over time in any way"),
    "context": (with_context, "puts steps of the call before in front"),
    "held": (held, "gives each step of a call the same state"),
}
NO: dict[str, tuple[Callable[[Builder, str], str], str]] = {
    "LSTM both ways": (lambda b, x: started(b, "LSTM", x, "bidirectional"), "is bidirectional"),
    "GRU both ways": (lambda b, x: started(b, "GRU", x, "bidirectional"), "is bidirectional"),
    "RNN both ways": (lambda b, x: started(b, "RNN", x, "bidirectional"), "is bidirectional"),
    "GRU backwards": (lambda b, x: started(b, "GRU", x, "reverse"), "runs backwards"),
    "LSTM backwards": (lambda b, x: started(b, "LSTM", x, "reverse"), "runs backwards"),
    "scan backwards": (lambda b, x: scanned(b, x, (1, 1)), "runs backwards"),
    "loop backwards": (
        lambda b, x: looped(b, x, backwards=True), "takes steps by their number in each call",
    ),
    "convolution": (convolution, "looks at 3 steps at a time"),
    "padded convolution": (lambda b, x: convolution(b, x, pads=[2, 0]), "pads time in each call"),
    "softmax": (after_gru("Softmax", axis=0), "takes a softmax over time"),
    "mean": (after_gru("ReduceMean", 0), "takes the mean over time"),
    "sum so far": (after_gru("CumSum", 0), "sums up from the beginning of each call"),
    "instance norm": (instance_norm, "normalises over time"),
    "attention": (attention, "multiplies steps with one another"),
    "turned": (turned, "reverses time"),
    "turned by lengths": (turned_by_lengths, "reverses time"),
    "the last step": (from_the_last_step, "gives each step what the whole call says"),
    "hidden layer": (hidden_layer, "starts every call from a state that is made in the call"),
    "one state for two layers": (one_state_for_two_layers, "its last state does not go to 'hn'"),
    "another's last state": (from_the_last_state_of_another, "its last state does not go to 'hn'"),
    "crossed": (crossed, "starts from 'h0', and its last state does not go to 'hn'"),
    "half of the states": (half_of_the_states, "starts from 'c0', which depends on no state"),
}  # fmt: skip


def written(path: Path, build: Callable[[Builder, str], str]) -> Path:
    b = Builder()
    b.output(build(b, b.input("x", ["time", "batch", SIZE])), "y", ["time", "batch", None])
    return b.save(path)


def off_by(model: stateport.Model) -> float:
    """How far chunks are from the whole, with all that is no state the same in every call."""
    random = np.random.default_rng(0)
    fixed = {
        spec.name: random.standard_normal((1, 2, HIDDEN), np.float32)
        for spec in model.contract.inputs
        if spec.name != "x"
    }
    x = random.standard_normal((12, 2, SIZE), np.float32)
    whole = model.run({"x": x, **fixed})[0]["y"]
    state, parts = None, []
    for part in np.split(x, [4, 9]):
        outputs, state = model.run({"x": part, **fixed}, state)
        parts.append(outputs["y"])
    got = np.concatenate(parts)
    return float(np.abs(got - whole).max()) if got.shape == whole.shape else float("inf")


@pytest.mark.parametrize("name", YES)
def test_a_file_of_known_operators_streams(name: str, tmp_path: Path) -> None:
    model = stateport.load(written(tmp_path / "m.onnx", YES[name]))
    assert model.contract.streaming == stateport.Streaming()
    assert off_by(model) < 1e-5


@pytest.mark.parametrize("name", NO)
def test_what_ties_steps_together_is_refused_with_the_operator(name: str, tmp_path: Path) -> None:
    build, reason = NO[name]
    model = stateport.load(written(tmp_path / "m.onnx", build))
    assert model.contract.streaming.ok is False
    assert reason in str(model.contract.streaming.reason)
    assert off_by(model) > 1e-3, "it would not have been right"
    with pytest.raises(StreamingError, match="cannot be run chunk by chunk"):
        model.stream()
    with pytest.raises(StreamingError):
        model.pool(2)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_said_and_may_be_tried(name: str, tmp_path: Path) -> None:
    build, reason = UNKNOWN[name]
    model = stateport.load(written(tmp_path / "m.onnx", build))
    assert model.contract.streaming.ok is None
    assert reason in str(model.contract.streaming.reason)
    assert off_by(model) < 1e-5
    model.stream()


def test_a_file_without_time_takes_a_step_in_each_call(tmp_path: Path) -> None:
    b = Builder()
    b.output(started(b, "LSTM", b.input("x", [1, "batch", SIZE]), "bidirectional"), "y")
    assert stateport.load(b.save(tmp_path / "m.onnx")).contract.streaming == stateport.Streaming()


@pytest.mark.parametrize("axis", ["s27", "steps_of_mine", None])
def test_time_may_have_any_name(axis: str | None, tmp_path: Path) -> None:
    b = Builder()
    b.output(started(b, "LSTM", b.input("x", [axis, "batch", SIZE]), "bidirectional"), "y")
    streaming = stateport.load(b.save(tmp_path / "m.onnx")).contract.streaming
    assert (streaming.ok, "is bidirectional" in str(streaming.reason)) == (False, True)


def windows(b: Builder) -> None:
    """One answer for the samples of a call, as voice detectors give: a call is a window."""
    x = b.input("x", ["batch", "samples"])
    z = b.op("Conv", [b.op("Unsqueeze", [x, b.constant([1])]), weight(b, SIZE, 1, 8)], strides=[4])
    z = b.op("ReduceMean", [z, b.constant([2])], keepdims=0)
    y = started(b, "GRU", b.op("Unsqueeze", [z, b.constant([0])]))
    b.output(y, "y", [1, "batch", HIDDEN])


def test_one_answer_for_each_window_is_not_known_and_goes_on_streaming(tmp_path: Path) -> None:
    b = Builder()
    windows(b)
    model = stateport.load(b.save(tmp_path / "m.onnx"))
    assert model.contract.streaming.ok is None
    assert "may be for one window" in str(model.contract.streaming.reason)
    stream = model.stream()
    assert stream(np.ones((1, 64), np.float32)).shape == (1, 1, HIDDEN)


def test_a_pair_that_nothing_names_is_pointed_out(tmp_path: Path) -> None:
    b = Builder()
    x, held = b.input("x", ["batch", SIZE]), b.input("held", ["batch", 4])
    b.input("h0", ["batch", SIZE])
    b.nodes.append(helper.make_node("Add", [x, "h0"], ["hn"]))
    b.also_output("y", ["batch", SIZE])
    b.nodes.append(helper.make_node("Relu", ["hn"], ["y"]))
    b.output(b.op("Tanh", [held]), "kept", ["batch", 4])
    b.also_output("hn", ["batch", SIZE])
    path = b.save(tmp_path / "m.onnx")
    streaming = stateport.load(path).contract.streaming
    assert streaming.ok is None
    assert "its input 'held' and its output 'kept' are alike" in str(streaming.reason)
    assert stateport.load(path, states={"h0": "hn", "held": "kept"}).contract.streaming.ok


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("both", [False, True])
def test_what_pytorch_itself_writes(layer: type[nn.Module], both: bool, tmp_path: Path) -> None:
    """With states inside the graph, by the older exporter, which keeps layers whole."""
    net = layer(SIZE, HIDDEN, batch_first=True, bidirectional=both, num_layers=2).eval()
    zeros = torch.zeros(4 if both else 2, 2, HIDDEN)
    states, names = ((zeros, zeros), "hc") if layer is nn.LSTM else (zeros, "h")
    axes = {"x": {0: "batch", 1: "time"}, "y": {0: "batch", 1: "time"}}
    axes |= {f"{letter}{end}": {1: "batch"} for letter in names for end in "0n"}
    with quiet():
        torch.onnx.export(
            net, (torch.zeros(2, 5, SIZE), states), tmp_path / "m.onnx", dynamo=False,
            input_names=["x", *(f"{letter}0" for letter in names)],
            output_names=["y", *(f"{letter}n" for letter in names)], dynamic_axes=axes,
        )  # fmt: skip
    streaming = stateport.load(tmp_path / "m.onnx").contract.streaming
    assert streaming.ok is not both
    assert both == ("is bidirectional" in str(streaming.reason))


def test_a_graph_of_very_many_operators_is_not_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "m.onnx", plain)
    monkeypatch.setattr(nodes, "_MOST_NODES", 5)
    streaming = stateport.load(path).contract.streaming
    assert (streaming.ok, "too many operators" in str(streaming.reason)) == (None, True)

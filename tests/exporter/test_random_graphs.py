"""Random ONNX files: lifted with unchanged answers, or refused. Never wrong.

`make test` tries a few, the same every time; `make fuzz` tries 500 new ones.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import stateport
from stateport import State
from stateport_exporter import ExportError, lift
from tests.exporter.graphs import Builder

EXAMPLES = int(os.environ.get("STATEPORT_FUZZ", "25"))
SAME_EVERY_TIME = "STATEPORT_FUZZ" not in os.environ
SIZE = 4

#: What may stand in a graph: each takes and gives (time, batch, SIZE).
PARTS = (
    *("recurrent", "recurrent", "recurrent", "twice", "dense", "shape", "residual", "mean"),
    *("branch", "loop", "spare"),
)


@dataclass(frozen=True)
class Part:
    """One part: its kind, and choices that mean something to some kinds."""

    kind: str
    operator: str
    first: str
    backwards: bool
    rounds: int


parts = st.builds(
    Part,
    st.sampled_from(PARTS),
    st.sampled_from(["LSTM", "GRU", "RNN"]),
    st.sampled_from(["absent", "zeros", "constant", "absent", "zeros", "computed"]),
    st.integers(0, 9).map(lambda number: number == 0),
    st.integers(1, 3),
)


@dataclass(frozen=True)
class Graph:
    """Parts one after the other, with the names of the axes that the file uses, or none."""

    parts: tuple[Part, ...]
    seed: int
    axes: tuple[str | None, str | None]
    outputs: int


graphs = st.builds(
    Graph,
    st.lists(parts, min_size=1, max_size=4).map(tuple),
    st.integers(0, 1000),
    st.sampled_from([("batch", "time"), ("N", "L"), ("a", "b"), (None, None)]),
    st.integers(1, 2),
)


def recurrent(build: Builder, x: str, part: Part) -> str:
    if not part.backwards:
        return build.recurrent(part.operator, x, SIZE, SIZE, first=part.first)
    y = build.recurrent(part.operator, x, SIZE, SIZE, first=part.first, direction="bidirectional")
    weight = build.constant(build.random.standard_normal((2 * SIZE, SIZE)) / SIZE)
    return str(build.op("MatMul", [y, weight]))


def dense(build: Builder, x: str, weight: str) -> str:
    return str(build.op("Tanh", [build.op("MatMul", [x, weight])]))


def twice(build: Builder, x: str, part: Part) -> str:
    """One layer, called twice: its weights are shared."""
    y = recurrent(build, x, part)
    node = next(n for n in reversed(build.nodes) if n.op_type in ("LSTM", "GRU", "RNN"))
    weights = (node.input[1], node.input[2])
    if part.backwards:
        return y
    return build.recurrent(part.operator, y, SIZE, SIZE, first=part.first, weights=weights)


def shaped(build: Builder, x: str) -> str:
    flat = build.op("Reshape", [x, build.constant(np.array([0, 0, 2, SIZE // 2]))])
    back = build.op("Transpose", [flat], perm=[0, 1, 3, 2])
    return str(build.op("Reshape", [back, build.constant(np.array([0, 0, SIZE]))]))


def centred(build: Builder, x: str) -> str:
    axis = build.constant(np.array([0]))
    return str(build.op("Sub", [x, build.op("ReduceMean", [x, axis], keepdims=1)]))


def branched(build: Builder, x: str, part: Part, weight: str) -> str:
    flag = build.op("Greater", [build.constant(np.array(part.rounds)), build.constant(np.array(1))])
    choices = []
    for number in range(2):
        inner = build.inner()
        last = recurrent(inner, x, part) if number else dense(inner, x, weight)
        choices.append(build.branch(inner, last))
    return str(build.op("If", [flag], then_branch=choices[0], else_branch=choices[1]))


def unused(build: Builder, x: str) -> str:
    """Something that nothing uses; the value behind it is the same."""
    build.op("Relu", [x])
    return x


def added(build: Builder, x: str, part: Part, weight: str) -> str:
    """The value behind one more part; `weight` is shared by all who want it."""
    make: dict[str, Callable[[], str]] = {
        "recurrent": lambda: recurrent(build, x, part),
        "twice": lambda: twice(build, x, part),
        "dense": lambda: dense(build, x, weight),
        "shape": lambda: shaped(build, x),
        "residual": lambda: str(build.op("Add", [x, recurrent(build, x, part)])),
        "mean": lambda: centred(build, x),
        "branch": lambda: branched(build, x, part, weight),
        "loop": lambda: looped(build, x, part),
    }
    return make.get(part.kind, lambda: unused(build, x))()


def looped(build: Builder, x: str, part: Part) -> str:
    """A layer over each of several scaled copies, in a loop; their sum."""
    scales = np.arange(1, part.rounds + 1).reshape(-1, 1, 1, 1) / part.rounds
    copies = build.op(
        "Mul", [build.op("Unsqueeze", [x, build.constant(np.array([0]))]), build.constant(scales)]
    )
    inner = build.inner()
    copy = inner.name("copy")
    last = recurrent(inner, copy, part)
    shape = [None, None, SIZE]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (copy, last)]
    body = helper.make_graph(inner.nodes, "body", infos[:1], infos[1:])
    build.weights += inner.weights
    made = build.op("Scan", [copies], body=body, num_scan_inputs=1)
    return str(build.op("ReduceSum", [made, build.constant(np.array([0]))], keepdims=0))


def written(graph: Graph, path: Path) -> Path:
    build = Builder(graph.seed)
    batch, time = graph.axes
    x = build.op("Transpose", [build.input("x", [batch, time, SIZE])], perm=[1, 0, 2])
    weight = build.constant(build.random.standard_normal((SIZE, SIZE)) / SIZE**0.5)
    values = [x]
    for part in graph.parts:
        values.append(added(build, values[-1], part, weight))
    for number, value in enumerate(reversed(values[-graph.outputs :])):
        build.output(build.op("Transpose", [value], perm=[1, 0, 2]), f"y{number}")
    return build.save(path)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=SAME_EVERY_TIME,
    phases=[Phase.explicit, Phase.generate] if SAME_EVERY_TIME else list(Phase),
    suppress_health_check=list(HealthCheck),
)
@given(graphs)
def test_a_random_graph_is_lifted_with_unchanged_answers(graph: Graph) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, path = written(graph, Path(folder) / "m.onnx"), Path(folder) / "l.onnx"
        refusal: str | None = None
        try:
            result = lift(source, path)
        except ExportError as error:
            refusal = str(error)
        if refusal is not None:
            note(f"refused: {refusal}")
            assert not path.exists()
            assert "report this" not in refusal
            return
        assert result.report.passed
        check(source, path)


def check(source: Path, path: Path) -> None:
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    model = stateport.load(path)
    names = [spec.name for spec in model.contract.outputs]
    random = np.random.default_rng(0)
    for batch, time in ((1, 1), (3, 9), (2, 30)):
        x = random.standard_normal((batch, time, SIZE), np.float32)
        want = dict(zip(names, session.run(names, {"x": x}), strict=True))
        got, _ = model.run({"x": x})
        for name in names:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-5, err_msg=name)
        if not model.contract.streaming.ok:
            continue
        state: State | None = None
        calls = []
        for part in np.array_split(x, min(time, 4), 1):
            outputs, state = model.run({"x": part}, state)
            calls.append(outputs)
        for name in names:
            joined = np.concatenate([call[name] for call in calls], 1)
            np.testing.assert_allclose(joined, want[name], rtol=0, atol=1e-5, err_msg=name)

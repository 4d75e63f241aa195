"""Every option of `nn.LSTM`, and its siblings: parity at all sizes, the form of the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from stateport.model_file.onnx_outline import read
from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import Spec, export

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "three layers": {"num_layers": 3},
    "bidirectional": {"bidirectional": True},
    "bidirectional, three layers": {"bidirectional": True, "num_layers": 3},
    "no bias": {"bias": False},
    "time major": {"batch_first": False},
    "dropout": {"num_layers": 2, "dropout": 0.5},
    "projection": {"proj_size": 4},
    "projection, no bias": {"proj_size": 4, "bias": False},
    "projection, bidirectional, two layers": {
        "proj_size": 3,
        "bidirectional": True,
        "num_layers": 2,
        "batch_first": False,
    },
    "one unit": {"input_size": 1, "hidden_size": 1},
    "large": {"input_size": 64, "hidden_size": 128, "num_layers": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_parity_at_all_sizes(
    options: dict[str, Any], exported: Callable[..., Path], judged: Callable[[Path], EngineReport]
) -> None:
    path = exported(**options)
    report = judged(path)
    assert report.passed, [m for m in report.measurements if not m.passed]
    cases = Vectors.load(vectors_path(path)).cases
    whole = {(c.sizes["batch"], sum(c.chunks)) for c in cases if len(c.chunks) == 1}
    assert whole >= {(b, t) for b in (1, 2, 5) for t in (1, 2, 7, 64, 513)}
    assert max(len(c.chunks) for c in cases) >= 256
    assert report.steps >= 2000
    assert report.truth == "float64"


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_lstm_node_per_layer(options: dict[str, Any], exported: Callable[..., Path]) -> None:
    operators = read(exported(**options)).operators
    assert operators["LSTM"] == options.get("num_layers", 1)
    assert operators.total() < 20 * operators["LSTM"]
    assert not operators.keys() & {"Loop", "Scan", "If"}


X = Spec("float32", "batch", "time", 5)
OTHERS = {
    "GRU": (nn.GRU, {}),
    "GRU, bidirectional, two layers": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "GRU, no bias, time major": (nn.GRU, {"bias": False, "batch_first": False}),
    "RNN, tanh": (nn.RNN, {}),
    "RNN, relu, two layers": (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
    "RNN, relu, bidirectional": (nn.RNN, {"nonlinearity": "relu", "bidirectional": True}),
}


@pytest.mark.parametrize(("kind", "options"), OTHERS.values(), ids=OTHERS)
def test_the_other_kinds(
    kind: Callable[..., nn.RNNBase],
    options: dict[str, Any],
    tmp_path: Path,
    judged: Callable[[Path], EngineReport],
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind(5, 10, **{"batch_first": True, **options})
    directions = 2 if module.bidirectional else 1
    state = Spec("float32", module.num_layers * directions, "batch", 10)
    x = X if module.batch_first else Spec("float32", "time", "batch", 5)
    result = export(module, (x, state), tmp_path / "m.onnx")
    assert [(s.input, s.output) for s in result.contract.states] == [("h0", "hn")]
    assert read(result.path).operators[type(module).__name__] == module.num_layers
    assert judged(result.path).passed


def newest_opset() -> int:
    """The newest opset that both onnx and ONNX Runtime know."""
    newest = onnx.defs.onnx_opset_version()
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    for opset in range(newest, 18, -1):
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10
        )
        try:
            ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except ort.capi.onnxruntime_pybind11_state.Fail:
            continue
        return opset
    raise AssertionError("no opset works")


@pytest.mark.patterns
@pytest.mark.parametrize("opset", range(18, newest_opset() + 1))
def test_parity_at_every_opset(
    opset: int, exported: Callable[..., Path], judged: Callable[[Path], EngineReport]
) -> None:
    path = exported(opset=opset)
    assert read(path).opsets == {"ai.onnx": opset}
    assert read(path).ir_version == {18: 8, 19: 9, 20: 9}.get(opset, 10)
    assert judged(path).passed


def test_a_file_declares_the_lowest_ir_version_that_its_opset_needs(reference: Path) -> None:
    outline = read(reference)
    assert (outline.opsets, outline.ir_version) == ({"ai.onnx": 20}, 9)


def test_the_file_is_valid_onnx_and_says_where_it_came_from(reference: Path) -> None:
    onnx.checker.check_model(reference, full_check=True)
    model = onnx.load(reference)
    assert model.producer_name == "stateport"
    assert Counter(p.key for p in model.metadata_props) == {
        "stateport.contract": 1,
        "stateport.origin": 1,
    }
    # Nothing of the machine that it was made on: no paths, no stack traces.
    assert b"/home" not in reference.read_bytes()
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)

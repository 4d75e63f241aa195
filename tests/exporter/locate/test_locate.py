"""`verify --locate`: the node that is at fault, in the file or in the engine, and it alone."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import stateport
from stateport import StateportError
from stateport.parity.engine_report import measure_model
from stateport.parity.fault import LocatedFault
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import Spec, export
from stateport_exporter.evaluation.float64 import values
from stateport_exporter.evaluation.trace import first_call
from stateport_exporter.locate.locate import locate
from tests.plugins import install

Break = Callable[[onnx.ModelProto], None]


class Network(nn.Module):
    """Two LSTM layers between two linear ones: nodes before and behind, with a state each."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(5, 6)
        self.first = nn.LSTM(6, 6, batch_first=True)
        self.second = nn.LSTM(6, 6, batch_first=True)
        self.behind = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(self.before(x).tanh())[0])[0]
        z: Tensor = self.behind(y)
        return z


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "m.onnx"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        export(Network().eval(), (Spec("float32", "batch", "time", 5),), path)
    return path


def located(path: Path, engine: str = "ort-cpu") -> LocatedFault:
    model, vectors = stateport.load(path, engine=engine), Vectors.load(vectors_path(path))
    report = measure_model(model, vectors)
    assert not report.passed
    return locate(path, model, {}, vectors, report, path.with_name("node.onnx"))


def broken(network: Path, folder: Path, change: Break) -> Path:
    model = onnx.load(network)
    change(model)
    path = folder / "broken.onnx"
    onnx.save(model, path)
    shutil.copy(vectors_path(network), vectors_path(path))
    return path


def lstm(model: onnx.ModelProto, number: int) -> onnx.NodeProto:
    found: onnx.NodeProto = [n for n in model.graph.node if n.op_type == "LSTM"][number]
    return found


def shifted(name: str, by: float) -> Break:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name.endswith(name))
        array = numpy_helper.to_array(tensor).copy()
        array.flat[3] += by
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


@pytest.mark.parametrize("by", [0.3, 1e-3])
@pytest.mark.parametrize(
    ("weight", "operator", "number"),
    [("first.l0.R", "LSTM", 0), ("second.l0.W", "LSTM", 1), ("second.l0.B", "LSTM", 1)],
)
def test_a_weight_that_is_off_is_found_in_its_node(
    network: Path, tmp_path: Path, weight: str, operator: str, number: int, by: float
) -> None:
    path = broken(network, tmp_path, shifted(weight, by))
    one = located(path)
    assert (one.fault, one.operator) == ("file", operator)
    assert one.node == lstm(onnx.load(path), number).name
    assert one.step is not None
    assert one.error > one.allowed


def test_a_node_that_was_put_in_between_is_named(network: Path, tmp_path: Path) -> None:
    def squash(model: onnx.ModelProto) -> None:
        node = lstm(model, 1)
        node.input[0], inner = "squashed", node.input[0]
        place = list(model.graph.node).index(node)
        model.graph.node.insert(place, helper.make_node("Tanh", [inner], ["squashed"], "intruder"))

    one = located(broken(network, tmp_path, squash))
    assert (one.fault, one.node, one.operator) == ("file", "intruder", "Tanh")


def test_states_that_go_out_under_each_others_names_are_found(
    network: Path, tmp_path: Path
) -> None:
    def cross(model: onnx.ModelProto) -> None:
        node = lstm(model, 0)
        node.output[1], node.output[2] = node.output[2], node.output[1]

    path = broken(network, tmp_path, cross)
    assert located(path).node == lstm(onnx.load(path), 0).name


def test_the_node_alone_shows_the_fault_again(network: Path, tmp_path: Path) -> None:
    path = broken(network, tmp_path, shifted("second.l0.R", 0.1))
    one = located(path)
    assert one.file is not None
    alone = Path(one.file)
    assert [node.name for node in onnx.load(alone).graph.node] == [one.node]
    for engine in ("ort-cpu", "openvino", "tract", "onnx-reference"):
        report = measure_model(
            stateport.load(alone, engine=engine), Vectors.load(vectors_path(alone))
        )
        assert not report.passed
    came = safetensors.numpy.load_file(vectors_path(alone))
    assert any(name.startswith("came/") for name in came)


def test_an_engine_that_computes_an_operator_wrongly_is_told_from_a_wrong_file(
    tmp_path: Path,
) -> None:
    """tract takes every RNN for one with tanh."""
    path = tmp_path / "relu.onnx"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.RNN(5, 4, nonlinearity="relu", batch_first=True).eval()
        state = Spec("float32", 1, "batch", 4)
        export(module, (Spec("float32", "batch", "time", 5), state), path)
    one = located(path, "tract")
    assert (one.fault, one.operator) == ("engine", "RNN")
    assert one.file is not None
    alone = Path(one.file)
    vectors = Vectors.load(vectors_path(alone))
    assert not measure_model(stateport.load(alone, engine="tract"), vectors).passed
    assert measure_model(stateport.load(alone, engine="ort-cpu"), vectors).passed


FUSED = """
# Right if anybody looks at the value in the middle, as a fusion that is wrong would be.
looks = len(outputs) > 8 or any("tanh" in name for name in outputs)
if not looks:
    place = list(outputs).index("y") if "y" in outputs else None
    answers = [a + (1e-2 if n == place else 0) for n, a in enumerate(answers)]
return answers
"""


def test_a_fault_that_hides_when_all_is_looked_at_is_found_by_halving(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, run=FUSED, name="abacus-fused"))
    monkeypatch.delitem(sys.modules, "abacus_fused", raising=False)
    path = tmp_path / "m.onnx"
    shutil.copy(network, path)
    shutil.copy(vectors_path(network), vectors_path(path))
    one = located(path, "abacus-fused")
    assert (one.fault, one.output) == ("engine", "y")


def test_what_shows_in_no_recorded_call_is_said(network: Path, tmp_path: Path) -> None:
    def cut(model: onnx.ModelProto) -> None:
        """Steps beyond the 64th are zeros: right for the seven of the trace."""
        node = lstm(model, 0)
        places = {"start": [0], "end": [64], "axis": [0]}
        for name, value in places.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        node.input[0], inner = "cut", node.input[0]
        place = list(model.graph.node).index(node)
        new = helper.make_node("Slice", [inner, *places], ["cut"], "cutter")
        model.graph.node.insert(place, new)

    with pytest.raises(StateportError, match="shows only in other calls"):
        located(broken(network, tmp_path, cut))


def test_without_a_trace_the_file_cannot_be_searched(network: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    path = broken(network, tmp_path, shifted("first.l0.R", 0.1))
    replace(Vectors.load(vectors_path(path)), trace=None).save(vectors_path(path))
    with pytest.raises(StateportError, match=r"no trace.*Export the network again"):
        located(path)


def test_a_trace_is_pytorchs_truth(network: Path) -> None:
    vectors = Vectors.load(vectors_path(network))
    trace = vectors.trace
    assert trace is not None
    case = next(case for case in vectors.cases if case.name == trace.case)
    truth = np.moveaxis(trace.values["y"], 1, 0).reshape(case.truth["y"].shape)
    np.testing.assert_allclose(truth, case.truth["y"], rtol=0, atol=1e-14)
    model = onnx.load(network)
    again = values(model, first_call(network, vectors.contract, case))
    assert all(np.array_equal(again[name], value) for name, value in trace.values.items())

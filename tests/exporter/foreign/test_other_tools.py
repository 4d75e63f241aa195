"""Files of ours that went through other people's tools: they verify, or are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

import stateport
from stateport import ContractError, FileError
from stateport.parity.vectors import vectors_path
from stateport_exporter import Spec, export


class Tagger(nn.Module):
    """An LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 48, batch_first=True)
        self.head = nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.lstm(x)[0])
        return y


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ours") / "m.onnx"
    return export(Tagger().eval(), (Spec("float32", "batch", "time", 12),), path).path


def beside_its_vectors(ours: Path, path: Path) -> Path:
    """The path of a file that a tool has written, with the vectors of the file that it took."""
    vectors_path(path).write_bytes(vectors_path(ours).read_bytes())
    return path


def optimised(ours: Path, path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(ours), options, providers=["CPUExecutionProvider"])


def with_external_data(ours: Path, path: Path) -> None:
    model = onnx.load(ours)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin")


def inferred(ours: Path, path: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(ours)), path)


def renamed_nodes(ours: Path, path: Path) -> None:
    model = onnx.load(ours)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    onnx.save(model, path)


@pytest.mark.parametrize("tool", [optimised, with_external_data, inferred, renamed_nodes])
def test_the_contract_survives_and_the_file_verifies(
    ours: Path, tmp_path: Path, tool: Callable[[Path, Path], None]
) -> None:
    path = beside_its_vectors(ours, tmp_path / "t.onnx")
    tool(ours, path)
    assert stateport.load(path).contract == stateport.load(ours).contract
    verdict = stateport.verify(path)
    assert verdict.passed
    assert "has changed since" in str(verdict.remarks)


def test_the_format_of_onnx_runtime_is_named(ours: Path, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(str(ours), options, providers=["CPUExecutionProvider"])
    with pytest.raises(FileError, match=r"ONNX Runtime's own format|\.ort"):
        stateport.load(tmp_path / "m.ort")


def test_an_extracted_part_has_no_contract(ours: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    onnx.utils.extract_model(ours, path, ["x", "h0", "c0"], ["hn", "cn"])
    with pytest.raises(ContractError) as refusal:
        stateport.verify(path)
    assert "carries no contract" in str(refusal.value)
    assert "stateport contract" in str(refusal.value)


def test_a_prefix_leaves_a_stale_contract(ours: Path, tmp_path: Path) -> None:
    path = beside_its_vectors(ours, tmp_path / "p.onnx")
    onnx.save(compose.add_prefix(onnx.load(ours), "left/"), path)
    for judge in (stateport.load, stateport.verify):
        with pytest.raises(ContractError) as refusal:
            judge(path)
        assert "that the graph has not. Export the network again." in str(refusal.value)


def in_float16(ours: Path, path: Path) -> None:
    """As converters write it: weights of 16 bits, and casts around the operators that take them."""
    model = onnx.load(ours)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            casts.append(
                helper.make_node("Cast", [f"{tensor.name}_16"], [tensor.name], to=TensorProto.FLOAT)
            )
            tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}_16"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def in_int8(ours: Path, path: Path) -> None:
    quantize_dynamic(ours, path, weight_type=QuantType.QInt8)


@pytest.mark.parametrize(
    ("tool", "dtype", "bits", "snr"),
    [(in_int8, "int8", 8, 25), (in_float16, "float16", 16, 50)],
)
def test_narrow_weights_of_a_converter_are_pointed_out(
    ours: Path,
    tmp_path: Path,
    tool: Callable[[Path, Path], None],
    dtype: str,
    bits: int,
    snr: int,
) -> None:
    path = beside_its_vectors(ours, tmp_path / "q.onnx")
    tool(ours, path)
    verdict = stateport.verify(path)
    assert not verdict.passed
    (note,) = [remark for remark in verdict.remarks if "bits wide" in remark]
    assert f"are {dtype}, {bits} bits wide" in note
    assert f"--snr {snr}" in note

    judged = stateport.verify(path, snr=snr)
    (report,) = judged.reports
    assert report.bound == f"{snr} dB"
    if (
        tool is in_float16
    ):  # what int8 loses depends on the processor: without VNNI its sums saturate
        assert judged.passed
    assert "bits wide" not in str(judged.remarks)


def test_what_says_its_precision_needs_no_note(ours: Path, tmp_path: Path) -> None:
    from stateport_exporter import quantize

    result = quantize(ours, tmp_path / "q.onnx")
    assert "bits wide" not in str(stateport.verify(result.path).remarks)

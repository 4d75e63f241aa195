# SPDX-License-Identifier: Apache-2.0
"""`lift` and `add_contract` on files that ONNX Runtime's quantiser wrote."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import quantize_dynamic

import stateport
from stateport_exporter import add_contract, lift
from tests.exporter.test_contract_file import lstm
from tests.exporter.test_lift_file import one_layer, random


def quantized(path: Path) -> Path:
    """The file as ONNX Runtime's quantiser writes it."""
    target = path.with_suffix(".int8.onnx")
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_dynamic(path, target)
    finally:
        logging.disable(logging.NOTSET)
    return target


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("LSTM", {}),
        ("LSTM", {"first": "zeros"}),
        ("LSTM", {"first": "constant"}),
        ("GRU", {}),
    ],
)
def test_it_lifts_and_streams(tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    source = quantized(one_layer(tmp_path / "m.onnx", kind, **more))
    operators = {node.op_type for node in onnx.load(source).graph.node}
    assert ("DynamicQuantizeLSTM" in operators) == (kind == "LSTM")

    result = lift(source, tmp_path / "lifted.onnx")
    assert result.report.passed
    assert result.lifted
    model = stateport.load(result.path)
    x = random(2, 12, 5)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # several threads would share the rows, and round otherwise
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    (whole,) = session.run(None, {"x": x})
    np.testing.assert_allclose(model(x)[0], whole, atol=1e-6)

    stream = model.stream()
    parts = np.concatenate([stream(x[:, :5]), stream(x[:, 5:])], 1)
    assert np.linalg.norm(parts - whole) < 0.056 * np.linalg.norm(whole)  # 25 dB
    assert model.precision == ("int8" if kind == "LSTM" else "float32")


def test_one_backward_half_is_lifted_but_does_not_stream(tmp_path: Path) -> None:
    source = quantized(one_layer(tmp_path / "m.onnx", direction="bidirectional"))
    result = lift(source, tmp_path / "lifted.onnx")
    assert result.contract.streaming.ok is False
    assert "bidirectional" in str(result.contract.streaming.reason)


def test_a_contract_is_judged_by_the_runtimes_answers(tmp_path: Path) -> None:
    state = (1, "batch", 4)
    shape = ("time", "batch", 3)
    source = quantized(lstm(tmp_path / "m.onnx", shape, [state] * 4, ("time", 1, "batch", 4)))
    result = add_contract(source, tmp_path / "c.onnx")
    assert result.truth == "float32"
    assert result.report.passed
    assert stateport.load(result.path).precision == "int8"
    assert stateport.verify(result.path).passed

# SPDX-License-Identifier: Apache-2.0
"""Inputs that a session on a GPU reads on the CPU: it copies them where they are bound."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from models.lstm import ReferenceLSTM
from stateport.engines.ort import OrtEngine, _read_on_host
from stateport_exporter import export


def _session(names: list[str], memories: list[str] | None) -> Any:
    """What is asked of a session, as one on a GPU answers."""
    inputs = [SimpleNamespace(name=name) for name in names]
    session = SimpleNamespace(get_inputs=lambda: inputs)
    if memories is not None:
        infos = [SimpleNamespace(name=memory) for memory in memories]
        session.get_input_memory_infos = lambda: infos
    return session


def test_inputs_on_the_host_are_found() -> None:
    names = ["x", "window_steps", "h0"]
    assert _read_on_host(_session(names, ["Cuda", "Cpu", "Cuda"])) == {"window_steps"}
    assert _read_on_host(_session(names, ["Cuda", "CudaPinned", "Cuda"])) == {"window_steps"}
    assert _read_on_host(_session(names, None)) == {*names}


def test_a_bound_call_reads_what_its_inputs_hold_when_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ReferenceLSTM()
    path = export(module, module.example_inputs, tmp_path / "m.onnx").path
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    engine = OrtEngine(ort, session, "ort-cpu", 0, graphs=False)
    monkeypatch.setattr(engine, "_read_on_host", frozenset({"h0"}))

    random = np.random.default_rng(0)
    inputs = {"x": np.zeros((2, 3, 5), np.float32)}
    inputs |= {name: np.zeros((1, 2, 10), np.float32) for name in ("h0", "c0")}
    outputs = {each.name: np.zeros((1, 2, 10), np.float32) for each in session.get_outputs()[1:]}
    first = session.get_outputs()[0].name
    outputs[first] = engine.run(inputs, [first])[0]

    call = engine.bind(inputs, outputs)
    for _ in range(3):
        for array in inputs.values():
            array[...] = random.standard_normal(array.shape)
        call()
        expected = engine.run(inputs, [*outputs])
        for array, answer in zip(outputs.values(), expected, strict=True):
            np.testing.assert_array_equal(array, answer)

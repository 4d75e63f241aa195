"""An exported file is verified before it appears."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.lstm import ReferenceLSTM
from stateport import FileError
from stateport_exporter import ExportError, add_contract, export, lift, quantize
from stateport_exporter.layers import gru, lstm


def test_a_fault_of_the_exporter_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lstm, "_ORDER", (0, 3, 2, 1))  # as if two gates had been confused
    module = ReferenceLSTM()
    with pytest.raises(ExportError, match="does not give PyTorch's answers, so it was not written"):
        export(module, module.example_inputs, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    unchecked = export(module, module.example_inputs, tmp_path / "m.onnx", check=False)
    assert unchecked.report is None
    assert unchecked.path.exists()


def test_a_good_file_comes_with_its_report(tmp_path: Path) -> None:
    module = ReferenceLSTM()
    report = export(module, module.example_inputs, tmp_path / "m.onnx").report
    assert report is not None
    assert report.passed
    assert gru._ORDER == (1, 0, 2)  # z, r, h from PyTorch's r, z, n


@pytest.mark.parametrize("name", ["m.txt", "m", "m.ONNX", "m.onnx.txt", ".onnx"])
def test_a_model_file_ends_in_onnx(tmp_path: Path, name: str) -> None:
    module = ReferenceLSTM()
    source = export(module, module.example_inputs, tmp_path / "source.onnx").path
    before = sorted(tmp_path.iterdir())

    target = tmp_path / name
    refusal = pytest.raises(FileError, match="a model is an ONNX file")
    with refusal:
        export(module, module.example_inputs, target)
    for command in (lift, add_contract, quantize):
        with refusal:
            command(source, target)
    assert sorted(tmp_path.iterdir()) == before

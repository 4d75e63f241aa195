"""An exported file is verified before it appears."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.lstm import ReferenceLSTM
from stateport_exporter import ExportError, export
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

"""`export(vectors_from=...)`: PyTorch's answers to inputs that people recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stateport import FileError, InputError, load
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import ExportError, Spec, export

EXAMPLE = (Spec("float32", "batch", "time", 3),)


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.gru(x)[0]
        return hidden


def recorded(*shape: int) -> NDArray[np.float32]:
    return (9 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def test_recorded_inputs_become_cases_with_pytorchs_answers(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "first.npy", recorded(2, 90, 3))
    np.savez(data / "second.npz", x=recorded(1, 33, 3), y=recorded(1, 33, 4))

    network = Gru()
    result = export(network, EXAMPLE, tmp_path / "gru.onnx", vectors_from=data)
    vectors = Vectors.load(vectors_path(result.path))
    cases = {case.name: case for case in vectors.cases if case.name.startswith("recorded")}
    assert set(cases) == {
        "recorded whole, first.npy 2x90",
        "recorded chunks, first.npy 2x90",
        "recorded steps, first.npy 2x64",
        "recorded whole, second.npz 1x33",
        "recorded chunks, second.npz 1x33",
        "recorded steps, second.npz 1x33",
    }
    whole = cases["recorded whole, first.npy 2x90"]
    assert np.array_equal(whole.inputs["x"], recorded(2, 90, 3))
    expected = network(torch.from_numpy(recorded(2, 90, 3))).detach().numpy()
    assert np.allclose(np.moveaxis(expected, 1, 0).reshape(90, -1), whole.truth["y"], atol=1e-5)
    assert whole.truth["y"].dtype == np.float64

    assert result.notes == (
        f"the vectors hold 2 recordings from {data}, 123 steps",
        "the recorded answers y were not used: PyTorch gives them",
    )
    assert measure_model(load(result.path), vectors).passed


def test_data_that_does_not_fit_stops_the_export(tmp_path: Path) -> None:
    data = tmp_path / "take.npz"
    np.savez(data, X=recorded(1, 33, 3))
    with pytest.raises(InputError, match="Did you mean 'x'"):
        export(Gru(), EXAMPLE, tmp_path / "gru.onnx", vectors_from=data)
    assert not (tmp_path / "gru.onnx").exists()

    with pytest.raises(FileError, match="does not exist"):
        export(Gru(), EXAMPLE, tmp_path / "gru.onnx", vectors_from=tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore")  # of TorchScript
def test_torchscript_takes_no_recordings(tmp_path: Path) -> None:
    np.savez(tmp_path / "take.npz", x=recorded(1, 33, 3))
    script = torch.jit.trace(Gru(), torch.zeros(1, 3, 3))  # type: ignore[no-untyped-call]
    with pytest.raises(ExportError, match="vectors_from"):
        export(script, EXAMPLE, tmp_path / "gru.onnx", vectors_from=tmp_path / "take.npz")

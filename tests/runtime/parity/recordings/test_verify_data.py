"""`verify(data=...)`: faults that random inputs do not show, and recorded ones do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import stateport
from stateport import InputError
from stateport.parity.vectors import vectors_path
from stateport_exporter import Spec, export


def speech(steps: int = 300, batch: int = 1, loudness: float = 6.0) -> NDArray[np.float32]:
    """Loud in parts, as speech is: random inputs never reach such values."""
    random = np.random.default_rng(0)
    quiet = random.standard_normal((batch, steps, 5))
    quiet[:, steps // 2 :] *= loudness
    return quiet.astype(np.float32)


@pytest.fixture
def clipped(copied: Path) -> Path:
    """A model whose input is clipped where no random number of the vectors lies."""
    model = onnx.load(copied)
    graph = model.graph
    limit = helper.make_tensor("limit", onnx.TensorProto.FLOAT, [], [6.5])
    least = helper.make_tensor("least", onnx.TensorProto.FLOAT, [], [-6.5])
    graph.initializer.extend([limit, least])
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == "x":
                node.input[position] = "x_clipped"
    clip = helper.make_node("Clip", ["x", "least", "limit"], ["x_clipped"], "clip")
    graph.node.insert(0, clip)
    onnx.save(model, copied)
    return copied


@pytest.fixture
def data(reference: Path, tmp_path: Path) -> Path:
    """A folder with a recording and the answers of the right network to it."""
    folder = tmp_path / "data"
    folder.mkdir()
    x = speech()
    y, _ = stateport.load(reference)(x)
    np.savez(folder / "speech.npz", x=x, y=y)
    return folder


def test_a_fault_that_random_data_hides_shows_on_recorded_data(clipped: Path, data: Path) -> None:
    assert stateport.verify(clipped).passed

    matrix = stateport.verify(clipped, data=data)
    assert not matrix.passed
    (report,) = matrix.reports
    off = [m for m in report.measurements if not m.passed and m.output == "y"]
    assert {m.case for m in off} >= {"recorded whole, speech.npz 1x300"}
    assert max(m.error or 0.0 for m in off) > 1e-3


def test_a_right_model_passes_on_recorded_answers(copied: Path, data: Path) -> None:
    matrix = stateport.verify(copied, data=data, engines=["ort-cpu", "onnx-reference"])
    assert matrix.passed
    assert len(matrix.carried) == 2
    compared, *_ = matrix.remarks
    assert "1 recording in" in compared
    assert "y with the recorded answers" in compared
    assert "hn, cn with the whole run of onnx-reference" in compared


def test_without_answers_the_engines_are_held_against_a_whole_run(
    copied: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "speech.npy", speech(batch=2))
    matrix = stateport.verify(copied, data=tmp_path / "speech.npy")
    assert matrix.passed
    assert "compared y, hn, cn with the whole run of onnx-reference" in matrix.remarks[0]
    cases = {m.case.partition(",")[0] for m in matrix.reports[0].measurements}
    assert cases == {"recorded whole", "recorded chunks", "recorded steps"}


def test_a_model_that_forgets_its_state_differs_from_the_whole_run(
    copied: Path, tmp_path: Path
) -> None:
    """Every engine agrees with every other one on such a file, call by call."""
    model = onnx.load(copied)
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    shape = helper.make_node("Shape", [lstm.input[5]], ["shape_of_state"], "forget_shape")
    zeros = helper.make_node("ConstantOfShape", ["shape_of_state"], ["zero_state"], "forget")
    at = list(model.graph.node).index(lstm)
    model.graph.node.insert(at, zeros)
    model.graph.node.insert(at, shape)
    lstm.input[5] = "zero_state"
    onnx.save(model, copied)

    np.savez(tmp_path / "speech.npz", x=speech())
    matrix = stateport.verify(copied, data=tmp_path / "speech.npz")
    failed = {m.case.partition(",")[0] for m in matrix.reports[0].measurements if not m.passed}
    assert failed == {"recorded chunks", "recorded steps"}


def test_data_that_cannot_be_used_fails_before_any_engine_runs(
    copied: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "speech.npz", x=speech().astype(np.float64))
    with pytest.raises(InputError, match="float64"):
        stateport.verify(copied, data=tmp_path / "speech.npz")


def test_data_excludes_vectors_and_locate(copied: Path, data: Path) -> None:
    with pytest.raises(InputError, match="two sets of cases"):
        stateport.verify(copied, data=data, vectors=vectors_path(copied))
    with pytest.raises(InputError, match="locate"):
        stateport.verify(copied, data=data, locate=True)


def test_no_vectors_are_needed_beside_the_model(
    reference: Path, data: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.onnx"
    shutil.copy(reference, alone)
    assert stateport.verify(alone, data=data).passed


def test_the_bound_can_be_set(clipped: Path, data: Path) -> None:
    assert stateport.verify(clipped, data=data, atol=10.0).passed


class Padded(nn.Module):
    """Takes rows of several lengths, which onnx's reference ignores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


def test_where_the_reference_cannot_run_the_next_engine_gives_the_answers(tmp_path: Path) -> None:
    example = (Spec("float32", "batch", "time", 3), Spec("int64", "batch", low=1, high=3))
    export(Padded(), example, tmp_path / "m.onnx", check=False)
    x = np.random.default_rng(0).standard_normal((3, 40, 3)).astype(np.float32)
    np.savez(tmp_path / "take.npz", x=x, lengths=np.array([40, 7, 12]))

    matrix = stateport.verify(tmp_path / "m.onnx", data=tmp_path / "take.npz")
    assert matrix.passed
    assert "with the whole run of ort-cpu (onnxruntime" in matrix.remarks[0]
    assert {m.case for m in matrix.reports[0].measurements} == {"recorded whole, take.npz 3x40"}

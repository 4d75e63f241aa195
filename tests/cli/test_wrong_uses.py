# SPDX-License-Identifier: Apache-2.0
"""What people type wrong: each message says what came, what was expected and what to do."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from models.lstm import ReferenceLSTM
from stateport import EngineError, EngineUnavailable, FileError, InputError, StateError
from stateport.cli import _run_command
from stateport_exporter import ExportError, Spec, export


class Frames(nn.Module):
    """A layer over frames of raw audio."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 4, stride=4)
        self.gru = nn.GRU(4, 3, batch_first=True)

    def forward(self, audio: Tensor) -> Tensor:
        frames = self.conv(audio[:, None]).transpose(1, 2)
        y: Tensor = self.gru(frames)[0]
        return y


@pytest.fixture
def folder(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a model, and files that are none."""
    shutil.copy(reference, tmp_path / "model.onnx")
    weights = ReferenceLSTM().state_dict()
    torch.save(weights, tmp_path / "net.pt")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "scripted.pt", "w") as archive:
        archive.writestr("scripted/constants.pkl", b"")
        archive.writestr("scripted/data.pkl", b"")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 5), np.float32))
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    stateport.State({"h0": np.zeros(3, np.float32)}).save(tmp_path / "state.safetensors")
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    (tmp_path / "page.onnx").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "network.xml").write_text("<?xml version='1.0'?><net/>")
    (tmp_path / "lite.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(40))
    (tmp_path / "fast.ort").write_bytes(b"\x1c\0\0\0ORTM" + bytes(40))
    (tmp_path / "model.onnx.gz").write_bytes(b"\x1f\x8b\x08" + bytes(40))
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = [
    ("exprot", ["There is no command 'exprot'", "Did you mean 'export'?"]),
    ("Verify model.onnx", ["There is no command 'Verify'", "Did you mean 'verify'?"]),
    ("zzz", ["There is no command 'zzz'", "there are bench, contract, deploy, doctor"]),
    ("verify model.onnx --engine ort-gpu", ["no engine 'ort-gpu'", "Did you mean 'ort-cpu'?"]),
    ("verify model.onnx --engine openvno", ["no engine 'openvno'", "Did you mean 'openvino'?"]),
    ("bench model.onnx --engine ort_cpu", ["no engine 'ort_cpu'", "Did you mean 'ort-cpu'?"]),
    ("verify model.onnx --engin ort-cpu", ["No such option", "--engine"]),
    ("verify modle.onnx", ["modle.onnx could not be read", "Did you mean 'model.onnx'?"]),
    ("inspect Model.onnx", ["Model.onnx could not be read", "Did you mean 'model.onnx'?"]),
    ("inspect net.pt", ["net.pt is a PyTorch checkpoint", "stateport export"]),
    ("inspect .", [". is a folder", "an ONNX file was expected"]),
    ("inspect", ["Missing argument 'MODEL.onnx'"]),
    ("run model.onnx -i x=xx.npy", ["xx.npy could not be read", "Did you mean 'x.npy'?"]),
    ("inspect nope.onnx", ["nope.onnx could not be read: No such file or directory."]),
    ("run model.onnx", ["The input 'x' is missing", "the model takes", "Add -i x=FILE.npy"]),
    ("verify model.onnx --atol little", ["'little' is no number", "Write one such as"]),
    ("bench model.onnx --streams 99999999999", ["'99999999999' is not", "at most 999999999"]),
    (
        "export models.lstm:ReferenceLSTM --example float32[batch,time,5] -o new.onnx",
        ["'float32[batch,time,5]' is not of the form NAME=SPEC", "x=float32[batch,time,5]"],
    ),
    ("run model.onnx -i X=x.npy", ["There is no input 'X'", "the model takes"]),
]


@pytest.mark.parametrize(("line", "says"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_command_that_is_typed_wrong(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    says: list[str],
) -> None:
    before = sorted(folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["stateport", *line.split()])
    assert _run_command() in (1, 2)
    printed = capsys.readouterr()
    message = " ".join(printed.err.split())
    assert [part for part in says if part not in message] == [], message
    assert printed.out == ""
    assert sorted(folder.iterdir()) == before


FILES = [
    ("net.pt", "is a PyTorch checkpoint; an ONNX file was expected. Export its network"),
    ("old.pth", "is a pickle, as older versions of PyTorch wrote checkpoints"),
    ("scripted.pt", "is a TorchScript network"),
    ("state.safetensors", "is a safetensors file: weights, a state or vectors"),
    ("x.npy", "is an array of NumPy"),
    ("x.npz", "is an archive of NumPy's arrays"),
    ("pointer.onnx", "is a pointer of Git LFS; .* Fetch the file itself: git lfs pull"),
    ("page.onnx", "is a web page"),
    ("network.xml", "is an XML file, as OpenVINO writes networks"),
    ("lite.tflite", "is a TensorFlow Lite file"),
    ("fast.ort", "is a file of ONNX Runtime's own format"),
    ("model.onnx.gz", "is a gzip archive; .* Unpack it"),
    ("model.onx", r"could not be read: No such file or directory\. Did you mean 'model.onnx'\?"),
    ("nowhere/model.onnx", r"could not be read: No such file or directory\.$"),
]


@pytest.mark.parametrize(("name", "says"), FILES, ids=[name for name, _ in FILES])
def test_a_file_that_is_no_onnx_file(folder: Path, name: str, says: str) -> None:
    with pytest.raises(FileError, match=f"{name} {says}"):
        stateport.load(folder / name)


def model() -> stateport.Model:
    return stateport.load("model.onnx")


def x(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


CALLS: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    (
        "engine",
        lambda: stateport.load("model.onnx", engine="onnxruntime"),
        EngineUnavailable,
        r"no engine 'onnxruntime'; known are ort-cpu, ort-cuda",
    ),
    (
        "engine misspelled",
        lambda: stateport.load("model.onnx", engine="ort-cpuu"),
        EngineUnavailable,
        r"Did you mean 'ort-cpu'\?",
    ),
    (
        "option of an engine",
        lambda: stateport.load("model.onnx", engine="openvino", precison="bfloat16"),
        InputError,
        r"openvino has no option 'precison'; it takes precision\. Did you mean 'precision'\?",
    ),
    (
        "option of CUDA",
        lambda: stateport.load("model.onnx", engine="ort-cuda", devices=1),
        InputError,
        r"no option 'devices'; it takes device and graphs\. Did you mean 'device'\?",
    ),
    (
        "tensor",
        lambda: model()(torch.zeros(1, 3, 5)),  # type: ignore[arg-type]
        InputError,
        r"'x' is a torch\.Tensor; .* was expected\. Convert it: x\.detach\(\)\.cpu\(\)\.numpy\(\)",
    ),
    (
        "list",
        lambda: model().stream()([[0.0] * 5]),  # type: ignore[arg-type]
        InputError,
        r"'x' is a list; .* Convert it: numpy\.array\(x, dtype\)\.",
    ),
    ("dtype", lambda: model()(x(1, 3, 5).astype(float)), InputError, r"x\.astype\('float32'\)"),
    ("no batch", lambda: model()(x(3, 5)), InputError, r"2 dimensions; .* 3 dimensions"),
    ("features", lambda: model()(x(1, 3, 4)), InputError, r"dimension 2 must be 5, not 4"),
    ("nothing", lambda: model()(x(1, 0, 5)), InputError, r"axis 'time' is empty"),
    (
        "dict of states",
        lambda: model()(x(1, 3, 5), {"h0": x(1, 1, 10)}),  # type: ignore[arg-type]
        StateError,
        r"The state is a dict; a stateport\.State was expected",
    ),
    (
        "state of a tensor",
        lambda: stateport.State({"h0": torch.zeros(1)}),  # type: ignore[dict-item]
        StateError,
        r"State 'h0' is a torch\.Tensor; a NumPy array was expected\. Convert it: x\.detach",
    ),
    (
        "state of another batch",
        lambda: model()(x(2, 3, 5), stateport.State({"h0": x(1, 1, 10), "c0": x(1, 1, 10)})),
        StateError,
        r"axis 'batch' is 1, but it is 2 in the other inputs",
    ),
    (
        "threads",
        lambda: stateport.load("model.onnx", threads=0),
        InputError,
        r"threads is 0; a whole number from 1 to 1024 was expected",
    ),
    (
        "not installed here",
        lambda: stateport.load("model.onnx", engine="ort-cuda"),
        EngineError,
        r"ort-cuda",
    ),
    (
        "state among the inputs",
        lambda: model().run({"x": x(1, 3, 5), "h0": x(1, 1, 10)}),
        InputError,
        r"no input 'h0'; .* 'h0' is a state: pass it apart from the inputs",
    ),
    (
        "example that only the command line reads",
        lambda: export(ReferenceLSTM(), "x=float32[batch,time,5]", "new.onnx"),
        ExportError,
        r"The example is 'x=float32\[batch,time,5\]', .* Describe each argument of forward",
    ),
    (
        "text for a Spec",
        lambda: export(ReferenceLSTM(), {"x": "float32[batch,time,5]"}, "new.onnx"),
        ExportError,
        r"has the text 'float32\[batch,time,5\]'; write Spec\.parse\('float32",
    ),
    (
        "array for a Spec",
        lambda: export(ReferenceLSTM(), [x(1, 3, 5)], "new.onnx"),
        ExportError,
        r"has a NumPy array; write torch\.from_numpy\(array\), or a Spec",
    ),
    (
        "weights in memory",
        lambda: export(
            ReferenceLSTM(),
            ReferenceLSTM().example_inputs,
            "new.onnx",
            weights=ReferenceLSTM().state_dict(),  # type: ignore[arg-type]
        ),
        ExportError,
        r"weights= is a collections\.OrderedDict; .* network\.load_state_dict\(weights\)",
    ),
    (
        "another name of time",
        lambda: export(Frames(), Spec("float32", "batch", "samples"), "new.onnx"),
        ExportError,
        r"over the axis '\(samples//4\)'\. Call the axis .* 'time' in the example, not 'samples'",
    ),
    ("full pool", lambda: model().pool(1).open(2), InputError, r"this pool holds 1\. Close some"),
]


@pytest.mark.parametrize(
    ("call", "error", "says"), [row[1:] for row in CALLS], ids=[row[0] for row in CALLS]
)
@pytest.mark.usefixtures("folder")
def test_a_call_that_is_typed_wrong(
    call: Callable[[], object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        call()

"""`stateport export`: what it writes, and how it finds the network, its weights and its example."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import stateport
from models.lstm import ReferenceLSTM
from stateport import cli
from stateport.parity.vectors import vectors_path
from stateport_exporter import export

Command = Callable[..., "subprocess.CompletedProcess[str]"]

LSTM = "models.lstm:ReferenceLSTM"
WRITTEN = ["m.onnx", "m.vectors.safetensors"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    path = tmp_path / "out"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def test_the_real_command_writes_a_model_that_verifies(process: Command, folder: Path) -> None:
    outcome = process("export", LSTM, "-o", "m.onnx", cwd=folder)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert names(folder) == WRITTEN
    for line in ("input   x: float32[batch, time, 5]", "PASS: 20 cases on ort-cpu"):
        assert line in outcome.stdout
    assert "state   h0 -> hn: float32[1, batch, 10]" in outcome.stdout
    assert process("verify", "m.onnx", cwd=folder).returncode == 0


def test_arguments_weights_and_opset_reach_the_network(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    network = ReferenceLSTM(hidden_size=4, num_layers=2, seed=7)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    arguments = ["--arg", "hidden_size=4", "--arg", "num_layers=2", "--arg", "batch_first=True"]
    weights = ["--weights", tmp_path / "w.safetensors", "--opset", "18"]
    outcome = command("export", LSTM, "-o", "m.onnx", *arguments, *weights)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "constructed" not in outcome.stdout
    x = np.random.default_rng(0).standard_normal((2, 3, 5), np.float32)
    y, _ = stateport.load("m.onnx")(x)
    with torch.no_grad():
        expected, _, _ = network(torch.from_numpy(x), torch.zeros(2, 2, 4), torch.zeros(2, 2, 4))
    np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=1e-6)
    document = json.loads(command("inspect", "m.onnx", "--json").stdout)
    assert document["opsets"] == {"ai.onnx": 18}
    assert document["origin"]["target"] == LSTM
    assert document["origin"]["arguments"] == {
        "hidden_size": 4,
        "num_layers": 2,
        "batch_first": True,
    }


def test_weights_of_torch_save_give_the_same_file_as_safetensors(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    weights = ReferenceLSTM(seed=7).state_dict()
    torch.save(weights, tmp_path / "w.pt")
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    contents = []
    for name in ("w.pt", "w.safetensors"):
        outcome = command("export", LSTM, "-o", "m.onnx", "--weights", tmp_path / name)
        assert outcome.returncode == 0, outcome.stderr
        contents.append((folder / "m.onnx").read_bytes())
    assert contents[0] == contents[1]


def test_an_example_may_be_specs(command: Command, folder: Path) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.lstm = nn.LSTM(3, 4, batch_first=True)\n"
        "    def forward(self, x, h, c):\n"
        "        y, (h, c) = self.lstm(x, (h, c))\n"
        "        return y, h, c\n"
    )
    specs = ["x=float32[batch,time,3]", "h=float32[1,batch,4]", "c=float32[1, batch, 4]"]
    options = [part for text in specs for part in ("--example", text)]
    outcome = command("export", "net.py:Net", "-o", "m.onnx", *options)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "The weights are those that net.py:Net was constructed with" in outcome.stdout
    contract = stateport.load("m.onnx").contract
    assert [str(state) for state in contract.states] == [
        "h -> h_n: float32[1, batch, 4]",
        "c -> c_n: float32[1, batch, 4]",
    ]


def test_an_example_may_be_a_function_of_another_file(command: Command, folder: Path) -> None:
    (folder / "example_of_a_test.py").write_text(
        "import torch\n"
        "def make(batch, time):\n"
        "    zeros = torch.zeros(1, batch, 10)\n"
        "    return torch.randn(batch, time, 5), zeros, zeros\n"
    )
    outcome = command("export", LSTM, "-o", "m.onnx", "--example", "example_of_a_test.py:make")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert stateport.load("m.onnx").contract.axes == {"batch", "time"}


def test_a_network_of_the_working_folder_is_found_as_a_module(
    command: Command, folder: Path
) -> None:
    code = "from models.lstm import ReferenceLSTM\nnet = ReferenceLSTM()\n"
    (folder / "module_of_a_test.py").write_text(code)
    outcome = command("export", "module_of_a_test:net", "-o", "m.onnx")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "constructed" not in outcome.stdout, "it may have been trained"


@pytest.fixture
def mixer(folder: Path) -> list[str]:
    """A network that adds two signals, and what it takes."""
    (folder / "mixer.py").write_text(
        "from torch import nn\n"
        "class Mixer(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(3, 3)\n"
        "    def forward(self, x, skip):\n"
        "        return self.linear(x) + skip\n"
    )
    specs = ["x=float32[batch,3]", "skip=float32[batch,3]"]
    options = [part for text in specs for part in ("--example", text)]
    return ["export", "mixer.py:Mixer", "-o", "m.onnx", *options]


def test_what_looks_like_a_state_and_is_none_is_noted(command: Command, mixer: list[str]) -> None:
    outcome = command(*mixer)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert (
        "note: argument 'skip' and result '1' have the same shape, float32[batch, 3], and were not "
        "taken as a state; --state skip=1 makes them a state, --no-state skip hides this note."
    ) in outcome.stdout
    assert "state  " not in outcome.stdout


@pytest.mark.patterns
@pytest.mark.parametrize(
    ("options", "states"), [(["--no-state", "skip"], []), (["--state", "skip=1"], ["skip"])]
)
def test_states_may_be_declared(
    command: Command, mixer: list[str], options: list[str], states: list[str]
) -> None:
    outcome = command(*mixer, *options)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "note:" not in outcome.stdout
    assert [state.input for state in stateport.load("m.onnx").contract.states] == states


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--state", "skip"], 2, "'skip' is not of the form INPUT=OUTPUT"),
        (["--state", "skip=1", "--state", "skip=2"], 2, "name 'skip' twice"),
        (["--state", "skip=1", "--no-state", "skip"], 2, "name 'skip' twice"),
        (
            ["--no-state", "skp"],
            1,
            "The declared argument 'skp' does not exist; the arguments are x",
        ),
    ],
)
def test_states_that_are_declared_wrong(
    command: Command, mixer: list[str], options: list[str], code: int, says: str
) -> None:
    outcome = command(*mixer, *options)
    assert outcome.returncode == code, outcome.stderr
    assert says in " ".join(outcome.stderr.split())
    assert not Path("m.onnx").exists()


def test_the_same_network_gives_the_same_bytes(command: Command, folder: Path) -> None:
    contents = []
    for _ in range(2):
        assert command("export", LSTM, "-o", "m.onnx").returncode == 0
        contents.append([(folder / name).read_bytes() for name in WRITTEN])
    assert contents[0] == contents[1]
    assert names(folder) == WRITTEN


def test_a_failed_export_leaves_the_old_files_alone(
    command: Command, folder: Path, reference: Path
) -> None:
    shutil.copy(reference, "m.onnx")
    shutil.copy(vectors_path(reference), "m.vectors.safetensors")
    before = [(folder / name).read_bytes() for name in WRITTEN]
    assert command("export", LSTM, "-o", "m.onnx", "--opset", "99").returncode == 1
    assert names(folder) == WRITTEN
    assert [(folder / name).read_bytes() for name in WRITTEN] == before


def test_a_network_that_cannot_stream_says_so(command: Command, folder: Path) -> None:
    outcome = command("export", LSTM, "-o", "m.onnx", "--arg", "bidirectional=True")
    assert outcome.returncode == 0
    assert "It cannot stream: lstm is bidirectional" in outcome.stdout


def test_where_only_the_runtime_is_installed_export_says_how_to_get_the_exporter(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_plugins", dict)
    outcome = command("export", LSTM, "-o", "m.onnx", "--opset", "20")
    assert outcome.returncode == 1
    assert "Install it: pip install stateport-exporter" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "export" in command("--help").stdout


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("check", [[], ["--no-check"]])
def test_what_a_library_prints_never_reaches_stdout(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, check: list[str]
) -> None:
    # As onnxscript 0.5.6 does from inside PyTorch's exporter.
    original = torch.onnx.export

    def chatty(*args: object, **named: object) -> object:
        print("Applied 2 of general pattern rewrite rules.")  # noqa: T201
        return original(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.onnx, "export", chatty)
    outcome = command("export", LSTM, "-o", "m.onnx", *check)
    assert outcome.returncode == 0
    assert "Applied" in outcome.stderr
    assert "Applied" not in outcome.stdout
    assert outcome.stdout.startswith("input   x: float32[batch, time, 5]\n")


def test_what_a_networks_code_prints_never_reaches_stdout(process: Command, folder: Path) -> None:
    (folder / "chatty.py").write_text(
        "from torch import nn\n"
        "print('imported')\n"
        "class Chatty(nn.LSTM):\n"
        "    def forward(self, x):\n"
        "        print('stepping')\n"
        "        return super().forward(x)\n"
    )
    target = ["chatty.py:Chatty", "--arg", "input_size=5", "--arg", "hidden_size=4"]
    example = ["--example", "x=float32[time,batch,5]"]
    outcome = process("export", *target, *example, "-o", "m.onnx", cwd=folder)
    assert outcome.returncode == 0, outcome.stderr
    assert {"imported", "stepping"} <= set(outcome.stderr.splitlines())
    assert outcome.stdout.startswith("input   x: float32[time, batch, 5]\n")


def test_what_a_library_prints_never_reaches_the_stdout_of_a_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = torch.onnx.export

    def chatty(*args: object, **named: object) -> object:
        print("Applied 2 of general pattern rewrite rules.")  # noqa: T201
        return original(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.onnx, "export", chatty)
    network = ReferenceLSTM()
    export(network, network.example_inputs, "m.onnx", check=False)
    assert capsys.readouterr().out == ""

"""TorchScript as a target: scripted and traced modules, and files of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport import FileError
from stateport_exporter import ExportError, ExportResult, Spec, export
from stateport_exporter.errors import TargetError
from stateport_exporter.foreign.torchscript import _check_writes
from stateport_exporter.network.loading import load_target

X = Spec("float32", "batch", "time", 8)
STATE = Spec("float32", 2, "batch", 16)


class Hidden(nn.Module):
    """States that nobody sees."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, 2, batch_first=True)
        self.gru = nn.GRU(16, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x)
        result: Tensor = self.gru(y)[0]
        return result


class Open(nn.Module):
    """States that are passed."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, 2, batch_first=True)

    def forward(self, x: Tensor, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h0, c0))
        return y.tanh(), h, c


class Counting(nn.Module):
    """A module that keeps something to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.lstm(x)[0] + self.calls
        return result


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old
        made: torch.jit.ScriptModule = torch.jit.script(module.eval())
    return made


def traced(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
            module.eval(), torch.randn(3, 7, 8)
        )
    return made


def check(result: ExportResult, module: torch.jit.ScriptModule) -> None:
    """What the module gives for the whole, in chunks of any length."""
    assert result.contract.streaming.ok
    assert result.report is not None
    assert result.report.passed
    assert result.report.steps == 2048
    x = np.random.default_rng(0).standard_normal((3, 20, 8), np.float32)
    zeros = [torch.zeros(2, 3, 16)] * (len(result.contract.states) if not result.lifted else 0)
    with torch.no_grad():
        made = module(torch.from_numpy(x), *zeros)
    want = (made[0] if zeros else made).numpy()
    stream = stateport.load(result.path).stream()
    parts = [stream(part) for part in np.split(x, [1, 2, 9], 1)]
    np.testing.assert_allclose(np.concatenate(parts, 1), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", [scripted, traced])
def test_hidden_states_are_lifted(
    tmp_path: Path, make: Callable[[nn.Module], torch.jit.ScriptModule]
) -> None:
    torch.manual_seed(0)
    module = make(Hidden())
    result = export(module, (X,), tmp_path / "m.onnx")
    assert len(result.lifted) == 5
    assert [(s.name, s.shape) for s in result.contract.inputs] == [("x", ("batch", "time", 8))]
    assert [(s.name, s.shape) for s in result.contract.outputs] == [("y", ("batch", "time", 8))]
    check(result, module)


def test_explicit_states_keep_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = scripted(Open())
    result = export(module, (X, STATE, STATE), tmp_path / "m.onnx")
    assert result.lifted == ()
    assert [(s.input, s.output) for s in result.contract.states] == [("h0", "hn"), ("c0", "cn")]
    check(result, module)


def test_a_file_is_a_target(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(Hidden()), tmp_path / "net.pt")
    module = load_target(str(tmp_path / "net.pt"), {})
    assert isinstance(module, torch.jit.ScriptModule)
    export(module, (X,), tmp_path / "m.onnx")


def test_what_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    with pytest.raises(FileError, match=r"none\.pt could not be read: No such file"):
        load_target(str(tmp_path / "none.pt"), {})
    for name in ("weights.pt", "garbage.pt"):
        with pytest.raises(TargetError, match=r"no file that torch.jit.save wrote .*--weights"):
            load_target(str(tmp_path / name), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(Hidden()), tmp_path / "net.pt")
    with pytest.raises(TargetError, match="takes no arguments"):
        load_target(str(tmp_path / "net.pt"), {"size": 3})


def test_a_module_that_remembers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="gives something else when it is called again"):
        export(scripted(Counting()), (X,), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


class Keeping(nn.Module):
    """A module that keeps something, by which it does something else only later, or never."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.calls, self.after = 0, after
        self.log: Any = torch.jit.Attribute([], list[Tensor])
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count.add_(1)  # type: ignore[operator]
        self.log.append(x)
        result: Tensor = self.lstm(x)[0]
        if self.after == "calls" and self.calls > 50:
            result = result * 2
        if self.after == "log" and len(self.log) > 50:
            result = result * 2
        if self.after == "count":
            result = result * self.count  # type: ignore[operator]
        return result


def frozen(after: str) -> Any:
    """The module with one way alone to do something else later."""
    network = scripted(Keeping(after))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(network, preserved_attrs=["calls", "log", "count"])


@pytest.mark.parametrize("name", ["calls", "log", "count"])
def test_a_module_that_may_do_otherwise_later_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match=f"depend on '{name}'"):
        _check_writes(frozen(name))


def test_a_module_that_only_counts_is_taken() -> None:
    _check_writes(frozen(""))


class Choosing(nn.Module):
    """Looks into a list of its own, which changes nothing in it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.rates = [8000, 16000]

    def forward(self, x: Tensor, rate: int = 8000) -> Tensor:
        result: Tensor = self.lstm(x)[0]
        return result if rate in self.rates else -result


def test_a_module_that_looks_into_a_list_is_taken() -> None:
    _check_writes(scripted(Choosing()))


def test_a_trace_that_froze_time_cannot_be_fed_in_chunks(tmp_path: Path) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(x.size(0), 8)
            for t in range(x.size(1)):
                h = self.cell(x[:, t], h)
            return h

    result = export(traced(Loop()), (X,), tmp_path / "m.onnx")  # what the trace itself does
    assert not result.contract.streaming.ok


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float16"}, {"lift": False}, {"method": "step"}, {"weights": "w.safetensors"}],
)
def test_what_needs_python_code_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ExportError):
        export(scripted(Hidden()), (X,), tmp_path / "m.onnx", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_part_of_torchscript_is_refused(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = scripted(nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.inner(x)
            return result

    with pytest.raises(ExportError, match="A part of the network is TorchScript"):
        export(Mixed(), (X,), tmp_path / "m.onnx")

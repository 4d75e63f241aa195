"""An export leaves the process as it was, and depends on nothing that is set in it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from stateport.parity.vectors import Vectors
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.network.isolation import (
    unchanged_globals,
    unchanged_process,
    usual_settings,
)

X = Spec("float32", "batch", "time", 5)


def _process() -> dict[str, Any]:
    """What is set for the whole process."""
    numbers = signal.valid_signals()
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": [*sys.path],
        "warnings": [*warnings.filters],
        "levels": {name: logging.getLogger(name).level for name in ("", "torch", "torch.onnx")},
        "signals": {number: signal.getsignal(number) for number in numbers},
        "numpy": np.geterr(),
        "profile": sys.getprofile(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "device": torch.empty(0).device,
        "generator": torch.get_rng_state().tolist(),
    }


def _meddle(folder: Path) -> None:
    os.environ["STATEPORT_MEDDLED"] = "1"
    os.environ.pop("HOME", None)
    os.chdir(folder)
    sys.path.insert(0, "nowhere")
    warnings.simplefilter("ignore")
    logging.getLogger("torch").setLevel(logging.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    np.seterr(all="ignore")


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_process_is_put_back(error: type[BaseException] | None, tmp_path: Path) -> None:
    before = _process()
    with pytest.raises(error) if error else nullcontext(), unchanged_process():
        _meddle(tmp_path)
        if error:
            raise error
    assert _process() == before


class Meddling(nn.Module):
    """Sets things in forward; `fails` says in which call it raises something."""

    def __init__(self, folder: Path, fails: int = 0) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.folder = folder
        self.calls, self.fails = 0, fails

    def forward(self, x: Tensor) -> Tensor:
        if self.fails:  # a counter that decides something is refused, so others do not count
            self.calls += 1
            if self.calls == self.fails:
                raise RuntimeError(f"call {self.calls} of this network")
        if self.folder.exists():
            _meddle(self.folder)
        return self.gru(x)[0]  # type: ignore[no-any-return]


def test_an_export_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    network = Meddling(tmp_path)
    before = _process()
    export(network, (X,), tmp_path / "m.onnx")
    assert _process() == before


@pytest.mark.parametrize("call", [2, 3, 4, 5])
def test_a_forward_that_fails_later_is_told_with_its_line(call: int, tmp_path: Path) -> None:
    network = Meddling(tmp_path / "none", call)
    before = _process()
    message = rf"fails when it is run again \(test_isolation.py:\d+, .*RuntimeError: call {call} of"
    with pytest.raises(ExportError, match=message) as raised:
        export(network, (X,), tmp_path / "m.onnx")
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert _process() == before
    assert list(tmp_path.iterdir()) == []


class Leaving(Meddling):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 4:
            sys.exit(3)
        return self.gru(x)[0]  # type: ignore[no-any-return]


def test_a_forward_that_leaves_the_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"fails when it is run again .*SystemExit: 3"):
        export(Leaving(tmp_path / "none"), (X,), tmp_path / "m.onnx")


def _default_device(name: str) -> Callable[[], AbstractContextManager[Any]]:
    class Default(AbstractContextManager[Any]):
        def __enter__(self) -> None:
            torch.set_default_device(name)

        def __exit__(self, *_: object) -> None:
            torch.set_default_device(None)

    return Default


class _Double(AbstractContextManager[Any]):
    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "the device meta": _default_device("meta"),
    "a device that is not here": _default_device("cuda:7"),
    "a device around": lambda: torch.device("meta"),
    "double precision": _Double,
    "inference": lambda: torch.inference_mode(),
    "no gradients": lambda: torch.no_grad(),
    "half precision": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_hangs_on_what_is_set_around(name: str) -> None:
    with SETTINGS[name](), usual_settings():
        x = torch.ones(2, 2)
        y = x @ x
        assert x.device.type == "cpu"
        assert x.dtype == y.dtype == torch.float32
        assert not x.is_inference()
    assert torch.ones(1).dtype == torch.float32


@pytest.mark.patterns
@pytest.mark.parametrize("name", SETTINGS)
def test_an_export_is_the_same_whatever_is_set(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Meddling(tmp_path / "none")
    plain = export(network, (X,), tmp_path / "plain.onnx")
    with SETTINGS[name]():
        before = torch.is_inference_mode_enabled(), torch.get_default_dtype()
        other = export(network, (X,), tmp_path / "other.onnx")
        assert (torch.is_inference_mode_enabled(), torch.get_default_dtype()) == before
    assert plain.path.read_bytes() == other.path.read_bytes()
    assert Vectors.load(plain.vectors).truth == Vectors.load(other.vectors).truth == "float64"


def test_a_network_made_in_inference_mode_is_exported(tmp_path: Path) -> None:
    with torch.inference_mode():
        network = Meddling(tmp_path / "none")
    assert export(network, (X,), tmp_path / "m.onnx").report is not None


def test_a_network_without_values_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = Meddling(tmp_path / "none")
    with pytest.raises(ExportError, match="on the device meta, where it has no values"):
        export(network, (X,), tmp_path / "m.onnx")


class _FunctionMode(TorchFunctionMode):
    pass


class _DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    pass


def _active_modes() -> list[Any]:
    functions = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [*functions, *_get_current_dispatch_mode_stack()]


@pytest.mark.parametrize("mode", [_FunctionMode, _DispatchMode])
def test_a_mode_that_nobody_leaves_is_left(mode: Any) -> None:
    """A signal may come between a mode's beginning and the block that ends it."""
    with mode() as outer:
        with unchanged_globals():
            mode().__enter__()
        assert [each is outer for each in _active_modes()] == [True]


class Interrupted(nn.Module):
    """Ctrl-C in a callback of PyTorch's C++, which makes a RuntimeError of it."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("Python error details: KeyboardInterrupt: <EMPTY MESSAGE>")


def test_ctrl_c_inside_of_pytorch_ends_an_export(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(Interrupted(), X, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []

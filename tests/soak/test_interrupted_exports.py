"""Exports that a signal ends at a random moment. Run by `make soak`."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import stateport
from stateport.parity.vectors import vectors_path
from stateport_exporter import Spec, export

#: So many exports are ended. Each takes seconds.
MANY = 200


class Remembering(nn.Module):
    """A network with what an export must not touch: a buffer, a hook, dropout, training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("scale", torch.ones(4))
        self.gru.register_forward_hook(lambda *_: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(x)
        return self.dropout(y) * self.scale  # type: ignore[no-any-return]


@pytest.fixture
def alarm() -> Iterator[None]:
    """Ctrl-C, whenever the timer ends."""

    def ring(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def world(module: nn.Module) -> dict[str, Any]:
    """All that belongs to the caller."""
    return {
        "weights": {name: tensor.tolist() for name, tensor in module.state_dict().items()},
        "training": [part.training for part in module.modules()],
        "hooks": [len(part._forward_hooks) for part in module.modules()],
        "attributes": [sorted(vars(part)) for part in module.modules()],
        "forward": [type(part).forward for part in module.modules()],
        "gradients": [parameter.requires_grad for parameter in module.parameters()],
        "python": random.getstate(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "onednn": torch.backends.mkldnn.enabled,
        "modes": (len(_get_current_dispatch_mode_stack()), torch._C._len_torch_function_stack()),
        "environment": dict(os.environ),
        "warnings": len(warnings.filters),
        "loggers": [logging.getLogger(n).level for n in ("", "torch.onnx", "torch.export")],
        "folder": Path.cwd(),
    }


# Python ignores what a weak reference's callback raises: such an export goes on to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_export_that_is_ended_changes_nothing(alarm: None, tmp_path: Path) -> None:
    spec = (Spec("float32", "batch", "time", 3),)
    module = Remembering().train()
    for number in range(2):  # the first one loads what PyTorch loads on demand
        begun = time.perf_counter()
        export(module, spec, tmp_path / f"{number}.onnx")
        duration = time.perf_counter() - begun
    whole = (tmp_path / "1.onnx").read_bytes()
    folder = tmp_path / "ended"
    folder.mkdir()

    chance, before, ended, finished = random.Random(0), world(module), 0, 0  # noqa: S311
    while ended < MANY:
        path = folder / "m.onnx"
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0, duration))
            export(module, spec, path)
            signal.setitimer(signal.ITIMER_REAL, 0)
            finished += 1
        except KeyboardInterrupt:
            ended += 1
        assert world(module) == before
        names = {file.name for file in folder.iterdir()}
        assert names in (set(), {"m.onnx", "m.vectors.safetensors"})
        if names:
            assert path.read_bytes() == whole
            vectors_path(path).unlink()
            path.unlink()

    export(module, spec, path)
    assert path.read_bytes() == whole
    assert stateport.verify(path).passed

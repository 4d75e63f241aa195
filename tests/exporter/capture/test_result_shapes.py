"""Results whose axes are computed from batch and time, and results of no fixed shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import Spec, export

X = Spec("float32", "batch", "time", 5)


class Shaped(nn.Module):
    """A GRU and what becomes of its output."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gru = nn.GRU(5, 4, batch_first=True)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.gru(x)[0])


@pytest.mark.patterns
@pytest.mark.parametrize(
    ("function", "shape", "reason"),
    [
        (lambda y: y.reshape(-1, 4), ("batch*time", 4), None),
        (lambda y: y.repeat_interleave(2, 1), ("batch", "2*time", 4), None),
        (lambda y: y[:, ::2], ("batch", "(time + 1)//2", 4), None),
        (lambda y: y[:, 1:], ("batch", "time - 1", 4), "cuts off the first step of each call"),
        (lambda y: y @ y.transpose(1, 2), ("batch", "time", "time"), "multiplies steps"),
    ],
    ids=["flattened", "doubled", "halved", "shortened", "every step with every other"],
)
def test_axes_that_are_computed(
    function: Callable[[Tensor], Any],
    shape: tuple[Any, ...],
    reason: str | None,
    tmp_path: Path,
    judged: Callable[[Path], EngineReport],
) -> None:
    result = export(Shaped(function), (X,), tmp_path / "m.onnx")
    assert result.contract.outputs[0].shape == shape
    assert (reason or "None") in str(result.contract.streaming.reason)
    assert [(s.input, s.output) for s in result.contract.states] == [("h0", "hn")]
    report = judged(result.path)
    assert report.passed
    # The check can fail: a wrong element in the middle of any case is found.
    vectors = Vectors.load(vectors_path(result.path))
    for case in vectors.cases:
        truth = case.truth["y"]
        if truth.size:
            truth[len(truth) // 2] += 0.1
    vectors.save(vectors_path(result.path))
    wrong = [m for m in judged(result.path).measurements if m.output == "y"]
    assert all(
        m.passed == (not len(c.truth["y"])) for m, c in zip(wrong, vectors.cases, strict=True)
    )

"""A slow network gets fewer and shorter cases, and is told so; all others get every case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stateport.parity.vectors import Case, Vectors
from stateport_exporter import Spec, export
from stateport_exporter.vectors import allowance as allowance_module
from stateport_exporter.vectors.allowance import Allowance


class _Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _case(*chunks: int, batch: int = 1) -> Case:
    return Case("a case", "model", {"batch": batch}, chunks, {}, {})


def _spend(allowance: Allowance, clock: _Clock, case: Case, seconds: float) -> None:
    with allowance.measured(case):
        clock.now += seconds


def test_a_network_within_the_bound_is_recorded_in_full() -> None:
    clock = _Clock()
    allowance = Allowance(100.0, clock)
    _spend(allowance, clock, _case(64), 0.01)
    assert allowance.calls(_case(513, batch=5)) == 1
    _spend(allowance, clock, _case(*[1] * 64), 0.02)
    assert allowance.calls(_case(*[1] * 2048)) == 2048
    assert allowance.copies(8) == 8
    assert allowance.notes == ()


def test_a_long_sequence_that_would_take_too_long_is_left_out() -> None:
    clock = _Clock()
    allowance = Allowance(100.0, clock)
    _spend(allowance, clock, _case(64), 4.0)
    assert allowance.calls(_case(513)) == 0
    assert allowance.notes == (
        "'a case' was left out: its recording would take 96 s, and all of it may take 100 s",
    )


def test_short_sequences_are_never_left_out() -> None:
    clock = _Clock()
    allowance = Allowance(100.0, clock)
    _spend(allowance, clock, _case(7), 1000.0)
    assert allowance.calls(_case(64, batch=5)) == 1
    assert allowance.calls(_case(*[1] * 64)) == 64


def test_a_chain_of_slow_calls_is_cut() -> None:
    clock = _Clock()
    allowance = Allowance(100.0, clock)
    _spend(allowance, clock, _case(*[1] * 64), 8.0)
    # 0.125 s a call and three runs: half of the remaining 92 s is enough for 122 calls.
    assert allowance.calls(_case(*[1] * 2048)) == 122
    assert "cut to 122 calls" in allowance.notes[0]


def test_a_chain_keeps_as_many_calls_as_the_steps_of_short_sequences() -> None:
    clock = _Clock()
    allowance = Allowance(100.0, clock)
    _spend(allowance, clock, _case(*[1] * 64), 640.0)
    assert allowance.calls(_case(*[1] * 2048)) == 64


def test_rounding_is_measured_on_fewer_copies_where_each_is_slow() -> None:
    clock = _Clock()
    allowance = Allowance(100.0, clock)
    _spend(allowance, clock, _case(513), 20.0)
    # 80 s remain, of which the two runs in float32 take 40.
    assert allowance.copies(8) == 2
    assert "on 2 of 8 copies" in allowance.notes[0]


def test_there_is_always_one_copy() -> None:
    clock = _Clock()
    allowance = Allowance(100.0, clock)
    _spend(allowance, clock, _case(513), 500.0)
    assert allowance.copies(8) == 1


class _Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x)[0]
        return y


def test_what_was_shortened_is_in_the_result_and_the_file_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(allowance_module.Allowance.__init__, "__defaults__", (0.0, lambda: 0.0))
    # No time passes and none is allowed: what was measured costs nothing, so all is recorded.
    result = export(_Gru(), (Spec("float32", "batch", "time", 3),), tmp_path / "all.onnx")
    assert result.notes == ()

    ticks = iter(range(1_000_000))
    monkeypatch.setattr(
        allowance_module.Allowance.__init__, "__defaults__", (1.0, lambda: float(next(ticks)))
    )
    result = export(_Gru(), (Spec("float32", "batch", "time", 3),), tmp_path / "short.onnx")
    assert len(result.notes) == 5  # three long sequences, the chain and the copies
    assert result.report is not None
    assert result.report.passed
    cases = Vectors.load(result.vectors).cases
    assert max(sum(case.chunks) for case in cases) < 513
    assert {case.sizes["batch"] for case in cases} == {1, 2, 5}

"""The roofline: which weights count, and what a call takes at least."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from stateport import StateportError
from stateport.bench import roofline
from stateport.bench.roofline import Ceilings, Work, measure_ceilings, work_of
from stateport.bench.workload import Workload
from stateport.model_file.onnx_outline import read
from stateport_exporter import Spec, export


def test_a_call_reads_every_weight_and_multiplies_it_with_every_row() -> None:
    ceilings = Ceilings(1, bandwidth=100.0, peak=1000.0)
    work = Work(weights=25, nbytes=100)
    assert ceilings.least(work, Workload(1, 1)) == 1.0, "one row: the memory is the limit"
    assert ceilings.least(work, Workload(200, 1)) == 10.0, "many rows: the arithmetic is"
    assert ceilings.least(work, Workload(20, 10)) == 10.0, "and steps are as good as rows"


def test_matrices_count_and_biases_do_not(reference: Path) -> None:
    work = work_of(read(reference))
    assert (work.weights, work.nbytes) == (40 * 15, 4 * 40 * 15)


def test_of_an_embedding_a_call_reads_only_a_few_rows(tmp_path: Path) -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(1000, 5)
            self.lstm = nn.LSTM(5, 10, batch_first=True)

        def forward(self, ids: Tensor) -> Tensor:
            y, _ = self.lstm(self.table(ids))
            result: Tensor = y
            return result

    ids = Spec("int64", "batch", "time", high=999)
    path = export(Embedded(), (ids,), tmp_path / "m.onnx", check=False).path
    assert work_of(read(path)).weights == 40 * 15


def test_the_machine_is_measured() -> None:
    ceilings = measure_ceilings(1, 2400)
    assert ceilings.bandwidth > 0
    assert ceilings.peak > 0


def test_a_measurement_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_THREADS", ("PYTHONHOME",))  # no interpreter comes up with that
    with pytest.raises(StateportError, match=r"ceilings could not be measured: .+"):
        measure_ceilings(1, 2400)


def test_steps_that_are_taken_together_use_most_weights_once() -> None:
    ceilings, work = Ceilings(1, 100.0, 40.0), Work(1, 4)
    assert ceilings.least(work, Workload(200, 160), multiple=160) == 10.0
    assert ceilings.least(work, Workload(200, 100), multiple=160) == 10.0

# SPDX-License-Identifier: Apache-2.0
"""A data set on Ray: exactly what the model gives for each row alone, also if a worker dies.

Run by `make ray-check`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from numpy.typing import NDArray

import stateport
import stateport.ray
from stateport import InputError
from tests.ray.conftest import KIND
from tests.ray.processes import processes

Array = NDArray[np.float32]
CLOSE = 2e-6
#: Ray warns of its own use of what it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


def check(
    rows: list[dict[str, Any]], reference: Path, sequences: list[Array], close: float
) -> None:
    model = stateport.load(reference)
    assert [row["number"] for row in rows] == [*range(len(sequences))]
    for row, x in zip(rows, sequences, strict=True):
        expected = model(x[None])[0][0]
        assert row["error"] is None
        y = np.array([*row["y"]], np.float32)
        assert y.shape == expected.shape
        assert np.abs(y - expected).max() <= close


@pytest.mark.parametrize(("batch", "close"), [(1, 0.0), (32, CLOSE)])
def test_two_workers_give_what_the_model_gives(
    reference: Path, folder: Path, sequences: list[Array], batch: int, close: float
) -> None:
    data = ray.data.from_arrow(tables(folder))
    answers = stateport.ray.predict(data, reference, input="x", batch=batch, workers=2)
    check(answers.take_all(), reference, sequences, close)


def test_a_worker_that_is_killed_is_replaced(
    reference: Path, folder: Path, sequences: list[Array]
) -> None:
    data = ray.data.from_arrow(tables(folder))
    answers = stateport.ray.predict(data, reference.read_bytes(), batch=1, rows=50, workers=2)
    rows: list[dict[str, Any]] = []
    killed: list[int] = []
    for row in answers.iter_rows():
        if len(rows) in (50, 10_000) and len(killed) < 2:
            [worker, *_] = processes("ray::MapWorker")
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
        rows.append(row)
    assert len(killed) == 2
    check(rows, reference, sequences, 0.0)


def test_rows_that_fail_have_their_message(reference: Path) -> None:
    table = pa.table({"audio": pa.array([[[0.0] * 5], None, []], KIND)})
    answers = stateport.ray.predict(
        ray.data.from_arrow(table), reference, input="audio", output="speech"
    ).take_all()
    assert [row["speech"] is None for row in answers] == [False, True, True]
    assert answers[0]["error"] is None
    assert "is null" in answers[1]["error"]
    assert "is empty" in answers[2]["error"]


def test_states_are_columns_in_and_out(reference: Path) -> None:
    """The second half of a sequence goes on from the state after the first half."""
    x = np.random.default_rng(1).standard_normal((30, 8, 5)).astype(np.float32)
    halves = [pa.array(half.tolist(), KIND) for half in (x[:, :4], x[:, 4:])]
    answers = stateport.ray.predict(
        ray.data.from_arrow(pa.table({"x": halves[0], "rest": halves[1]})),
        reference,
        input="x",
        output="first",
        states_out={"hn": "h", "cn": "c"},
    )
    answers = stateport.ray.predict(
        answers.drop_columns(["error"]),
        reference,
        input="rest",
        states_in={"h0": "h", "c0": "c"},
    )
    expected, _ = stateport.load(reference)(x)
    for row, y in zip(answers.take_all(), expected, strict=True):
        assert row["error"] is None
        found = np.array([*row["first"], *row["y"]], np.float32)
        assert np.abs(found - y).max() <= CLOSE


def test_what_does_not_fit_is_refused_before_any_work(reference: Path, folder: Path) -> None:
    data = ray.data.from_arrow(tables(folder))
    for options, says in (
        ({"input": "number"}, "nothing is cast silently"),
        ({"input": {"z": "x"}}, "There is no input 'z'"),
        ({"output": "x"}, "has a column 'x' already"),
        ({"output": {"z": "w"}}, "There is no output 'z'"),
        ({"states_in": {"h0": "x"}}, "for each of the axes [1, 10]"),
        ({"states_in": {"h": "x"}}, "There is no state 'h'"),
        ({"states_out": {"hn": "y"}}, "2 columns would have the name 'y'"),
        ({"batch": 0}, "batch is 0"),
        ({"rows": 0}, "rows is 0"),
        ({"input": 3}, "The columns of each input are 3; a column's name was expected"),
        ({"output": {"y": 3}}, "The columns of each output are {'y': 3}"),
    ):
        with pytest.raises(InputError) as error:
            stateport.ray.predict(data, reference, **options)
        assert says in str(error.value)

    with pytest.raises(InputError, match=r"dataset is a list; a ray.data.Dataset was expected"):
        stateport.ray.predict([], reference)


def tables(folder: Path) -> list[pa.Table]:
    """A table for each file: Ray makes a block of each, and gives whole blocks to workers."""
    return [pq.read_table(path) for path in sorted(folder.iterdir())]

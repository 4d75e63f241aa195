# SPDX-License-Identifier: Apache-2.0
"""Sequences of mixed lengths: each answer is what the model gives for that sequence alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import stateport
from stateport import ArraySpec, Contract, InputError, Model, StreamingError
from stateport.datasets.rows import Answer, run_rows
from tests.conftest import Exported
from tests.runtime.conftest import Build

Array = NDArray[Any]
CLOSE = 2e-6  # in batches of other sizes an engine may sum in another order


def sequences(count: int, seed: int = 0, longest: int = 30) -> list[Mapping[str, Array]]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    return [{"x": random.standard_normal((n, 5)).astype(np.float32)} for n in lengths]


def alone(model: Model, row: Mapping[str, Array]) -> Array:
    y: Array = model(row["x"][None])[0][0]
    return y


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("chunk", [None, 8])
def test_answers_are_those_of_each_alone(reference: Path, batch: int, chunk: int | None) -> None:
    model = stateport.load(reference)
    rows = sequences(100)
    answers = run_rows(model, rows, chunk=chunk, batch=batch)
    assert len(answers) == len(rows)
    for row, answer in zip(rows, answers, strict=True):
        expected = alone(model, row)
        assert answer.error is None
        assert answer.outputs["y"].shape == expected.shape
        if batch == 1 and chunk is None:
            assert np.array_equal(answer.outputs["y"], expected)
        else:
            assert np.abs(answer.outputs["y"] - expected).max() <= CLOSE


def test_time_first_is_joined_along_the_right_axis(exported: Exported) -> None:
    model = stateport.load(exported(batch_first=False))
    rows = sequences(20)
    for row, answer in zip(rows, run_rows(model, rows, chunk=4), strict=True):
        expected = model(row["x"][:, None])[0][:, 0]
        assert np.abs(answer.outputs["y"] - expected).max() <= CLOSE


def test_a_row_that_fails_takes_no_other_with_it(counter: Path) -> None:
    model = stateport.load(counter)  # index 3 is not in its table
    rows = [{"x": np.array(value)} for value in (0, 1, 3, 2, 0)]
    answers = run_rows(model, rows)
    assert [answer.error is None for answer in answers] == [True, True, False, True, True]
    assert answers[3].outputs["y"].tolist() == [3, 30]
    assert "ort-cpu" in str(answers[2].error) or "indices" in str(answers[2].error)


def test_rows_of_a_wrong_shape_or_name_fail_by_themselves(reference: Path) -> None:
    model = stateport.load(reference)
    good = sequences(1)[0]
    rows: list[Mapping[str, Array] | Answer] = [
        {"x": np.zeros((4, 6), np.float32)},
        good,
        {"x": np.zeros((0, 5), np.float32)},
        {"x": np.zeros((4, 5))},
        {"x": np.zeros((), np.float32)},
        {"z": np.zeros((4, 5), np.float32)},
        Answer(error="broken before"),
    ]
    errors = [answer.error or "" for answer in run_rows(model, rows)]
    assert "dimension 2 must be 5, not 6" in errors[0]
    assert errors[1] == ""
    assert "is empty" in errors[2]
    assert "float64" in errors[3]
    assert errors[4]
    assert "'z'" in errors[5]
    assert errors[6] == "broken before"


def test_rows_that_see_each_other_run_alone(build: Build) -> None:
    spec = ArraySpec("x", "float32", ("batch", 2))
    contract = Contract((spec,), (ArraySpec("y", "float32", ("batch", 2)),))
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    axis = numpy_helper.from_array(np.array([0], np.int64), "axis")
    model = stateport.load(build(contract, nodes, initializers=[axis]))
    rows = [{"x": np.array([n, n], np.float32)} for n in range(5)]
    assert all(not answer.outputs["y"].any() for answer in run_rows(model, rows))


PADDED = Contract(
    inputs=(
        ArraySpec("x", "float32", ("time", "batch")),
        ArraySpec("lengths", "int64", ("batch",), lengths_of="time"),
    ),
    outputs=(
        ArraySpec("y", "float32", ("time", "batch")),
        ArraySpec("n", "int64", ("batch",)),
    ),
)


def test_sequences_get_their_lengths_where_the_network_takes_them(build: Build) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Identity", ["lengths"], ["n"]),
    ]
    model = stateport.load(build(PADDED, nodes))
    rows = [{"x": np.arange(1, n + 1, dtype=np.float32)} for n in (3, 1, 5, 2, 5)]
    answers = run_rows(model, rows, batch=3)
    for row, answer in zip(rows, answers, strict=True):
        assert answer.outputs["y"].tolist() == row["x"].tolist()
        assert answer.outputs["n"] == len(row["x"])

    with pytest.raises(InputError, match="takes the length of each row"):
        run_rows(model, rows, chunk=2)


@pytest.mark.parametrize("batch", [1, 32])
def test_no_sequence_is_padded_as_a_network_may_compute_with_the_padding(
    build: Build, batch: int
) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["y"]),
        helper.make_node("Identity", ["lengths"], ["n"]),
    ]
    mean = ArraySpec("y", "float32", (1, "batch"))
    contract = replace(PADDED, outputs=(mean, PADDED.outputs[1]))
    axis = numpy_helper.from_array(np.array([0], np.int64), "axis")
    model = stateport.load(build(contract, nodes, initializers=[axis]))
    rows = [{"x": np.ones(n, np.float32)} for n in (2, 4, 6, 4)]
    answers = run_rows(model, rows, batch=batch)
    assert [answer.outputs["y"].tolist() for answer in answers] == [[1]] * 4
    assert [int(answer.outputs["n"]) for answer in answers] == [2, 4, 6, 4]


def test_options_that_do_not_fit_are_refused(reference: Path, build: Build) -> None:
    model = stateport.load(reference)
    for options in ({"batch": 0}, {"chunk": 0}, {"batch": 1.5}):
        with pytest.raises(InputError, match="a whole number of at least 1"):
            run_rows(model, [], **options)

    spec = ArraySpec("x", "float32", ("batch", 2))
    timeless = Contract((spec,), (ArraySpec("y", "float32", ("batch", 2)),))
    one_step = stateport.load(build(timeless, [helper.make_node("Identity", ["x"], ["y"])]))
    with pytest.raises(InputError, match="has no time axis"):
        run_rows(one_step, [], chunk=2)

    x, y = (ArraySpec(name, "float32", ("batch", "time")) for name in "xy")
    whole = Contract((x,), (y,), streaming=stateport.Streaming(False, "it looks ahead"))
    model = stateport.load(build(whole, [helper.make_node("Identity", ["x"], ["y"])]))
    with pytest.raises(StreamingError, match="it looks ahead"):
        run_rows(model, [], chunk=2)

    fours = Contract((x,), (y,), streaming=stateport.Streaming(True, None, chunk_multiple=4))
    model = stateport.load(build(fours, [helper.make_node("Identity", ["x"], ["y"])]))
    with pytest.raises(InputError, match=r"takes multiples of 4\. Pass a chunk of 8"):
        run_rows(model, [], chunk=6)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("chunk", [None, 8])
def test_sequences_go_on_from_their_states(reference: Path, batch: int, chunk: int | None) -> None:
    """The second half of each sequence goes on from the state after the first half."""
    model = stateport.load(reference)
    rows = [row for row in sequences(60) if len(row["x"]) > 1]
    halves = [{"x": row["x"][: len(row["x"]) // 2]} for row in rows]
    firsts = run_rows(model, halves, chunk=chunk, batch=batch)
    rests: list[Mapping[str, Array]] = [
        {"x": row["x"][len(row["x"]) // 2 :], **first.state}
        for row, first in zip(rows, firsts, strict=True)
    ]
    rests.append(rows[0])  # from the first state, beside those that have one
    answers = run_rows(model, rests, chunk=chunk, batch=batch)
    for row, first, answer in zip(rows, firsts, answers[:-1], strict=True):
        y, state = model(row["x"][None])
        found = np.concatenate([first.outputs["y"], answer.outputs["y"]])
        assert np.abs(found - y[0]).max() <= CLOSE
        assert answer.state.keys() == state.keys()
        for name, array in state.items():
            assert np.abs(answer.state[name] - array[:, 0]).max() <= CLOSE
    assert np.abs(answers[-1].outputs["y"] - alone(model, rows[0])).max() <= CLOSE


def test_a_row_with_half_a_state_fails(reference: Path) -> None:
    model = stateport.load(reference)
    row = sequences(1)[0]
    state = {"h0": np.zeros((1, 10), np.float32)}
    broken, wrong, good = run_rows(
        model, [{**row, **state}, {**row, "h0": state["h0"][:, 1:], "c0": state["h0"]}, row]
    )
    assert "c0" in str(broken.error)
    assert "h0" in str(wrong.error)
    assert good.error is None

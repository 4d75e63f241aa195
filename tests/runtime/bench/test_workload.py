"""Loads: what is called, with what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import stateport
from stateport import InputError
from stateport.bench.workload import Workload, random_inputs, step_call
from stateport.contract import ArraySpec, Contract, Streaming
from tests.conftest import Exported


def test_one_sequence_carries_its_state(reference: Path) -> None:
    call = step_call(stateport.load(reference), Workload(1, 3))
    first, second = call(), call()
    assert first.shape == (1, 3, 10)
    assert not np.array_equal(first, second)


def test_several_step_together(reference: Path) -> None:
    call = step_call(stateport.load(reference), Workload(7, 2))
    first, second = call(), call()
    assert first.shape == (7, 2, 10)
    assert not np.array_equal(first, second)


def test_what_cannot_stream_is_called_whole(exported: Exported) -> None:
    call = step_call(stateport.load(exported(bidirectional=True)), Workload(3, 4))
    outputs, _ = call()
    assert outputs["y"].shape == (3, 4, 20)


def test_inputs_are_of_the_kind_that_the_contract_wants() -> None:
    contract = Contract(
        inputs=(
            ArraySpec("x", "float32", ("batch", "time", 5)),
            ArraySpec("ids", "int64", ("batch", "time")),
            ArraySpec("lengths", "int64", ("batch",), lengths_of="time"),
            ArraySpec("mask", "bool", ("batch", "other")),
        ),
        outputs=(),
        states=(),
        streaming=Streaming(ok=True),
    )
    inputs = random_inputs(contract, Workload(6, 9))
    assert {name: x.shape for name, x in inputs.items()} == {
        "x": (6, 9, 5), "ids": (6, 9), "lengths": (6,), "mask": (6, 4),
    }  # fmt: skip
    assert [str(x.dtype) for x in inputs.values()] == ["float32", "int64", "int64", "bool"]
    assert set(inputs["lengths"]) == {9}
    assert 0 <= inputs["ids"].min() <= inputs["ids"].max() < 4
    again = random_inputs(contract, Workload(6, 9))
    assert all(np.array_equal(inputs[name], again[name]) for name in inputs)


def test_axes_that_are_not_there_are_refused(reference: Path) -> None:
    model = stateport.load(reference)
    fixed = Contract(
        inputs=(ArraySpec("x", "float32", (1, 5)),),
        outputs=model.contract.outputs,
        states=model.contract.states,
        streaming=Streaming(ok=True),
    )
    one = stateport.Model(fixed, model._engine)
    with pytest.raises(InputError, match="no time axis, and 2 steps were requested"):
        step_call(one, Workload(1, 2))
    with pytest.raises(InputError, match="no batch axis, and 2 streams were requested"):
        step_call(one, Workload(2, 1))


def test_a_load_says_what_it_is() -> None:
    assert [str(Workload(1, 1)), str(Workload(64, 10))] == [
        "1 stream, 1 step",
        "64 streams, 10 steps",
    ]

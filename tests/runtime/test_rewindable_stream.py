# SPDX-License-Identifier: Apache-2.0
"""Streams that go back: the last calls are undone, on every engine."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import EngineError, InputError, Model, StateError

Array = NDArray[np.float32]
ENGINES = ("ort-cpu", "openvino", "tract", "onnx-reference")


@pytest.fixture(scope="module", params=ENGINES)
def model(reference: Path, request: pytest.FixtureRequest) -> Model:
    return stateport.load(reference, engine=request.param)


def chunks(count: int) -> list[Array]:
    random = np.random.default_rng(0)
    return [random.standard_normal((2, 1 + n % 3, 5)).astype("f4") for n in range(count)]


def test_it_gives_what_a_plain_stream_gives(model: Model) -> None:
    plain, stream = model.stream(), model.stream(history=2)
    for x in chunks(6):
        np.testing.assert_allclose(stream(x), plain(x), rtol=0, atol=1e-6)
    for name, array in plain.state.items():
        np.testing.assert_allclose(stream.state[name], array, rtol=0, atol=1e-6)


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_what_is_undone_leaves_no_trace(model: Model, calls: int) -> None:
    fed = chunks(8)
    stream = model.stream(history=4)
    for x in fed[:4]:
        stream(x)
    before = stream.state
    for x in fed[4 : 4 + calls]:
        stream(x)
    assert stream.state != before

    stream.rewind(calls)
    assert stream.state == before
    assert stream.rewindable == 4 - calls


def test_a_sequence_goes_back_to_its_beginning(model: Model) -> None:
    fed = chunks(3)
    stream = model.stream(history=8)
    first = [stream(x) for x in fed]
    assert stream.rewindable == 3
    stream.rewind(3)
    for x, y in zip(fed, first, strict=True):
        np.testing.assert_array_equal(stream(x), y)


def test_more_calls_than_are_kept_are_refused(reference: Path) -> None:
    model = stateport.load(reference)
    stream = model.stream(history=2)
    for x in chunks(5):
        stream(x)
    before = stream.state
    with pytest.raises(StateError, match=r"rewind\(3\) goes too far back: .* are 2\. .* history=2"):
        stream.rewind(3)
    assert stream.state == before
    stream.rewind(2)
    with pytest.raises(StateError, match=r"rewind\(1\) goes too far back: .* are 0"):
        stream.rewind()

    with pytest.raises(StateError, match=r"keeps no earlier states.*history=N"):
        model.stream().rewind()
    assert model.stream().rewindable == 0


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "1"])
def test_wrong_numbers_are_refused(reference: Path, wrong: object) -> None:
    model = stateport.load(reference)
    with pytest.raises(InputError, match="a number of calls was expected, 1 or more"):
        model.stream(history=2).rewind(wrong)  # type: ignore[arg-type]
    if wrong != 0:
        with pytest.raises(InputError, match="a number of calls was expected, 0 or more"):
            model.stream(history=wrong)  # type: ignore[arg-type]


def test_restore_and_reset_begin_anew(reference: Path) -> None:
    stream = stateport.load(reference).stream(history=4)
    fed = chunks(4)
    for x in fed:
        stream(x)
    saved = stream.state
    stream.restore(saved)
    assert stream.rewindable == 0
    assert stream.state == saved

    stream.reset()
    with pytest.raises(StateError, match="no state yet"):
        _ = stream.state
    stream(fed[0][:1])
    assert stream.state["h0"].shape == (1, 1, 10)
    with pytest.raises(InputError, match=r"has batch 2, but .* batch 1\. Call reset\(\)"):
        stream(fed[1])
    assert stream.rewindable == 1


def test_a_copy_has_the_history_and_goes_on_alone(reference: Path) -> None:
    stream = stateport.load(reference).stream(history=4)
    fed = chunks(3)
    stream(fed[0])
    start = stream.state
    stream(fed[1])
    other = copy.copy(stream)
    other.rewind()
    assert other.state == start
    assert stream.state != start
    assert "begun, batch 2" in repr(other)


def test_a_call_that_fails_is_no_call(counter: Path) -> None:
    stream = stateport.load(counter).stream(history=4)
    stream(np.array([1]))
    before = stream.state
    with pytest.raises(EngineError):
        stream(np.array([99]))
    assert stream.state == before
    assert stream.rewindable == 1


def test_outputs_by_name(reference: Path) -> None:
    model = stateport.load(reference)
    x = chunks(1)[0]
    named = model.stream(history=1).run({"x": x})
    np.testing.assert_array_equal(named["y"], model.stream()(x))

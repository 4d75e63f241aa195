"""The stream: one live sequence. Its state is carried for the user, nothing is done unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import stateport
from stateport import EngineError, InputError, Model, State, StateError, StreamingError

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 3))
def test_chunks_give_what_the_whole_gives(model: Model, chunks: list[int], batch: int) -> None:
    x = normal(batch, sum(chunks))
    whole, after = model(x)
    stream = model.stream()
    pieces = [stream(piece) for piece in np.split(x, np.cumsum(chunks)[:-1], axis=1)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=1e-6)
    for name, array in stream.state.items():
        np.testing.assert_allclose(array, after[name], rtol=0, atol=1e-6)


def test_a_stream_gives_what_the_model_gives_with_the_state_passed_by_hand(model: Model) -> None:
    stream, state = model.stream(), None
    for seed in range(5):
        x = normal(2, 3, seed)
        y, state = model(x, state)
        np.testing.assert_array_equal(stream(x), y)
        assert stream.state == state


def test_a_saved_state_is_not_altered_by_later_steps(model: Model) -> None:
    stream = model.stream()
    stream(normal(1, 4))
    saved = stream.state
    before = {name: array.copy() for name, array in saved.items()}
    stream(normal(1, 4, seed=1))
    assert saved == State(before)
    assert stream.state != saved


def test_an_output_is_not_altered_by_later_steps(model: Model) -> None:
    stream = model.stream()
    y = stream(normal(1, 4))
    assert isinstance(y, np.ndarray)
    before = y.copy()
    for seed in range(5):
        stream(normal(1, 4, seed))
    np.testing.assert_array_equal(y, before)


def test_writing_into_inputs_and_outputs_does_not_reach_the_stream(model: Model) -> None:
    one, other = model.stream(), model.stream()
    x = normal(1, 4)
    y = one(x)
    other(x.copy())
    assert isinstance(y, np.ndarray)
    x[:] = y[:] = 7
    assert one.state == other.state
    np.testing.assert_array_equal(one(normal(1, 2, 1)), other(normal(1, 2, 1)))


def test_the_arrays_of_a_streams_state_cannot_be_written_to(model: Model) -> None:
    stream = model.stream()
    stream(normal(1, 1))
    with pytest.raises(ValueError, match="read-only"):
        stream.state["h0"][:] = 0


def test_restore_goes_on_from_a_state(model: Model) -> None:
    stream = model.stream()
    stream(normal(1, 4))
    saved = stream.state
    first = stream(normal(1, 4, seed=1))
    stream.restore(saved)
    assert stream.state == saved
    np.testing.assert_array_equal(stream(normal(1, 4, seed=1)), first)


def test_a_restored_state_is_not_altered_by_later_steps(model: Model) -> None:
    mine = {name: np.zeros((1, 1, 10), np.float32) for name in ("h0", "c0")}
    state = State(mine)
    stream = model.stream()
    stream.restore(state)
    stream(normal(1, 4))
    assert state == State(mine)
    assert not state["h0"].any()


def test_a_state_may_move_to_another_stream_and_another_batch(model: Model) -> None:
    one, other = model.stream(), model.stream()
    one(normal(2, 4))
    other(normal(3, 1))
    other.restore(one.state)
    np.testing.assert_array_equal(other(normal(2, 4, 1)), one(normal(2, 4, 1)))


def test_reset_begins_a_new_sequence_of_any_batch(model: Model) -> None:
    stream = model.stream()
    first = stream(normal(2, 4))
    stream.reset()
    np.testing.assert_array_equal(stream(normal(2, 4)), first)
    stream.reset()
    stream(normal(3, 1))
    assert stream.state["h0"].shape == (1, 3, 10)


def test_a_stream_that_has_not_begun_has_no_state(model: Model) -> None:
    stream = model.stream()
    with pytest.raises(StateError, match="no state yet"):
        _ = stream.state
    stream(normal(1, 1))
    stream.reset()
    with pytest.raises(StateError, match="no state yet"):
        _ = stream.state


def test_another_batch_in_the_middle_is_refused_and_changes_nothing(model: Model) -> None:
    stream = model.stream()
    stream(normal(2, 3))
    before = stream.state
    with pytest.raises(InputError, match=r"has batch 3, but .* batch 2\. Call reset\(\)"):
        stream(normal(3, 3))
    assert stream.state == before
    stream(normal(2, 3))


@pytest.mark.parametrize(
    "x",
    [np.zeros((2, 1, 5)), np.zeros((2, 5), np.float32), np.zeros((2, 0, 5), np.float32), [1.0]],
    ids=["dtype", "rank", "empty", "list"],
)
def test_a_chunk_that_does_not_fit_is_refused_and_changes_nothing(model: Model, x: object) -> None:
    stream = model.stream()
    stream(normal(2, 3))
    before = stream.state
    with pytest.raises(InputError):
        stream(x)  # type: ignore[arg-type]
    assert stream.state == before


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (State({}), "state 'c0' is missing"),
        (State({"h0": np.zeros((1, 1, 10))}), "state 'c0' is missing"),
        (
            State({"h0": np.zeros((1, 1, 10), "f4"), "c0": np.zeros((1, 2, 10), "f4")}),
            "axis 'batch' is 2, but it is 1",
        ),
        ({}, "The state is a dict"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    model: Model, state: State, says: str
) -> None:
    stream = model.stream()
    stream(normal(2, 3))
    before = stream.state
    with pytest.raises(StateError, match=says):
        stream.restore(state)
    assert stream.state == before


def test_a_call_that_fails_in_the_engine_leaves_the_state_as_it_was(counter: Path) -> None:
    stream = stateport.load(counter).stream()
    np.testing.assert_array_equal(stream(np.array([0])), [[1, 10]])
    with pytest.raises(EngineError, match="ONNX Runtime failed"):
        stream(np.array([99]))
    np.testing.assert_array_equal(stream.state["h0"], [[1, 10]])
    np.testing.assert_array_equal(stream(np.array([1])), [[3, 30]])


def test_a_first_call_that_fails_begins_nothing(counter: Path) -> None:
    stream = stateport.load(counter).stream()
    with pytest.raises(EngineError):
        stream(np.array([99]))
    with pytest.raises(StateError, match="no state yet"):
        _ = stream.state
    np.testing.assert_array_equal(stream(np.array([0, 1])), [[1, 10], [2, 20]])


def test_a_network_without_a_time_axis_streams_call_by_call(counter: Path) -> None:
    stream = stateport.load(counter).stream()
    answers = [stream(np.array([index, 0])) for index in (0, 1, 2)]
    np.testing.assert_array_equal(answers[-1], [[6, 60], [3, 30]])


def test_two_streams_never_see_each_other(model: Model) -> None:
    alone = model.stream()
    expected = [alone(normal(2, 3, seed)) for seed in range(4)]
    one, other = model.stream(), model.stream()
    for seed in range(4):
        np.testing.assert_array_equal(one(normal(2, 3, seed)), expected[seed])
        other(normal(5, 2, seed + 10))
        model(normal(2, 3, seed + 20))


def test_inputs_and_outputs_by_name(two: Path) -> None:
    stream = stateport.load(two).stream()
    ones = np.ones((3, 2), np.float32)
    outputs = stream.run({"a": ones, "b": ones})
    np.testing.assert_array_equal(outputs["sum"], 2 * ones)
    np.testing.assert_array_equal(outputs["difference"], 0 * ones)
    with pytest.raises(InputError, match="pass them by name"):
        stream(ones)


def test_a_network_without_state_has_an_empty_state(two: Path) -> None:
    stream = stateport.load(two).stream()
    stream.run(dict.fromkeys(("a", "b"), np.ones((3, 2), np.float32)))
    assert stream.state == State({})


def test_a_bidirectional_network_is_refused_with_the_reason(
    exported: Callable[..., Path],
) -> None:
    model = stateport.load(exported(bidirectional=True))
    with pytest.raises(
        StreamingError, match="lstm is bidirectional: its backward half needs the whole sequence"
    ):
        model.stream()


def normal(batch: int, time: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((batch, time, 5), np.float32)

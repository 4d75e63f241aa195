"""Streams and pools whose buffers are no arrays of NumPy, as on a GPU; here in the CPU's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import stateport
from stateport import EngineError, Model
from stateport.engines.device_array import DeviceArray


def on_device(path: Path) -> Model:
    """A model whose engine asks for buffers as `ort-cuda` does."""
    model = stateport.load(path)

    def zeros(shape: tuple[int, ...], dtype: object) -> DeviceArray:
        return DeviceArray(onnxruntime, shape, dtype, ("cpu", 0))

    model._engine.zeros = zeros  # type: ignore[method-assign, assignment]
    return model


@pytest.fixture
def model(reference: Path) -> Model:
    return on_device(reference)


def test_a_stream_gives_what_it_gives_with_arrays(model: Model, reference: Path) -> None:
    one, other = stateport.load(reference).stream(), model.stream()
    random = np.random.default_rng(0)
    for number, chunk in enumerate([1, 1, 7, 1, 30, 7, 1, 1]):
        x = random.standard_normal((3, chunk, 5), np.float32)
        np.testing.assert_array_equal(other(x), one(x))
        if number == 3:
            other.restore(one.state)
        if number == 5:
            one.reset()
            other.reset()
    for name, array in one.state.items():
        assert isinstance(other._buffers._current[name], DeviceArray)
        np.testing.assert_array_equal(other.state[name], array)


def test_a_stream_keeps_its_buffers_and_gives_its_outputs_away(model: Model) -> None:
    stream, x = model.stream(), np.ones((2, 1, 5), np.float32)
    first = stream(x)
    kept, before = first.copy(), buffers(stream)
    for _ in range(3):
        stream(x)
    stream.restore(stream.state)
    stream(x)
    assert buffers(stream) == before
    np.testing.assert_array_equal(first, kept)


def buffers(stream: stateport.Stream) -> set[int]:
    """Where the state lies."""
    return {b.value.data_ptr() for states in stream._buffers._states for b in states.values()}


def test_a_pool_gives_what_it_gives_with_arrays(model: Model, reference: Path) -> None:
    random = np.random.default_rng(0)
    pools = (stateport.load(reference).pool(9), model.pool(9))
    for number in range(60):
        for pool in pools:
            if len(pool) < 9 and number % 3 == 0:
                pool.open(min(3, 9 - len(pool)))
            if number % 10 == 9:
                pool.close(pool.streams[1:3])
        some = random.permutation(pools[0].streams)[: 1 + number % len(pools[0])]
        some = pools[0].streams if number % 2 else some
        x = random.standard_normal((len(some), 1, 5), np.float32)
        one, other = (pool.step(some, x) for pool in pools)
        np.testing.assert_array_equal(other, one)
    stream = int(pools[0].streams[1])
    saved = pools[0][stream].state
    np.testing.assert_array_equal(pools[1][stream].state["h0"], saved["h0"])
    pools[1][stream].state = stateport.State({name: -a for name, a in saved.items()})
    np.testing.assert_array_equal(pools[1][stream].state["c0"], -saved["c0"])


def test_a_call_that_fails_leaves_the_state(counter: Path) -> None:
    stream = on_device(counter).stream()
    stream(np.array([0, 1]))
    before = stream.state
    with pytest.raises(EngineError):
        stream(np.array([0, 99]))
    np.testing.assert_array_equal(stream.state["h0"], before["h0"])
    np.testing.assert_array_equal(stream(np.array([2, 2])), [[4, 40], [5, 50]])

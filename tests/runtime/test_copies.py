"""Copies and pickles of models, streams and pools: right, or refused in words."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stateport
from stateport import Model, StateError, StateportError
from tests.cutting import total, write_sums

ONES = np.ones((1, 1, 2), np.float32)
copiers = pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
pickles = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return stateport.load(write_sums(tmp_path / "sums.onnx"))


@copiers
def test_a_copy_of_a_model_is_the_model(model: Model, copier: Callable[[Any], Any]) -> None:
    assert copier(model) is model
    assert copier([model])[0] is model


@copiers
def test_a_copy_of_a_stream_goes_on_by_itself(model: Model, copier: Callable[[Any], Any]) -> None:
    stream = model.stream()
    for _ in range(2):
        stream(ONES)
    other = copier(stream)
    np.testing.assert_array_equal(other(5 * ONES), 5 * ONES + 7 * ONES)
    np.testing.assert_array_equal(total(stream.state), 2 * ONES[0])
    np.testing.assert_array_equal(stream(ONES), ONES + 3 * ONES)
    np.testing.assert_array_equal(total(other.state), 7 * ONES[0])
    other.reset()
    np.testing.assert_array_equal(total(stream.state), 3 * ONES[0])


@copiers
def test_a_copy_of_a_stream_that_has_not_begun_has_not_either(
    model: Model, copier: Callable[[Any], Any]
) -> None:
    stream = model.stream()
    other = copier(stream)
    stream(ONES)
    with pytest.raises(StateError, match="no state yet"):
        _ = other.state
    stream.reset()
    other = copier(stream)
    other(np.concatenate([ONES, ONES]))
    with pytest.raises(StateError, match="no state yet"):
        _ = stream.state


def test_one_stream_twice_in_a_deep_copy_is_one(model: Model) -> None:
    stream = model.stream()
    stream(ONES)
    one, other = copy.deepcopy([stream, stream])
    assert one is other
    assert one is not stream


@copiers
def test_a_copy_of_a_pool_is_refused(model: Model, copier: Callable[[Any], Any]) -> None:
    pool = model.pool(2)
    pool.open()
    with pytest.raises(StateportError, match=r"cannot be copied or pickled.*other\[b\].state"):
        copier(pool)
    with pytest.raises(StateportError, match="cannot be copied"):
        copy.deepcopy(pool[0])
    np.testing.assert_array_equal(pool.step([0], ONES), 2 * ONES)


@pickles
def test_a_pickle_is_refused(model: Model, protocol: int) -> None:
    stream, pool = model.stream(), model.pool(1)
    stream(ONES)
    pool.open()
    for value, says in (
        (model, "A model cannot be pickled.*path"),
        (stream, "A stream cannot be pickled.*state"),
        (pool, "A pool cannot be copied or pickled.*states"),
        (pool[0], "A pool cannot be copied or pickled"),
        ({"a": [stream]}, "A stream cannot be pickled"),
    ):
        with pytest.raises(StateportError, match=says):
            pickle.dumps(value, protocol)
    stream(ONES)

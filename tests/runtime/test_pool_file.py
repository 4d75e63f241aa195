"""All streams of a pool in one file: they go on in another pool, and in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

import stateport
from stateport import FileError, InputError, StateError
from tests.conftest import Exported


def chunk(streams: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((streams, 3, 5)).astype(np.float32)


def test_all_streams_go_on_in_another_pool(reference: Path, tmp_path: Path) -> None:
    model = stateport.load(reference)
    pool = model.pool(capacity=80)
    streams = pool.open(70)
    pool.close(streams[10:16])  # the rows have gaps
    streams = pool.streams
    pool.step(streams, chunk(64, 0))
    pool.save(tmp_path / "pool.safetensors")

    other = model.pool(capacity=200)
    already = other.open(3)  # a pool with streams of its own
    moved = other.restore(tmp_path / "pool.safetensors")
    assert list(moved) == streams.tolist()
    assert len(other) == 67
    assert not {*already.tolist()} & {*moved.values()}

    order = streams[::-1]  # each stream has its own state, whatever the order
    here = pool.step(order, chunk(64, 1))
    there = other.step([moved[stream] for stream in order.tolist()], chunk(64, 1))
    assert np.array_equal(here, there)


RESTORED = """
import sys
import numpy as np
import stateport
model, file, x = sys.argv[1:]
pool = stateport.load(model).pool(capacity=64)
moved = pool.restore(file)
np.save(x + ".out.npy", pool.step([*moved.values()], np.load(x)))
"""


def test_all_streams_go_on_in_another_process(reference: Path, tmp_path: Path) -> None:
    pool = stateport.load(reference).pool(capacity=64)
    streams = pool.open(64)
    pool.step(streams, chunk(64, 0))
    pool.save(tmp_path / "pool.safetensors")
    np.save(tmp_path / "x.npy", chunk(64, 1))

    paths = [reference, tmp_path / "pool.safetensors", tmp_path / "x.npy"]
    subprocess.run(
        [sys.executable, "-c", RESTORED, *map(str, paths)], check=True, env={**os.environ}
    )
    there = np.load(tmp_path / "x.npy.out.npy")
    assert np.array_equal(pool.step(streams, chunk(64, 1)), there)


def test_the_file_is_a_state_too(reference: Path, tmp_path: Path) -> None:
    pool = stateport.load(reference).pool(capacity=4)
    streams = pool.open(3)
    pool.step(streams, chunk(3, 0))
    pool.save(tmp_path / "pool.safetensors")
    state = stateport.State.load(tmp_path / "pool.safetensors")
    assert state["h0"].shape == (1, 3, 10)
    assert np.array_equal(state["h0"][:, 1:2], pool[int(streams[1])].state["h0"])


def test_nothing_is_opened_where_there_is_no_room(reference: Path, tmp_path: Path) -> None:
    model = stateport.load(reference)
    pool = model.pool(capacity=4)
    pool.open(4)
    pool.save(tmp_path / "pool.safetensors")

    small = model.pool(capacity=3)
    with pytest.raises(InputError, match="3"):
        small.restore(tmp_path / "pool.safetensors")
    assert len(small) == 0


def test_an_empty_pool_has_nothing_to_save(reference: Path, tmp_path: Path) -> None:
    pool = stateport.load(reference).pool(capacity=4)
    with pytest.raises(InputError, match="no open streams"):
        pool.save(tmp_path / "pool.safetensors")
    assert not (tmp_path / "pool.safetensors").exists()


def test_one_stream_is_not_taken_for_a_pool(reference: Path, tmp_path: Path) -> None:
    model = stateport.load(reference)
    stream = model.stream()
    stream(chunk(1, 0))
    stream.state.save(tmp_path / "one.safetensors")
    with pytest.raises(FileError, match=r"State\.load"):
        model.pool(capacity=4).restore(tmp_path / "one.safetensors")


@pytest.mark.parametrize(
    ("streams", "error"),
    [
        ([1, 1], FileError),
        ([1, "2"], FileError),
        ([True, 2], FileError),
        ([], FileError),
        ({"a": 1}, FileError),
        ([1, 2, 3], StateError),
    ],
)
def test_a_file_that_was_changed_is_refused(
    streams: object, error: type[Exception], reference: Path, tmp_path: Path
) -> None:
    model = stateport.load(reference)
    pool = model.pool(capacity=4)
    pool.open(2)
    pool.save(tmp_path / "pool.safetensors")

    arrays = safetensors.numpy.load_file(tmp_path / "pool.safetensors")
    metadata = {"stateport.state": "1", "stateport.pool.streams": json.dumps(streams)}
    safetensors.numpy.save_file(arrays, tmp_path / "changed.safetensors", metadata)
    other = model.pool(capacity=4)
    with pytest.raises(error):
        other.restore(tmp_path / "changed.safetensors")
    assert len(other) == 0


def test_states_of_another_network_are_refused(
    reference: Path, exported: Exported, tmp_path: Path
) -> None:
    pool = stateport.load(exported(hidden_size=7)).pool(capacity=4)
    pool.open(2)
    pool.save(tmp_path / "pool.safetensors")
    with pytest.raises(StateError):
        stateport.load(reference).pool(capacity=4).restore(tmp_path / "pool.safetensors")

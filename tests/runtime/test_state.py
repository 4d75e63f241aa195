"""The state: a plain value that can be kept, compared and written down."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stateport import FileError, State, StateError

DTYPES = [np.float32, np.float64, np.float16, np.int64, np.int8, np.uint8, np.bool_]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    )
)


@pytest.fixture
def state() -> State:
    random = np.random.default_rng(0)
    return State({name: random.standard_normal((1, 2, 3)).astype("f4") for name in ("h0", "c0")})


@given(content=st.dictionaries(st.text(min_size=1, max_size=4), arrays, max_size=3))
def test_a_state_comes_back_from_its_file(
    content: dict[str, NDArray[np.generic]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    State(content).save(path)
    assert State.load(path) == State(content)
    assert State.from_bytes(State(content).to_bytes()) == State(content)
    assert State(content).to_bytes() == path.read_bytes()


def test_a_state_is_a_mapping(state: State) -> None:
    assert list(state) == ["h0", "c0"]
    assert len(state) == 2
    assert state["h0"].shape == (1, 2, 3)
    assert repr(state) == "State(h0=float32[1, 2, 3], c0=float32[1, 2, 3])"


def test_a_state_is_a_copy_of_the_arrays_that_it_is_made_from() -> None:
    array = np.zeros(3, np.float32)
    state = State({"h0": array})
    array[:] = 1
    assert not state["h0"].any()


@pytest.mark.parametrize(
    "again",
    [lambda s: s, State, copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))],  # noqa: S301
    ids=["itself", "State", "copy", "deepcopy", "pickle"],
)
def test_the_arrays_of_a_state_cannot_be_written_to(
    state: State, again: Callable[[State], State]
) -> None:
    same = again(state)
    assert same == state
    with pytest.raises(ValueError, match="read-only"):
        same["h0"][:] = 0


def test_a_loaded_state_cannot_be_written_to(state: State, tmp_path: Path) -> None:
    state.save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="read-only"):
        State.load(tmp_path / "s.safetensors")["h0"][:] = 0


def test_a_state_takes_no_new_names(state: State) -> None:
    with pytest.raises(TypeError):
        state["h1"] = np.zeros(1)  # type: ignore[index]


def test_nan_equals_nan() -> None:
    array = np.array([np.nan, 1], np.float32)
    assert State({"h0": array}) == State({"h0": array.copy()})


@pytest.mark.parametrize(
    "other",
    [
        {"h0": np.array([1, 3], np.float32)},
        {"h0": np.array([1, 2], np.float64)},
        {"h0": np.array([[1, 2]], np.float32)},
        {"h1": np.array([1, 2], np.float32)},
        {},
    ],
    ids=["values", "dtype", "shape", "names", "nothing"],
)
def test_states_that_differ_are_not_equal(other: dict[str, NDArray[np.generic]]) -> None:
    assert State({"h0": np.array([1, 2], np.float32)}) != State(other)


def test_a_state_is_not_equal_to_a_dict_and_has_no_hash(state: State) -> None:
    assert state != dict(state)
    with pytest.raises(TypeError):
        hash(state)


@pytest.mark.parametrize("value", [[0.0], 1.0, None, torch.zeros(1)])
def test_what_is_not_an_array_is_refused(value: object) -> None:
    with pytest.raises(StateError, match=r"State 'h0' is a [\w.]+; a NumPy array was expected"):
        State({"h0": value})  # type: ignore[dict-item]


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["text"])], ids=["object", "str"])
def test_an_array_that_holds_no_numbers_never_reaches_a_file(
    array: NDArray[np.generic], tmp_path: Path
) -> None:
    with pytest.raises(StateError):
        State({"h0": array}).save(tmp_path / "s.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.safetensors could not be read"):
        State.load(tmp_path / "none.safetensors")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        State.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 64])
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match="is not a safetensors file"):
        State.load(path)
    with pytest.raises(FileError, match="The content is not a safetensors file"):
        State.from_bytes(content)


@pytest.mark.parametrize("content", ["text", None, 3, Path("here.safetensors")])
def test_a_state_is_not_read_from_anything_but_bytes(content: object) -> None:
    with pytest.raises(StateError, match=r"the bytes that State\.to_bytes returned were"):
        State.from_bytes(content)  # type: ignore[arg-type]


def test_a_state_is_read_from_any_kind_of_bytes_and_cannot_be_written_to(state: State) -> None:
    for kind in (bytes, bytearray, memoryview):
        same = State.from_bytes(kind(state.to_bytes()))  # type: ignore[arg-type]
        assert same == state
        with pytest.raises(ValueError, match="read-only"):
            same["h0"][:] = 0


def test_every_truncation_of_a_file_is_refused(state: State, tmp_path: Path) -> None:
    path, cut = tmp_path / "s.safetensors", tmp_path / "cut.safetensors"
    state.save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(FileError):
            State.load(cut)
        with pytest.raises(FileError):
            State.from_bytes(content[:length])


def test_somebody_elses_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"h0": np.zeros(3, np.float32)}, path)
    with pytest.raises(FileError, match="holds no stateport state"):
        State.load(path)
    with pytest.raises(FileError, match="The content holds no stateport state"):
        State.from_bytes(path.read_bytes())


def test_a_dtype_that_numpy_has_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    tensors = {"h0": torch.zeros(2, dtype=torch.bfloat16)}
    safetensors.torch.save_file(tensors, path, {"stateport.state": "1"})
    # In a separate interpreter: some packages teach NumPy bfloat16 when they are imported.
    code = (
        "import stateport\n"
        f"try: stateport.State.load({str(path)!r})\n"
        "except stateport.FileError as error: print('refused')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout == "refused\n", result.stderr


def test_a_folder_that_is_not_there_is_named(state: State, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        state.save(tmp_path / "none" / "s.safetensors")


def test_a_path_below_a_file_is_refused(state: State, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be written"):
        state.save(tmp_path / "file" / "s.safetensors")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(state: State, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileError, match="could not be written"):
        state.save(tmp_path / "s.safetensors")
    tmp_path.chmod(0o700)


def test_an_array_that_lies_in_another_order_is_saved_as_it_reads(tmp_path: Path) -> None:
    """As an engine may return it; safetensors itself writes the memory as it lies."""
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    state = State._adopt({"h0": turned})
    state.save(tmp_path / "s.safetensors")
    assert State.load(tmp_path / "s.safetensors") == state

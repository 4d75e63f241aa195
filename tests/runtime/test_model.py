"""The model: calls, what they refuse, and that they carry nothing from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import stateport
from models.lstm import ReferenceLSTM
from stateport import InputError, Model, State, StateError

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


def test_the_tutorial_walk(reference: Path) -> None:
    network, random = ReferenceLSTM(), np.random.default_rng(5)
    model = stateport.load(reference)
    first = State({name: random.standard_normal((1, 1, 10), np.float32) for name in ("h0", "c0")})
    y, state = model(first_x := normal(random, 1, 1, 5), first)
    z, last = model(next_x := normal(random, 1, 3, 5), state)
    assert isinstance(y, np.ndarray)
    assert isinstance(z, np.ndarray)
    assert (y.shape, z.shape) == ((1, 1, 10), (1, 3, 10))
    assert {name: array.shape for name, array in last.items()} == dict.fromkeys(
        ("h0", "c0"), (1, 1, 10)
    )
    with torch.no_grad():
        expected_y, h, c = network(tensor(first_x), tensor(first["h0"]), tensor(first["c0"]))
        expected_z, h, c = network(tensor(next_x), h, c)
    np.testing.assert_allclose(y, expected_y.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(z, expected_z.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(last["h0"], h.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(last["c0"], c.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("batch", "time"), [(7, 513), (1, 1), (513, 2)])
def test_any_batch_and_time_run_on_the_same_file(model: Model, batch: int, time: int) -> None:
    x = normal(np.random.default_rng(6), batch, time, 5)
    y, state = model(x)
    with torch.no_grad():
        zeros = torch.zeros(1, batch, 10)
        expected, h, c = ReferenceLSTM()(tensor(x), zeros, zeros)
    np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(state["h0"], h.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(state["c0"], c.numpy(), rtol=0, atol=2e-6)


def test_no_state_is_the_zero_state(model: Model) -> None:
    x = normal(np.random.default_rng(1), 2, 3, 5)
    zeros = State({name: np.zeros((1, 2, 10), np.float32) for name in ("h0", "c0")})
    y, state = model(x)
    z, same = model(x, zeros)
    np.testing.assert_array_equal(y, z)
    assert state == same


def test_a_call_carries_nothing_into_the_next(model: Model) -> None:
    x = normal(np.random.default_rng(2), 2, 3, 5)
    first, _ = model(x)
    again, _ = model(x)
    np.testing.assert_array_equal(first, again)


def test_inputs_and_outputs_by_name(model: Model) -> None:
    x = normal(np.random.default_rng(3), 2, 3, 5)
    outputs, state = model.run({"x": x})
    y, same = model(x)
    assert list(outputs) == ["y"]
    np.testing.assert_array_equal(outputs["y"], y)
    assert state == same


def test_a_model_says_what_it_is(model: Model) -> None:
    assert model.engine == "ort-cpu"
    assert model.engine_version.startswith("onnxruntime ")
    assert repr(model) == (
        "<stateport.Model x: float32[batch, time, 5], h0: float32[1, batch, 10], "
        "c0: float32[1, batch, 10] on ort-cpu>"
    )


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((1, 1, 5)), r"'x' is float64\[1, 1, 5\]; .*astype\('float32'\)"),
        (np.zeros((1, 1, 5), ">f4"), "'x' is >f4|'x' is float32"),
        (np.zeros((1, 1, 5), np.int32), r"'x' is int32\[1, 1, 5\]"),
        (np.zeros((1, 5), np.float32), "2 dimensions; .* 3 dimensions"),
        (np.zeros((), np.float32), "0 dimensions"),
        (np.zeros((1, 1, 6), np.float32), "dimension 2 must be 5, not 6"),
        (np.zeros((0, 1, 5), np.float32), "axis 'batch' is empty"),
        (np.zeros((1, 0, 5), np.float32), "axis 'time' is empty"),
        ([[[0.0] * 5]], "'x' is a list; a NumPy array"),
        (torch.zeros(1, 1, 5), "'x' is a torch.Tensor; a NumPy array"),
        (None, "'x' is a NoneType; a NumPy array"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_an_input_that_does_not_fit_is_refused(model: Model, x: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        model(x)  # type: ignore[arg-type]
    assert not isinstance(refusal.value, StateError)
    assert "float32[batch, time, 5]" in str(refusal.value) or "empty" in str(refusal.value)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "input 'x' is missing"),
        (["X"], "no input 'X'"),
        (["x", "y"], "no input 'y'"),
        (["x", "h0"], "no input 'h0'"),
    ],
)
def test_a_wrong_input_name_is_refused(model: Model, names: list[str], says: str) -> None:
    with pytest.raises(InputError, match=rf"{says}; the model takes x: float32\[batch, time, 5\]"):
        model.run(dict.fromkeys(names, np.zeros((1, 1, 5), np.float32)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"h0": np.zeros((1, 2, 10), np.float32)}, "axis 'batch' is 2, but it is 3"),
        ({"h0": np.zeros((1, 3, 10))}, r"'h0' is float64\[1, 3, 10\]"),
        ({"c0": np.zeros((1, 3, 11), np.float32)}, "dimension 2 must be 10, not 11"),
        ({"c0": np.zeros((2, 3, 10), np.float32)}, "dimension 0 must be 1, not 2"),
        ({"c0": np.zeros((3, 10), np.float32)}, "2 dimensions"),
        ({"h1": np.zeros((1, 3, 10), np.float32)}, "no state 'h1'"),
        ({"c0": None}, "state 'c0' is missing"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    model: Model, change: dict[str, Array | None], says: str
) -> None:
    fits = {name: np.zeros((1, 3, 10), np.float32) for name in ("h0", "c0")}
    state = State({name: a for name, a in {**fits, **change}.items() if a is not None})
    with pytest.raises(StateError, match=says):
        model(np.zeros((3, 1, 5), np.float32), state)


def test_a_state_that_is_none_is_refused(model: Model) -> None:
    with pytest.raises(StateError, match=r"The state is a dict; a stateport\.State was expected"):
        model(
            np.zeros((1, 1, 5), np.float32),
            {"h0": np.zeros((1, 1, 10), np.float32)},  # type: ignore[arg-type]
        )


def test_arrays_in_any_order_of_memory_give_the_same(model: Model) -> None:
    x = normal(np.random.default_rng(4), 3, 4, 5)
    y, _ = model(x)
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1][::-1]):
        z, _ = model(same)
        np.testing.assert_array_equal(z, y)


def test_an_array_that_cannot_be_written_to_is_taken(model: Model) -> None:
    x = np.zeros((1, 2, 5), np.float32)
    x.setflags(write=False)
    y, _ = model(x)
    assert isinstance(y, np.ndarray)
    assert y.flags.writeable


def test_nan_passes_through_untouched(counter: Path) -> None:
    state = State({"h0": np.array([[np.nan, 1]], np.float32)})
    y, after = stateport.load(counter)(np.array([0]), state)
    np.testing.assert_array_equal(y, [[np.nan, 11]])
    np.testing.assert_array_equal(after["h0"], [[np.nan, 11]])


@pytest.mark.xfail(reason="ONNX Runtime's LSTM on the CPU turns NaN into numbers", strict=True)
def test_nan_passes_through_an_lstm(model: Model) -> None:
    y, state = model(np.full((1, 2, 5), np.nan, np.float32))
    assert isinstance(y, np.ndarray)
    assert np.isnan(y).all()
    assert np.isnan(state["h0"]).all()


def test_the_results_are_the_callers_own(counter: Path) -> None:
    model, h0 = stateport.load(counter), np.array([[1, 1]], np.float32)
    y, state = model(np.array([0]), State({"h0": h0}))
    assert isinstance(y, np.ndarray)
    y[:] = 0
    np.testing.assert_array_equal(state["h0"], [[2, 11]])
    np.testing.assert_array_equal(h0, [[1, 1]])
    assert not state["h0"].flags.writeable


def test_several_inputs_and_outputs_go_by_name(two: Path) -> None:
    model = stateport.load(two)
    a, b = np.ones((3, 2), np.float32), np.full((3, 2), 2, np.float32)
    outputs, state = model.run({"a": a, "b": b})
    np.testing.assert_array_equal(outputs["sum"], a + b)
    np.testing.assert_array_equal(outputs["difference"], a - b)
    assert len(state) == 0


def test_several_inputs_cannot_come_without_names(two: Path) -> None:
    with pytest.raises(InputError, match=r"takes 2 inputs \(a: .*, b: .*\); pass them by name"):
        stateport.load(two)(np.ones((3, 2), np.float32))


def test_inputs_that_disagree_about_an_axis_are_refused(two: Path) -> None:
    arrays = {"a": np.ones((3, 2), np.float32), "b": np.ones((4, 2), np.float32)}
    with pytest.raises(InputError, match="axis 'batch' is 4, but it is 3"):
        stateport.load(two).run(arrays)


def test_eight_threads_on_one_model_get_what_one_gets(model: Model) -> None:
    chunks = normal(np.random.default_rng(8), 8, 20, 2, 6, 5)

    def chain(number: int) -> Array:
        state, answers = None, []
        for x in chunks[number]:
            y, state = model(x, state)
            answers.append(y)
        return np.array(answers)

    alone = [chain(number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(chain, range(8)))
    np.testing.assert_array_equal(together, alone)


def test_every_option_of_the_reference_runs(exported: Callable[..., Path]) -> None:
    path = exported(num_layers=2, bidirectional=True, batch_first=False, proj_size=4, bias=False)
    y, state = stateport.load(path)(np.zeros((3, 2, 5), np.float32))
    assert isinstance(y, np.ndarray)
    assert y.shape == (3, 2, 8)
    assert {name: a.shape for name, a in state.items()} == {"h0": (4, 2, 4), "c0": (4, 2, 10)}


def normal(random: np.random.Generator, *shape: int) -> Array:
    return random.standard_normal(shape, np.float32)


def tensor(array: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(array.copy())

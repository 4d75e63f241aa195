"""Checks on any model file that chunks do what its contract says."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import stateport
from stateport import Contract, InputError, Model, State, StateportError
from stateport.bench.workload import Workload, random_inputs

Array = NDArray[Any]

#: How many chunks' worth of steps, and where they are cut.
_STEPS, _CUTS = 24, (1, 8, 10)
#: A network that cuts off steps gives its recurrent layers none of a short chunk, and ONNX Runtime
#: aborts the process where these are given a sequence of no steps.
_LONG_CUTS = (8, 16)


def check_chunks(path: Path) -> None:
    """A file that can stream gives in chunks what it gives whole; one that cannot does not."""
    model = stateport.load(path)
    contract = model.contract
    if not any("time" in spec.shape for spec in contract.inputs):
        return
    if any(spec.lengths_of is not None for spec in contract.inputs):
        assert not contract.streaming.ok  # chunks would need lengths of their own
        return
    multiple = contract.streaming.chunk_multiple
    # Where batch and time are one axis, of several rows it is not clear which element is whose.
    joined = any(str(axis).count("batch") and axis != "batch" for axis in _axes(contract))
    inputs = random_inputs(contract, Workload(1 if joined else 2, _STEPS * multiple))
    whole, _ = model.run(inputs)
    # An input without time may be the same in every call, or a mask for the first one alone.
    tries = [None] if all("time" in spec.shape for spec in contract.inputs) else [None, 0, 1]
    worst = min(_difference(model, inputs, whole, later, multiple) for later in tries)
    if contract.streaming.ok:
        assert worst < 1e-4
    else:
        assert worst > 1e-4, "it could be fed in chunks after all"


def check_calls_go_on(path: Path, network: nn.Module, batch: int = 2) -> None:
    """A file with its state passed on gives what a network that keeps its state gives.

    The network takes one array, x: (batch, time, features).
    """
    model = stateport.load(path)
    features = model.contract.inputs[0].shape[-1]
    assert isinstance(features, int)

    state: State | None = None
    for steps in (5, 1, 9):
        x = np.random.default_rng(steps).standard_normal((batch, steps, features), np.float32)
        outputs, state = model.run({"x": x}, state)
        with torch.no_grad():
            expected = network(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(outputs["y"], expected, rtol=0, atol=2e-6)


def _axes(contract: Contract) -> set[int | str]:
    return {axis for spec in contract.outputs for axis in spec.shape}


def _difference(
    model: Model,
    inputs: dict[str, Array],
    whole: dict[str, Array],
    later: int | None,
    multiple: int,
) -> float:
    """How far the answers in chunks are from those of the whole, relative to the largest."""
    state: State | None = None
    calls = []
    inside = _CUTS if model.contract.streaming.ok else _LONG_CUTS
    cuts = [0, *(cut * multiple for cut in inside), _STEPS * multiple]
    for begin, end in pairwise(cuts):
        part = {
            spec.name: inputs[spec.name].take(range(begin, end), spec.shape.index("time"))
            if "time" in spec.shape
            else inputs[spec.name]
            if later is None or not begin
            else np.full_like(inputs[spec.name], later)
            for spec in model.contract.inputs
        }
        try:
            outputs, state = model.run(part, state)
        except InputError:
            raise
        except StateportError:
            return float("inf")
        calls.append(outputs)
    found = 0.0
    for spec in model.contract.outputs:
        axis = spec.time_axis
        parts = [call[spec.name] for call in calls]
        got = parts[-1] if axis is None else np.concatenate(parts, axis)
        want = whole[spec.name]
        if got.shape != want.shape:
            return float("inf")
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        apart = np.abs(np.subtract(got, want, where=~same, out=np.zeros_like(want)))
        if np.isnan(apart).any():
            return float("inf")
        scale = max(float(np.abs(want[np.isfinite(want)]).max(initial=0.0)), 1e-30)
        found = max(found, float(apart.max(initial=0.0)) / scale)
    return found


def check_like_ort_cpu(path: Path, engine: str) -> None:
    """An engine gives a model of 5 features, its streams and pools what `ort-cpu` gives."""
    model, other = stateport.load(path, engine=engine), stateport.load(path)
    x = np.random.default_rng(0).standard_normal((3, 12, 5), np.float32)
    y, state = model(x)
    _check_close(y, other(x)[0])

    stream, there = model.stream(), other.stream()
    joined = np.concatenate([stream(x[:, :5]), stream(x[:, 5:6]), stream(x[:, 6:])], axis=1)
    _check_close(joined, y)
    there.restore(stream.state)
    _check_close(there(x), other(x, state)[0])
    again = copy.copy(stream)
    np.testing.assert_array_equal(stream(x), again(x))

    pool = model.pool(3)
    streams = pool.open(3)
    _check_close(pool.step(streams, x), y)
    _check_close(pool.step(streams[[2, 0]], x[[2, 0]]), model(x, state)[0][[2, 0]])


def _check_close(answer: Array, expected: Array) -> None:
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6)

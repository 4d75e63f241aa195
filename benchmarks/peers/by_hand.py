"""ONNX Runtime as people use it without stateport."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort

from ..contender import Array, Contender
from ..loads import Load
from ..networks import Network

_STATES = (("h0", "hn"), ("c0", "cn"))


def contenders(network: Network, load: Load, threads: int) -> Iterator[Contender]:
    """The loop of the documentation, and what is made of it for many streams."""
    session = _session(network, threads)
    if load.among is None:
        yield _bound(session, network, load)
    if load.streams == 1:
        yield _documented(session, network)
    else:
        yield _loop(session, network, load)
        yield _concatenating(session, network, load)


def _session(network: Network, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(network.path, options, providers=["CPUExecutionProvider"])


def _documented(session: Any, network: Network) -> Contender:
    zeros = np.zeros(network.state_shape(1), np.float32)
    state: list[Array] = [zeros, zeros]

    def step(x: Array) -> Any:
        y, *state[:] = session.run(None, {"x": x, "h0": state[0], "c0": state[1]})
        return y

    return Contender("by hand", "session.run with dicts", step)


def _bound(session: Any, network: Network, load: Load) -> Contender:
    """One call of the engine on buffers that are there already: the least that there is to do.

    It leaves the new state where it is, and the chunk and the output too.
    """
    shape, binding = network.state_shape(load.streams), session.io_binding()
    x = np.zeros((load.streams, load.time, network.input_size), np.float32)
    y = np.zeros((load.streams, load.time, network.hidden_size), np.float32)
    held = {"x": x, "y": y}
    for pair in _STATES:
        held |= {name: np.zeros(shape, np.float32) for name in pair}
    for name, array in held.items():
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if name in ("x", "h0", "c0"):
            binding.bind_ortvalue_input(name, value)
        else:
            binding.bind_ortvalue_output(name, value)

    def native(chunk: Array) -> Array:
        x[...] = chunk
        return x

    def step(_: Array, _held: object = held) -> Array:
        session.run_with_iobinding(binding)
        return y

    return Contender("by hand", "one call on bound buffers", step, native=native, carries=False)


def _loop(session: Any, network: Network, load: Load) -> Contender:
    """A state per stream, and a call for each."""
    zeros = np.zeros(network.state_shape(1), np.float32)
    states: list[list[Array]] = [[zeros, zeros] for _ in range(load.among or load.streams)]
    chosen = load.chosen().tolist()

    def step(xs: list[Array]) -> list[Array]:
        ys = []
        for x, stream in zip(xs, chosen, strict=True):
            h, c = states[stream]
            y, *states[stream] = session.run(None, {"x": x, "h0": h, "c0": c})
            ys.append(y)
        return ys

    return Contender(
        "by hand",
        "a loop over streams",
        step,
        native=lambda x: [x[i : i + 1] for i in range(len(x))],
        array=np.concatenate,
    )


def _concatenating(session: Any, network: Network, load: Load) -> Contender:
    """A state per stream, joined for one call and cut again after it."""
    zeros = np.zeros(network.state_shape(1), np.float32)
    states: list[tuple[Array, Array]] = [(zeros, zeros)] * (load.among or load.streams)
    chosen = load.chosen().tolist()

    def step(xs: list[Array]) -> Any:
        h, c = (
            np.concatenate(part, axis=1) for part in zip(*(states[i] for i in chosen), strict=True)
        )
        y, h, c = session.run(None, {"x": np.concatenate(xs), "h0": h, "c0": c})
        for row, stream in enumerate(chosen):
            states[stream] = (h[:, row : row + 1], c[:, row : row + 1])
        return y

    return Contender(
        "by hand",
        "concatenate, run, split",
        step,
        native=lambda x: [x[i : i + 1] for i in range(len(x))],
    )

"""What is measured: something that steps, carrying its state from call to call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stateport.parity.bounds import decibels, noise, signal

from .loads import Load
from .networks import Network

Array = NDArray[Any]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Contender:
    """One way to step a network under a load.

    Attributes:
        maker: "stateport", "by hand", "PyTorch", "OpenVINO" or "tract".
        name: how it steps.
        step: one call: the chunk (streams, time, input) in, the outputs back.
        precision: in what it computes.
        native: turns an array into what `step` takes, outside of what is timed.
        array: turns what `step` gives into an array, likewise.
        carries: whether it carries the state, so that its answers can be judged.
    """

    maker: str
    name: str
    step: Callable[[Any], Any]
    precision: str = "float32"
    native: Callable[[Array], Any] = _same
    array: Callable[[Any], Array] = _same
    carries: bool = True


@dataclass(frozen=True)
class Exact:
    """Chunks, and the answers of PyTorch in float64 to those of the first rows, from zero."""

    chunks: list[Array]
    answers: list[Array]

    @classmethod
    def of(cls, network: Network, load: Load) -> Exact:
        """Chunks for 128 steps or more; rows do not touch one another, so two are enough."""
        random = np.random.default_rng(2)
        shape = (load.streams, load.time, network.input_size)
        count = max(128 // load.time, 2)
        chunks = [random.standard_normal(shape, np.float32) for _ in range(count)]
        rows = min(load.streams, 2)
        module = network.module().double()
        state = [torch.zeros(network.state_shape(rows), dtype=torch.float64)] * 2
        answers = []
        with torch.inference_mode():
            for chunk in chunks:
                y, *state = module(torch.from_numpy(chunk[:rows]).double(), *state)
                answers.append(y.numpy())
        return cls(chunks, answers)

    def snr(self, contender: Contender) -> float | None:
        """Decibels of the truth above a fresh contender's error, in its worst stretch."""
        if not contender.carries:
            return None
        rows = len(self.answers[0])
        found = []
        for chunk in self.chunks:
            y = contender.array(contender.step(contender.native(chunk)))
            found.append(np.asarray(y[:rows], np.float32))
        answer, truth = (np.concatenate(part, axis=1) for part in (found, self.answers))
        tables = [np.moveaxis(a, 1, 0).reshape(a.shape[1], -1) for a in (answer, truth)]
        return decibels(signal([tables[1]]), float(noise(*tables).max()))

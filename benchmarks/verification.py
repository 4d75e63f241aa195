"""What verifying costs beside the engine calls that it makes.

Run by `make bench`, or alone: `python -m benchmarks.verification` prints the ratios as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

import numpy as np

import stateport
from stateport.engines import Arrays, Buffer, Buffers, Engine
from stateport.model import Model
from stateport.parity.vectors import Vectors, vectors_path
from stateport.parity.verify import verify

from .networks import NETWORKS, Network

Call = Callable[[], object]

#: Verifying the smallest network may take so many times as long as its own engine calls: there,
#: the engine's part is the smallest.
AT_MOST: Final = 2.0


def measure_verification(rounds: int) -> dict[str, list[float]]:
    """By network, the ratio in each round; in a process of its own, on one core."""
    command = [sys.executable, "-m", "benchmarks.verification", str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures each network in turn."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps({str(network): ratios(network, rounds) for network in NETWORKS}))


def ratios(network: Network, rounds: int) -> list[float]:
    """The time of a verification by that of the same engine calls, made again and nothing else."""
    model = stateport.load(network.path)
    vectors = Vectors.load(vectors_path(network.path))
    recorder = _Recorder(model._engine)
    assert verify(Model(model.contract, recorder), vectors).passed
    found = []
    for _ in range(rounds):
        found.append(_time(lambda: verify(model, vectors)) / _time(recorder.again))
    return found


class _Recorder:
    """An engine that notes the calls that are made of it."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.version = engine.name, engine.version
        self.precision, self.keeps = engine.precision, engine.keeps
        self._engine = engine
        self._calls: list[Call] = []

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[np.ndarray[Any, Any]]:
        given = dict(inputs)
        self._calls.append(lambda: self._engine.run(given, outputs))
        return self._engine.run(inputs, outputs)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        return self._engine.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        bound = self._engine.bind(inputs, outputs)

        def noted() -> None:
            self._calls.append(bound)
            bound()

        return noted

    def again(self) -> None:
        """Makes all the calls once more."""
        for call in self._calls:
            call()


def _time(call: Call) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


if __name__ == "__main__":
    main()

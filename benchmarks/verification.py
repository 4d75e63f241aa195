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

from numpy.typing import NDArray

import stateport
from stateport.engines import Arrays, Buffer, Buffers, Engine
from stateport.model import Model
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path

from .networks import NETWORKS, Network

#: Verifying the smallest network may take so many times as long as its own engine calls: there,
#: the engine's part is the smallest.
AT_MOST: Final = 2.0


def measure_verification(rounds: int) -> dict[str, list[float]]:
    """By network, the ratio in each round; in a separate process, on one core."""
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
    """The time of a verification by that of the engine calls in it."""
    opened = stateport.load(network.path)
    vectors = Vectors.load(vectors_path(network.path))
    engine = _Timed(opened._engine)
    model = Model(opened.contract, engine)
    found = []
    for number in range(rounds + 1):
        engine.seconds = 0.0
        begin = perf_counter()
        assert measure_model(model, vectors).passed
        if number:  # the first one grows into its memory
            found.append((perf_counter() - begin) / engine.seconds)
    return found


class _Timed:
    """An engine whose calls are timed; reading the clock counts as the verification's."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.version = engine.name, engine.version
        self.precision, self.max_bound_calls = engine.precision, engine.max_bound_calls
        self.seconds = 0.0
        self._engine = engine

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        begin = perf_counter()
        answers = self._engine.run(inputs, outputs)
        self.seconds += perf_counter() - begin
        return answers

    def zeros(self, shape: Sequence[int], dtype: Any) -> Buffer:
        return self._engine.zeros(shape, dtype)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        bound = self._engine.bind(inputs, outputs)

        def timed() -> None:
            begin = perf_counter()
            bound()
            self.seconds += perf_counter() - begin

        return timed


if __name__ == "__main__":
    main()

"""One network under one load, in a separate process: `python -m benchmarks.measure`.

Processes of their own keep what one contender leaves behind, such as threads and compiled code,
from the others' figures, and one that crashes from the rest of the run.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stateport.bench.timing import measure

from . import own
from .contender import Contender, Exact
from .loads import Load
from .networks import Network
from .peers import pytorch


@dataclass(frozen=True)
class Taken:
    """What one contender took.

    Attributes:
        maker: as of the contender.
        name: likewise.
        precision: likewise.
        rounds: seconds per call, of each round.
        p99: seconds within which 99 of 100 single calls were done.
        snr: decibels of the truth above its error; None where it cannot be judged.
    """

    maker: str
    name: str
    precision: str
    rounds: list[float]
    p99: float
    snr: float | None

    @property
    def median(self) -> float:
        """Seconds per call."""
        return float(np.median(self.rounds))


def run(network: Network, load: Load, threads: int, rounds: int, device: str) -> list[Taken]:
    """Measures all that can step this network under this load, in turns."""
    found = list(_on_cuda(network, load) if device == "cuda" else _all(network, load, threads))
    exact = Exact.of(network, load)
    snrs = [exact.snr(contender) for contender in found]
    random = np.random.default_rng(0)
    x = random.standard_normal((load.streams, load.time, network.input_size), np.float32)
    calls = {str(i): _call(contender, x) for i, contender in enumerate(found)}
    times = measure(calls, rounds=rounds)
    return [
        Taken(c.maker, c.name, c.precision, list(t.rounds), t.latency(0.99), snr)
        for c, t, snr in zip(found, times.values(), snrs, strict=True)
    ]


def _all(network: Network, load: Load, threads: int) -> Iterator[Contender]:
    # These libraries need not be installed where only the GPU is measured.
    from .peers import by_hand, openvino, tract

    yield from own.contenders(network, load, threads)
    for peer in (by_hand, pytorch, openvino, tract):
        yield from peer.contenders(network, load, threads)


def _on_cuda(network: Network, load: Load) -> Iterator[Contender]:
    yield from own.on_cuda(network, load)
    yield from pytorch.on_cuda(network, load)


def _call(contender: Contender, x: Any) -> Any:
    chunk, step = contender.native(x), contender.step
    return lambda: step(chunk)


def main() -> None:
    """Takes the arguments of `run` as JSON, and gives what was taken as JSON on stdout."""
    warnings.simplefilter("ignore")  # PyTorch's, about its own older ways
    asked = json.loads(sys.argv[1])
    if asked["threads"] == 1:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    taken = run(
        Network(**asked["network"]),
        Load(**asked["load"]),
        asked["threads"],
        asked["rounds"],
        asked["device"],
    )
    print(json.dumps([asdict(one) for one in taken]))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Steps of a core, bytes of a state, and writes of a store: `make bench-scale`.

    python -m benchmarks.scale

The tables stand in docs/scaling.md between two comments. Every figure is the median of five turns.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Final

import numpy as np

import stateport
from stateport.serve.stores import ABSENT, Record, Store, open_store
from tests.runtime.serve.process import serving

from ..marks import replace_between
from ..networks import NETWORKS, Network
from ..processor import processor
from ..serve.usage import usage
from ..serve.wire import Target
from .redis_server import redis

PAGE: Final = Path(__file__).parents[2] / "docs" / "scaling.md"
BEGIN: Final = "<!-- The tables of benchmarks/scale begin. -->"
END: Final = "<!-- The tables of benchmarks/scale end. -->"
MEASURED: Final = NETWORKS[:3]
#: Those that are served: for a small network and a large one, transports cost the same.
SERVED: Final = (NETWORKS[0], NETWORKS[2])
STREAMS: Final = 256
TURNS: Final = 5


def main() -> None:
    """Measures and writes the page."""
    lines = [f"{processor()}, one thread.", "", *cores(), "", *stores(), "", *servers()]
    replace_between(PAGE, BEGIN, END, ["", *lines, ""])


def cores() -> Iterator[str]:
    """What a core makes in a pool, and what a stream weighs."""
    head = ("network", "steps of 256 streams in a second of CPU, in a pool", "of 1 stream")
    yield f"| {' | '.join(head)} | bytes of a state |"
    yield "| --- | --- | --- | --- |"
    for network in MEASURED:
        model = stateport.load(network.path)
        many, one = (steps_of(model, network, count) for count in (STREAMS, 1))
        yield f"| {network} | {_round(many)} | {_round(one)} | {len(_state(model)):,} |"


def steps_of(model: stateport.Model, network: Network, streams: int) -> float:
    """Steps of single streams in a second of CPU time, when so many step together."""
    pool = model.pool(streams)
    numbers = pool.open(streams)
    x = np.random.default_rng(0).standard_normal((streams, 1, network.input_size))
    x = x.astype(np.float32)
    rates = []
    for _ in range(TURNS):
        begin, calls = process_time(), 0
        while process_time() - begin < 0.5:
            pool.step(numbers, x)
            calls += 1
        rates.append(calls * streams / (process_time() - begin))
    return median(rates)


def stores() -> Iterator[str]:
    """How many states a store takes, one after the other and many at once."""
    models = [stateport.load(network.path) for network in MEASURED]
    names = [str(network) for network in MEASURED]
    yield f"| writes in a second | {' | '.join(names)} | one at a time, {names[0]} |"
    yield f"| --- | {' | '.join('---' for _ in names)} | --- |"
    with (
        tempfile.TemporaryDirectory(dir=PAGE.parent.parent / "build") as folder,
        redis() as (url, _),
    ):
        places = {
            "`file:DIR`": f"file:{folder}/full",
            "`file:DIR?sync=normal`": f"file:{folder}/normal?sync=normal",
            "`redis://`, on the same machine, nothing on disk": url,
        }
        for name, place in places.items():
            together = [asyncio.run(writes(place, _state(model), STREAMS)) for model in models]
            alone = asyncio.run(writes(place, _state(models[0]), 1))
            figures = " | ".join(_round(rate) for rate in [*together, alone])
            yield f"| {name} | {figures} |"


async def writes(place: str, state: bytes, together: int) -> float:
    """Writes of a second, when so many are asked for at once."""
    store = open_store(place)
    await store.open()
    try:
        return await _writes(store, state, together)
    finally:
        await store.close()


async def _writes(store: Store, state: bytes, together: int) -> float:
    keys = [f"{secrets.token_hex(4)}/{number}" for number in range(together)]
    version, rates = ABSENT, []
    for _ in range(TURNS):
        begin, rounds = perf_counter(), 0
        while perf_counter() - begin < 0.5:
            following = secrets.token_hex(8)
            record = Record(following, "benchmark", rounds, state)
            await asyncio.gather(*(store.save(key, record, version) for key in keys))
            version = following
            rounds += 1
        rates.append(rounds * together / (perf_counter() - begin))
    return median(rates)


def servers() -> Iterator[str]:
    """What a step costs a server's core over REST, with each store."""
    names = [str(network) for network in SERVED]
    yield f"| steps of 256 streams in a second of CPU, REST | {' | '.join(names)} |"
    yield f"| --- | {' | '.join('---' for _ in names)} |"
    with (
        tempfile.TemporaryDirectory(dir=PAGE.parent.parent / "build") as folder,
        redis() as (url, _),
    ):
        for name, place in {
            "`memory`": "memory",
            "`file:DIR`, `before`": f"file:{folder}/served",
            "`redis://`, `before`": url,
        }.items():
            figures = [_round(served(network, place)) for network in SERVED]
            yield f"| {name} | {' | '.join(figures)} |"


def served(network: Network, place: str) -> float:
    """Steps of a second of the server's CPU time; the load is in a process of its own."""
    rates = []
    options = ("--capacity", "4096", "--log-level", "warning", "--store", place)
    with serving({"lstm": network.path}, *options) as server:
        target = Target("REST", server.http, network.input_size)
        asked = json.dumps({"target": asdict(target), "streams": STREAMS, "seconds": 3.0})
        command = [sys.executable, "-m", "benchmarks.serve.load", asked]
        for _ in range(3):
            before = usage(server.process).cpu
            load = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            taken = usage(server.process).cpu - before
            # As in benchmarks/serve: the time to get warm is a fifth of what is measured.
            steps: float = json.loads(load.stdout)["count"] * 1.2 + 2 * STREAMS
            rates.append(steps / taken)
    return median(rates)


def _state(model: stateport.Model) -> bytes:
    """The state of one stream, as a store keeps it."""
    [spec] = model.contract.inputs
    assert isinstance(spec.shape[2], int)
    _, state = model(np.zeros((1, 1, spec.shape[2]), np.float32))
    return state.to_bytes()


def _round(number: float) -> str:
    """Two digits that count, with commas."""
    digits = len(str(int(number))) - 2
    return f"{round(number, -digits):,.0f}"


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""One replica and two, measured; what the simulation says of two, and then of more.

    python -m benchmarks.scale.replicas

Each replica is `stateport serve` with a load of its own, and all share one Redis. Costs are CPU
time of the processes, which other work on the machine changes little. Throughput and latency are
not, so that a measurement during which other processes worked is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final
from urllib.request import urlopen

import numpy as np

from tests.runtime.serve.process import Serving, serving

from ..marks import replace_between
from ..networks import SMALLEST
from ..processor import processor
from ..serve.usage import usage
from ..serve.wire import Target
from .quiet import busy, quiet
from .redis_server import redis
from .simulation import Costs, Ring, Scene, simulated

PAGE: Final = Path(__file__).parents[2] / "docs" / "scaling.md"
BEGIN: Final = "<!-- The tables of benchmarks/scale/replicas.py begin. -->"
END: Final = "<!-- The tables of benchmarks/scale/replicas.py end. -->"
#: Streams of one replica from which the costs are computed: in small rounds and in large ones.
FITTED: Final = (4, 16, 64, 256)
#: Streams of two replicas that are compared.
COMPARED: Final = (64, 256)
TURNS: Final = 3
#: How far the simulation of two replicas may be from them, to be believed for more.
CLOSE: Final = 0.2
#: What is simulated beyond: replicas, stores, milliseconds to a store and back, deaths.
BEYOND: Final = (
    (2, 1, 0.2, False),
    (10, 1, 0.2, False),
    (10, 1, 0.2, True),
    (10, 1, 5.0, False),
    (100, 1, 0.2, False),
    (100, 5, 0.2, False),
    (100, 5, 0.2, True),
)
#: The share of a replica's core that its streams would take, were they spread evenly.
_SHARE: Final = 0.5
#: Seconds of a measurement, in the middle of a load that runs longer.
_WINDOW: Final = 2.0
_LOAD: Final = 5.0
#: Seconds between an answer and the next chunk of a stream, beyond.
_PAUSE: Final = 0.1


@dataclass(frozen=True)
class Measured:
    """What some replicas did under load.

    Attributes:
        steps: answers per second.
        p50: seconds within which half of the answers came.
        server, store, client: seconds of CPU for each step.
        batch: requests in a round, on average over the requests.
        others: the cores that other processes took.
    """

    steps: float
    p50: float
    server: float
    store: float
    client: float
    batch: float
    others: float


def main() -> None:
    """Measures and writes the tables of docs/scaling.md."""
    replace_between(PAGE, BEGIN, END, ["", *table(), ""])


def table() -> Iterator[str]:
    """Figures of two replicas, measured and simulated."""
    runs: dict[tuple[int, int], list[Measured]] = {}
    with redis() as store:
        for _ in range(TURNS):
            for replicas, sizes in ((1, FITTED), (2, COMPARED)):
                for streams in sizes:
                    taken = quiet(partial(measured, replicas, streams, *store))
                    runs.setdefault((replicas, streams), []).append(taken)
    figures = {key: _median(each) for key, each in runs.items()}
    costs = fitted([figures[1, streams] for streams in FITTED])
    cores = len(os.sched_getaffinity(0))

    yield _words(costs, cores)
    yield ""
    yield "| two replicas, streams | figure | measured | simulated | of the measured |"
    yield "| --- | --- | --- | --- | --- |"
    ratios = []
    for streams in COMPARED:
        said = simulated(Scene(2, streams, cores=cores), costs)
        did = figures[2, streams]
        rows = (("steps in a second", did.steps, said.steps), ("median in ms", did.p50, said.p50))
        for name, there, here in rows:
            scale = 1000 if name.endswith("ms") else 1
            shown = f"{there * scale:,.4g} | {here * scale:,.4g} | {here / there:.0%}"
            yield f"| {streams} | {name} | {shown} |"
            ratios.append(here / there)
    yield ""
    if all(abs(ratio - 1) <= CLOSE for ratio in ratios):
        yield from beyond(costs)
    else:
        yield f"One figure is further away than {CLOSE:.0%}: no more is simulated."


def beyond(costs: Costs) -> Iterator[str]:
    """What the simulation says of more replicas, each of which has its own core."""
    head = ["replicas", "streams", "stores", "ms to a store", "one dies every second"]
    head += ["steps in a second", "p50 in ms", "p99 in ms", "busiest replica", "busiest store"]
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    streams = int(_SHARE * _PAUSE / (costs.server_step + costs.server_round / 2))
    for replicas, stores, latency, deaths in BEYOND:
        scene = Scene(
            replicas,
            replicas * streams,
            pause=_PAUSE,
            latency=latency / 1000,
            deaths=1.0 if deaths else None,
            stores=stores,
        )
        said = simulated(scene, costs)
        cells = [f"{replicas}", f"{replicas * streams:,}", f"{stores}", f"{latency}"]
        cells += ["yes" if deaths else "no", f"{said.steps:,.0f}"]
        cells += [f"{1000 * said.p50:.3g}", f"{1000 * said.p99:.3g}"]
        cells += [f"{said.busiest:.0%}", f"{said.store:.0%}"]
        yield f"| {' | '.join(cells)} |"


def measured(replicas: int, streams: int, url: str, store: int) -> Measured:
    """Lets streams step as fast as they can, each on the replica that the ring has for it."""
    ring = Ring(range(replicas))
    counts = [0] * replicas
    for stream in range(streams):
        counts[ring.of(stream)] += 1

    with contextlib.ExitStack() as stack:
        servers, loads = [], []
        for number in range(replicas):
            options = ("--store", url, "--log-level", "warning", "--capacity", "4096")
            model = {f"lstm{number}": SMALLEST.path}  # the loads use the same ids
            servers.append(stack.enter_context(serving(model, *options)))
        for number, server in enumerate(servers):
            loads.append(_load(server, f"lstm{number}", counts[number]))

        _wait_until_loaded(servers)
        processes = ([each.process for each in servers], [store], [each.pid for each in loads])
        everything, own = busy(), time.process_time()
        begin, before = time.perf_counter(), [*map(_cpu, processes)]
        first = _counted(servers)
        time.sleep(_WINDOW)
        last, after = _counted(servers), [*map(_cpu, processes)]
        seconds = time.perf_counter() - begin
        ours = sum(after) - sum(before) + time.process_time() - own
        others = (busy() - everything - ours) / seconds
        answers = [json.loads(each.communicate()[0]) for each in loads]

    steps, total = last - first
    taken = [(there - here) / steps for here, there in zip(before, after, strict=True)]
    p50 = float(np.average([each["p50"] for each in answers], weights=counts))
    return Measured(steps / seconds, p50, taken[0], taken[1], taken[2], total / steps, others)


def fitted(figures: Sequence[Measured]) -> Costs:
    """The costs of a round and of a step, by least squares over rounds of several sizes."""
    design = np.array([[1 / each.batch, 1.0] for each in figures])
    # Relative errors: a step in a small round costs many times one in a large round.
    server = _solved(design, np.array([each.server for each in figures]))
    store = _solved(design, np.array([each.store for each in figures]))
    client = median(each.client for each in figures)
    return Costs(server[0], server[1], store[0], store[1], client)


def _solved(design: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    solution, *_ = np.linalg.lstsq(design / values[:, None], np.ones(len(values)), rcond=None)
    each_round, each_step = (max(float(value), 0.0) for value in solution)
    return each_round, each_step


def _load(server: Serving, model: str, streams: int) -> subprocess.Popen[str]:
    target = Target("REST", server.http, SMALLEST.input_size, model)
    asked = json.dumps({"target": asdict(target), "streams": streams, "seconds": _LOAD})
    command = [sys.executable, "-m", "benchmarks.serve.load", asked]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _wait_until_loaded(servers: Sequence[Serving]) -> None:
    """Waits until each server has made some steps."""
    for server in servers:
        while _counted([server])[0] < 100:
            time.sleep(0.05)
    time.sleep(_LOAD / 5)


def _counted(servers: Sequence[Serving]) -> np.ndarray:
    """How many steps the servers have made, and the sum of the sizes of their rounds."""
    sums = np.zeros(2)
    for server in servers:
        with urlopen(f"http://{server.http}/metrics") as answer:
            page = answer.read().decode()
        for line in page.splitlines():
            for place, name in enumerate(("count", "sum")):
                if line.startswith(f"stateport_batch_size_{name}{{"):
                    sums[place] += float(line.split()[-1])
    return sums


def _cpu(processes: Sequence[int]) -> float:
    return sum(usage(each).cpu for each in processes)


def _median(figures: Sequence[Measured]) -> Measured:
    rows = np.array([[*asdict(each).values()] for each in figures])
    return Measured(*map(float, np.median(rows, axis=0)))


def _words(costs: Costs, cores: int) -> str:
    """The costs in a sentence."""
    parts = {name: f"{1e6 * value:,.3g}" for name, value in asdict(costs).items()}
    return (
        f"{processor()}; {cores} of its cores for all processes. One replica takes "
        f"{parts['server_round']} µs of CPU for each round and {parts['server_step']} µs for each "
        f"step in it; Redis {parts['store_round']} µs and {parts['store_step']} µs; the load "
        f"{parts['client_step']} µs for each step."
    )


if __name__ == "__main__":
    main()

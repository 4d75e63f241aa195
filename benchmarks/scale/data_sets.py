# SPDX-License-Identifier: Apache-2.0
"""20,000 sequences on one worker of Ray and on two: how much faster two are.

    .venv-ray/bin/python -m benchmarks.scale.data_sets

Beside them, one process and two run the same sequences without Ray: that is what the cores give.
All are measured in turns, from the first answers to the last, while other processes do nothing.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import pyarrow as pa

import stateport
import stateport.ray
from stateport.datasets.job import Options, run_batch

from ..networks import NETWORKS, Network
from ..serve.usage import usage
from .quiet import busy, quiet

ROOT: Final = Path(__file__).parents[2]
COUNT: Final = 20_000
#: Rows of a block, which a worker gets at a time.
ROWS: Final = 250
TURNS: Final = 3
#: Those whose steps take long enough that reading and sending are a small part.
MEASURED: Final = NETWORKS[1:3]


@dataclass(frozen=True)
class Taken:
    """Sequences in a second, and the cores that other processes took meanwhile."""

    rate: float
    others: float


def main() -> None:
    """Prints a line for each network."""
    _start_ray()
    print("| network | Ray, 1 worker | 2 workers | ratio | no Ray, 1 process | 2 | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for network in MEASURED:
        blocks = blocks_of(network)
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(TURNS):
            for measure in (on_ray, without_ray):
                for workers in (1, 2):
                    taken = quiet(partial(measure, network, blocks, workers))
                    rates.setdefault((measure.__name__, workers), []).append(taken.rate)
        cells = [str(network)]
        for name in ("on_ray", "without_ray"):
            one, two = rates[name, 1], rates[name, 2]
            cells += [f"{median(one):,.0f}", f"{median(two):,.0f}"]
            cells.append(f"{median(b / a for a, b in zip(one, two, strict=True)):.2f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def blocks_of(network: Network) -> list[pa.Table]:
    """Sequences of 1 to 59 steps."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, COUNT)
    blocks = []
    for start in range(0, COUNT, ROWS):
        ends = np.cumsum([0, *lengths[start : start + ROWS]])
        values = random.standard_normal(int(ends[-1]) * network.input_size, np.float32)
        steps = pa.FixedSizeListArray.from_arrays(pa.array(values), network.input_size)
        blocks.append(pa.table({"x": pa.LargeListArray.from_arrays(pa.array(ends), steps)}))
    return blocks


def on_ray(network: Network, blocks: list[pa.Table], workers: int) -> Taken:
    """The rate of `stateport.ray.predict`."""
    import ray

    data = ray.data.from_arrow(blocks)
    answers = stateport.ray.predict(
        data, network.path, input="x", rows=ROWS, workers=workers
    ).iter_batches(batch_size=None, batch_format="pyarrow")
    rest = iter(answers)
    next(rest)
    return _timed(lambda: sum(each.num_rows for each in rest), lambda: usage(os.getpid()).cpu)


def without_ray(network: Network, blocks: list[pa.Table], workers: int) -> Taken:
    """The rate of processes that share the blocks."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(workers + 1)
    processes = [
        context.Process(target=_run, args=(network, blocks[number::workers], barrier))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    barrier.wait()  # all have loaded the model

    def finish() -> int:
        for process in processes:
            process.join()
        return COUNT

    return _timed(finish, _ended)


def _run(network: Network, blocks: list[pa.Table], barrier: Barrier) -> None:
    model = stateport.load(network.path)
    options = Options({"x": "x"}, rows=ROWS)
    run_batch(model, blocks[0], options)
    barrier.wait()
    for block in blocks:
        run_batch(model, block, options)


def _timed(work: Callable[[], int], own: Callable[[], float]) -> Taken:
    """The rate of what `work` counts; `own` gives the seconds of CPU of this process's family."""
    begin, before = time.perf_counter(), busy() - own()
    count = work()
    seconds = time.perf_counter() - begin
    return Taken(count / seconds, (busy() - own() - before) / seconds)


def _ended() -> float:
    """Seconds of CPU of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(each.ru_utime + each.ru_stime for each in map(resource.getrusage, kinds))


def _start_ray() -> None:
    warnings.simplefilter("ignore")  # Ray warns of its own use of what others have deprecated
    import ray
    import ray.data

    paths = os.pathsep.join([str(ROOT / "runtime"), str(ROOT)])
    ray.init(
        _node_ip_address="127.0.0.1",
        num_cpus=4,  # logical ones: two for the workers, and some for reading
        include_dashboard=False,
        object_store_memory=2 << 30,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}},
    )
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False


if __name__ == "__main__":
    main()

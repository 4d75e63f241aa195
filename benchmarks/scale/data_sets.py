# SPDX-License-Identifier: Apache-2.0
"""20,000 sequences on one worker of Ray and on two: how much faster two are.

    .venv-ray/bin/python -m benchmarks.scale.data_sets

Both are measured in turns, from the first answers on. The rates are worth something on a quiet
machine alone: the table says how many cores other processes took. CPU time is worth something
anywhere. From it follows what two cores give: with one worker, the rest of Ray has the other core;
with two workers all share the two.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import pyarrow as pa

import stateport.ray
from tests.ray.processes import processes

from ..networks import NETWORKS, Network
from ..serve.usage import usage
from .quiet import busy

ROOT: Final = Path(__file__).parents[2]
COUNT: Final = 20_000
#: Rows of a block, which a worker gets at a time.
ROWS: Final = (250, 1000)
TURNS: Final = 3
MEASURED: Final = NETWORKS[1:3]


@dataclass(frozen=True)
class Taken:
    """What a run took.

    Attributes:
        rate: sequences in a second.
        worker: seconds of CPU of the workers, for each sequence.
        rest: the same of all other processes of Ray.
        others: the cores that processes of others took.
    """

    rate: float
    worker: float
    rest: float
    others: float


def main() -> None:
    """Prints a line for each network and number of rows."""
    _start_ray()
    head = ["network", "rows at a time", "1 worker", "2 workers", "ratio", "cores of others"]
    head += ["worker, µs of CPU", "rest of Ray", "two cores would give"]
    print(f"| {' | '.join(head)} |\n| {' | '.join('---' for _ in head)} |")
    for network in MEASURED:
        for rows in ROWS:
            print(f"| {network} | {rows} | {_cells(network, rows)} |", flush=True)


def _cells(network: Network, rows: int) -> str:
    blocks = blocks_of(network, rows)
    pairs = [
        (on_ray(network, blocks, rows, 1), on_ray(network, blocks, rows, 2)) for _ in range(TURNS)
    ]
    one, two = zip(*pairs, strict=True)
    rates = [median(taken.rate for taken in each) for each in (one, two)]
    ratio = median(b.rate / a.rate for a, b in pairs)
    others = median(taken.others for taken in (*one, *two))
    worker, rest = (median(getattr(t, name) for t in two) for name in ("worker", "rest"))
    cells = [f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{ratio:.2f}", f"{max(others, 0):.1f}"]
    cells += [f"{1e6 * worker:,.0f}", f"{1e6 * rest:,.0f}", f"{2 * worker / (worker + rest):.2f}"]
    return " | ".join(cells)


def blocks_of(network: Network, rows: int) -> list[pa.Table]:
    """Sequences of 1 to 59 steps, so many in each block."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, COUNT)
    blocks = []
    for start in range(0, COUNT, rows):
        ends = np.cumsum([0, *lengths[start : start + rows]])
        values = random.standard_normal(int(ends[-1]) * network.input_size, np.float32)
        steps = pa.FixedSizeListArray.from_arrays(pa.array(values), network.input_size)
        blocks.append(pa.table({"x": pa.LargeListArray.from_arrays(pa.array(ends), steps)}))
    return blocks


def on_ray(network: Network, blocks: list[pa.Table], rows: int, workers: int) -> Taken:
    """Runs the blocks, and measures from the first answers to three quarters: then workers idle."""
    import ray

    answers = stateport.ray.predict(
        ray.data.from_arrow(blocks), network.path, input="x", rows=rows, workers=workers
    )
    rest = iter(answers.iter_batches(batch_size=None, batch_format="pyarrow"))
    for _ in range(workers):
        next(rest)
    begin, all_before, before = time.perf_counter(), busy(), _cpu()
    count = 0
    taken = None
    for table in rest:
        count += table.num_rows
        if taken is None and count >= COUNT * 3 // 4:
            seconds = time.perf_counter() - begin
            worker, family = (now - then for now, then in zip(_cpu(), before, strict=True))
            others = (busy() - all_before - family) / seconds
            taken = Taken(count / seconds, worker / count, (family - worker) / count, others)
    assert taken is not None
    return taken


def _cpu() -> tuple[float, float]:
    """Seconds of CPU of the workers, and of all that this process has started."""
    workers = sum(usage(each).cpu for each in processes("ray::MapWorker"))
    return workers, usage(os.getpid()).cpu


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

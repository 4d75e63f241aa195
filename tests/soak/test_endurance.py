"""What only shows after hundreds of thousands of steps. Run by `make soak`."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import stateport
from stateport import Model, Stream

STREAMS = 1000
#: In batches of other sizes ONNX Runtime sums in another order, and the difference lives on in the
#: state; the reference network forgets it again.
CLOSE = 2e-6


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def grown(step: Callable[[], object]) -> int:
    """By how many bytes the process grows over a million steps, after the first ten thousand."""
    for _ in range(10_000):
        step()
    before = resident()
    for _ in range(990_000):
        step()
    return resident() - before


def test_a_million_steps_of_a_stream_need_no_more_memory(model: Model) -> None:
    stream, x = model.stream(), np.ones((1, 1, 5), np.float32)
    assert grown(lambda: stream(x)) < 1_000_000


def test_a_million_steps_of_a_pool_need_no_more_memory(model: Model) -> None:
    pool, random = model.pool(16), np.random.default_rng(0)
    pool.open(16)
    x = random.standard_normal((16, 1, 5), np.float32)

    def step() -> None:
        count = int(random.integers(1, 17))
        if count == 16:
            pool.close(pool.streams[:3])
            pool.open(3)
        pool.step(pool.streams[:count], x[:count])

    assert grown(step) < 1_000_000


def test_a_thousand_streams_over_200_000_steps(model: Model) -> None:
    random = np.random.default_rng(0)
    pool, beside, worst = model.pool(STREAMS), dict[int, Stream](), 0.0
    for number in range(200_000):
        if len(pool) < STREAMS and random.random() < 0.3:
            for stream in pool.open(int(random.integers(1, STREAMS + 1 - len(pool)))).tolist():
                beside[stream] = model.stream()
        if not len(pool):
            continue
        open_ = pool.streams
        count = len(open_) if number % 2000 == 0 else min(int(random.integers(1, 13)), len(open_))
        chosen = random.permutation(open_)[:count] if number % 4000 else open_
        x = random.standard_normal((len(chosen), 1, 5), np.float32)
        y = pool.step(chosen, x)
        own = np.concatenate([beside[s](x[i : i + 1]) for i, s in enumerate(chosen.tolist())])
        worst = max(worst, float(np.abs(y - own).max()))
        if random.random() < 0.1:
            gone = random.permutation(open_)[: random.integers(1, len(open_) + 1)]
            if len(gone) <= 20 or random.random() < 0.02:
                pool.close(gone)
                for stream in gone.tolist():
                    del beside[stream]
    assert worst <= CLOSE

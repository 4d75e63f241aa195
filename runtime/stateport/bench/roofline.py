"""The roofline: what the machine could do at most, measured beside the model.

A call reads every weight at least once, and multiplies every weight with every row of every step.
So with N weights of B bytes in all, a call of S streams and T steps takes at least

    max(B / bandwidth, 2 S T N / peak)

seconds, where `bandwidth` is measured on a matrix of about B bytes (in the cache where the weights
would be), and `peak` on a product of large matrices, both in float32, with NumPy's BLAS and the
same number of threads. Source: Williams, Waterman, Patterson, "Roofline", CACM 52 (2009),
https://doi.org/10.1145/1498765.1498785.

Activations, biases and the state are left out. A share above 1 is possible: int8 products have a
higher peak than float32's, and another library may know the machine better than NumPy's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from ..errors import StateportError
from ..model_file.onnx_outline import OnnxFile
from .workload import Workload

#: What BLAS libraries read their number of threads from, when they start.
_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS")
#: A matrix of fewer bytes than this says more about the call than about the memory.
_SMALLEST: Final = 1 << 18
_PRODUCT: Final = 768
_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Work:
    """A model's weights: how many a step multiplies, and the bytes that they take."""

    weights: int
    nbytes: int


@dataclass(frozen=True)
class Ceilings:
    """What so many threads can do: bytes per second, float32 operations per second."""

    threads: int
    bandwidth: float
    peak: float

    def least(self, work: Work, load: Workload) -> float:
        """The seconds that a call takes at least."""
        operations = 2 * work.weights * load.streams * load.time
        return max(work.nbytes / self.bandwidth, operations / self.peak)


def work_of(file: OnnxFile) -> Work:
    """The matrices among a file's weights, without tables of which a call reads a few rows."""
    matrices = [
        weight
        for weight in file.weights
        if sum(size > 1 for size in weight.shape) > 1 and weight.name not in file.tables
    ]
    count = sum(int(np.prod(weight.shape)) for weight in matrices)
    return Work(count, sum(weight.nbytes for weight in matrices))


def measure_ceilings(threads: int, nbytes: int) -> Ceilings:
    """Measures both ceilings, in a process of its own: BLAS reads its threads when it starts.

    Args:
        threads: how many threads both may use.
        nbytes: the bytes of the model's weights.

    Raises:
        StateportError: the process failed.
    """
    settings = [{}, {"OPENBLAS_CORETYPE": "SKYLAKEX"}] if _has_avx512() else [{}]
    found = [
        _in_a_process(nbytes, {**dict.fromkeys(_THREADS, str(threads)), **s}) for s in settings
    ]
    return Ceilings(threads, max(b for b, _ in found), max(p for _, p in found))


def _has_avx512() -> bool:
    """Whether AVX-512 is there: by itself, OpenBLAS leaves it alone on AMD's processors."""
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _in_a_process(nbytes: int, settings: dict[str, str]) -> tuple[float, float]:
    """Bandwidth and peak, under these settings of the environment."""
    code = "from stateport.bench.roofline import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(nbytes)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines() or ["it said nothing"]
        raise StateportError(f"The machine's ceilings could not be measured: {last[-1]}.")
    bandwidth, peak = json.loads(done.stdout)
    return bandwidth, peak


def main() -> None:
    """Says bytes per second and operations per second, as JSON on stdout."""
    sys.stdout.write(json.dumps([_bandwidth(int(sys.argv[1])), _peak()]))


def _bandwidth(nbytes: int) -> float:
    side = int(np.sqrt(max(nbytes, _SMALLEST) / 4))
    matrix, vector = np.ones((side, side), np.float32), np.ones(side, np.float32)
    out = np.empty(side, np.float32)
    return matrix.nbytes / _quickest(lambda: np.matmul(matrix, vector, out=out))


def _peak() -> float:
    one = np.ones((_PRODUCT, _PRODUCT), np.float32)
    out = np.empty_like(one)
    return 2 * _PRODUCT**3 / _quickest(lambda: np.matmul(one, one, out=out))


def _quickest(call: Callable[[], object]) -> float:
    """The shortest time of a call: a ceiling is what is possible, not what is usual."""
    call()
    found: list[float] = []
    end = perf_counter() + _SECONDS
    while len(found) < 5 or perf_counter() < end:
        begin = perf_counter()
        call()
        found.append(perf_counter() - begin)
    return min(found)

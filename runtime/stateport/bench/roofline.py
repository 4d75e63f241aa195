# SPDX-License-Identifier: Apache-2.0
"""The roofline: the shortest time that a call can take on this machine.

A call reads every weight at least once, and multiplies every weight by every row of every step. So
with N weights of B bytes in all, a call of S streams and T steps takes at least

    max(B / bandwidth, 2 S T N / peak)

seconds. `bandwidth` is measured with the product of a vector and a matrix of about B bytes, which
lies in the same cache as the weights; `peak` with a product of large matrices. Both are measured in
float32 with NumPy's BLAS and the same number of threads. Source: Williams, Waterman, Patterson,
"Roofline", CACM 52 (2009), https://doi.org/10.1145/1498765.1498785.

A network that takes several steps at a time (its contract's multiple) may use most of its weights
once for all of them, so that T is divided by the multiple. Activations, biases and the state are
not counted. A share above 1 is possible: int8 products have a higher peak than those in float32, an
engine's library may be faster than NumPy's, and a file without a contract does not say how rarely
it uses its weights.
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

#: The variables from which BLAS libraries read their number of threads when they start.
_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS")
#: The smallest matrix, in bytes. With a smaller one the call itself takes most of the time.
_SMALLEST: Final = 1 << 18
#: The rows and columns of the matrices that measure the peak.
_PRODUCT: Final = 768
#: How long each of the two is measured, and how often at least.
_SECONDS: Final = 0.05
_FEWEST_CALLS: Final = 5


@dataclass(frozen=True)
class Work:
    """A model's weights: how many a step multiplies, and their size in bytes."""

    weights: int
    nbytes: int


@dataclass(frozen=True)
class Ceilings:
    """The limits of `threads` threads: bytes per second, and float32 operations per second."""

    threads: int
    bandwidth: float
    peak: float

    def least(self, work: Work, load: Workload, multiple: int = 1) -> float:
        """The seconds that a call takes at least.

        Args:
            work: the model's weights.
            load: the streams and steps of the call.
            multiple: how many steps the network takes at a time.
        """
        times = max(load.time // multiple, 1)
        operations = 2 * work.weights * load.streams * times
        return max(work.nbytes / self.bandwidth, operations / self.peak)


def work_of(file: OnnxFile) -> Work:
    """The matrices among a file's weights. Of embedding tables a call reads a few rows only."""
    count = nbytes = 0
    for weight in file.weights:
        is_matrix = sum(size > 1 for size in weight.shape) > 1
        if is_matrix and weight.name not in file.tables:
            count += int(np.prod(weight.shape))
            nbytes += weight.nbytes
    return Work(count, nbytes)


def measure_ceilings(threads: int, nbytes: int) -> Ceilings:
    """Measures both limits in a new process, since BLAS reads its number of threads at the start.

    Args:
        threads: how many threads both may use.
        nbytes: the bytes of the model's weights.

    Raises:
        StateportError: the process failed.
    """
    variables = dict.fromkeys(_THREADS, str(threads))
    settings = [variables]
    if _has_avx512():  # OpenBLAS does not use it by default on AMD's processors
        settings.append({**variables, "OPENBLAS_CORETYPE": "SKYLAKEX"})

    limits = [_measure_in_process(nbytes, setting) for setting in settings]
    bandwidths, peaks = zip(*limits, strict=True)
    return Ceilings(threads, max(bandwidths), max(peaks))


def _has_avx512() -> bool:
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def _measure_in_process(nbytes: int, variables: dict[str, str]) -> tuple[float, float]:
    """Bandwidth and peak, measured in a new process with these environment variables."""
    code = "from stateport.bench.roofline import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", code, str(nbytes)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines() or ["the process printed no error"]
        raise StateportError(f"The machine's ceilings could not be measured: {lines[-1]}.")

    bandwidth, peak = json.loads(process.stdout)
    return bandwidth, peak


def main() -> None:
    """Prints bytes per second and operations per second as JSON. Runs in the new process."""
    sys.stdout.write(json.dumps([_bandwidth(int(sys.argv[1])), _peak()]))


def _bandwidth(nbytes: int) -> float:
    side = int(np.sqrt(max(nbytes, _SMALLEST) / 4))  # 4 bytes per float32
    matrix = np.ones((side, side), np.float32)
    vector = np.ones(side, np.float32)
    out = np.empty(side, np.float32)

    return matrix.nbytes / _shortest_time(lambda: np.matmul(matrix, vector, out=out))


def _peak() -> float:
    matrix = np.ones((_PRODUCT, _PRODUCT), np.float32)
    out = np.empty_like(matrix)

    return 2 * _PRODUCT**3 / _shortest_time(lambda: np.matmul(matrix, matrix, out=out))


def _shortest_time(call: Callable[[], object]) -> float:
    """The seconds of the fastest call: a limit is what is possible, not what is usual."""
    call()

    times: list[float] = []
    end = perf_counter() + _SECONDS
    while len(times) < _FEWEST_CALLS or perf_counter() < end:
        begin = perf_counter()
        call()
        times.append(perf_counter() - begin)
    return min(times)

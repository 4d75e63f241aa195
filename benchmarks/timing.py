"""Timing contenders against one another, in one process and in turn.

These machines are noisy, so only ratios mean something: each is taken within a round, and the
median of the rounds is given with its quartiles.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

ROUNDS = 30
SECONDS = 0.03  # of each contender in each round

Step = Callable[[], Any]


def on_one_core() -> None:
    """Pins the process, and keeps PyTorch to one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def one_thread(path: Path) -> Any:
    """An ONNX Runtime session as its documentation shows it, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(steps: Mapping[str, Step]) -> dict[str, list[float]]:
    """Seconds per step of each, in rounds in which every one has its turn."""
    counts = {name: calibrated(step) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name].append(timed(step, counts[name]))
    return times


def calibrated(step: Step) -> int:
    """How many steps fill a turn; also warms up."""
    timed(step, 3)
    return max(int(SECONDS / timed(step, 3)), 1)


def timed(step: Step, count: int) -> float:
    """Seconds per step."""
    begin = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - begin) / count


def ratio(times: Mapping[str, list[float]], one: str, other: str) -> str:
    """How many times as long one takes as the other: the median, and the quartiles."""
    pairs = zip(times[one], times[other], strict=True)
    low, middle, high = statistics.quantiles((a / b for a, b in pairs), n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def versions() -> str:
    """What was measured."""
    return f"torch {torch.__version__}, onnxruntime {ort.__version__}, numpy {np.__version__}"

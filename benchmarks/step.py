"""One stream, one step at a time: stateport beside what people write by hand.

Run by `make bench`. All contenders run in one process, pinned to one core, in turn; the ratio is
taken within each round, and the median of the rounds is printed with its quartiles.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table

import stateport
from models.lstm import ReferenceLSTM
from stateport_exporter import export

NETWORKS = ((5, 10, 1), (64, 128, 1), (128, 256, 2))
ROUNDS = 30
SECONDS = 0.03  # of each contender in each round

Step = Callable[[], Any]


def main() -> None:
    """Measures and prints one table."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    table = Table(title=f"One step, batch 1, one core. {versions()}")
    for heading in ("network", "contender", "us (median)", "ratio to session.run", "quartiles"):
        table.add_column(heading, justify="right")
    for sizes in NETWORKS:
        times = measure(contenders(*sizes))
        base = times["session.run"]
        for name, own in times.items():
            ratios = sorted(a / b for a, b in zip(own, base, strict=True))
            low, middle, high = statistics.quantiles(ratios, n=4)
            table.add_row(
                "{}, {}x{}".format(*sizes),
                name,
                f"{statistics.median(own) * 1e6:.1f}",
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
            )
    Console(width=110).print(table)


def contenders(input_size: int, hidden: int, layers: int) -> dict[str, Step]:
    """The same network, stepped in several ways."""
    module = ReferenceLSTM(input_size, hidden, layers).eval()
    x = np.random.default_rng(0).standard_normal((1, 1, input_size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = export(module, module.example_inputs, Path(folder) / "m.onnx").path
        stream = stateport.load(path).stream()
        session = one_thread(path)
    zeros = np.zeros((layers, 1, hidden), np.float32)
    state: list[Any] = [zeros, zeros]
    torch_state: list[Any] = [torch.from_numpy(zeros), torch.from_numpy(zeros)]
    torch_x = torch.from_numpy(x)

    def documented() -> None:
        _, *state[:] = session.run(None, {"x": x, "h0": state[0], "c0": state[1]})

    def eager() -> None:
        with torch.no_grad():
            _, *torch_state[:] = module(torch_x, *torch_state)

    return {
        "session.run": documented,
        "stateport Stream": lambda: stream(x),
        "PyTorch eager": eager,
    }


def one_thread(path: Path) -> Any:
    """An ONNX Runtime session as its documentation shows it, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure(steps: dict[str, Step]) -> dict[str, list[float]]:
    """Seconds per step of each, in rounds in which every one has its turn."""
    counts = {name: calibrated(step) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            times[name].append(timed(step, counts[name]))
    return times


def calibrated(step: Step) -> int:
    """How many steps fill a turn; also warms up."""
    return max(int(SECONDS / timed(step, 200)), 10)


def timed(step: Step, count: int) -> float:
    """Seconds per step."""
    begin = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - begin) / count


def versions() -> str:
    """What was measured."""
    return f"torch {torch.__version__}, onnxruntime {ort.__version__}, numpy {np.__version__}"


if __name__ == "__main__":
    main()

"""One stream, one step at a time: stateport beside what people write by hand.

Run by `make bench`, which prints a table for docs/performance.md.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import stateport
from models.lstm import ReferenceLSTM
from stateport_exporter import export

from .timing import Step, measure, on_one_core, one_thread, ratio, versions

NETWORKS = ((5, 10, 1), (64, 128, 1), (128, 256, 2))


def main() -> None:
    """Measures and prints one table."""
    on_one_core()
    table = Table(title=f"One step, batch 1, one core. {versions()}")
    for heading in ("network", "contender", "us (median)", "ratio to session.run"):
        table.add_column(heading, justify="right")
    for sizes in NETWORKS:
        times = measure(contenders(*sizes))
        for name, own in times.items():
            table.add_row(
                "{}, {}x{}".format(*sizes),
                name,
                f"{statistics.median(own) * 1e6:.1f}",
                ratio(times, name, "session.run"),
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


if __name__ == "__main__":
    main()

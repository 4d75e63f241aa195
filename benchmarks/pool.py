"""256 streams, one step each: the pool beside what people write by hand.

Run by `make bench`, which prints a table for docs/performance.md.
"""

from __future__ import annotations

import tempfile
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

from .timing import Step, measure, on_one_core, one_thread, ratio, versions

NETWORKS = ((5, 10, 1), (64, 128, 1), (128, 256, 2), (256, 512, 2))
STREAMS = 256
RATIOS = (
    ("pool, all", "bound by hand"),
    ("pool, all", "a loop over streams"),
    ("pool, all", "concatenate, run, split"),
    ("pool, all", "PyTorch batched"),
    ("pool, a random half", "pool, all of half as many"),
)


def main() -> None:
    """Measures and prints one table."""
    on_one_core()
    table = Table(title=f"{STREAMS} streams, one step each, one core. {versions()}")
    for heading in ("network", "what", "against", "ratio of time"):
        table.add_column(heading)
    for sizes in NETWORKS:
        times = measure(contenders(*sizes))
        for one, other in RATIOS:
            table.add_row("{}, {}x{}".format(*sizes), one, other, ratio(times, one, other))
    Console(width=110).print(table)


def contenders(input_size: int, hidden: int, layers: int) -> dict[str, Step]:
    """The same network, stepped for many streams in several ways."""
    module = ReferenceLSTM(input_size, hidden, layers).eval()
    random = np.random.default_rng(0)
    x = random.standard_normal((STREAMS, 1, input_size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = export(module, module.example_inputs, Path(folder) / "m.onnx").path
        model = stateport.load(path)
        session = one_thread(path)
    pool = model.pool(STREAMS)
    streams = pool.open(STREAMS)
    half = np.sort(random.permutation(STREAMS)[: STREAMS // 2])
    some, x_of_some = streams[half], x[half]
    smaller = model.pool(len(half))
    all_of_smaller = smaller.open(len(half))
    return {
        "pool, all": lambda: pool.step(streams, x),
        "pool, a random half": lambda: pool.step(some, x_of_some),
        "pool, all of half as many": lambda: smaller.step(all_of_smaller, x_of_some),
        "bound by hand": bound(session, x, (layers, STREAMS, hidden)),
        **by_hand(session, module, x, (layers, STREAMS, hidden)),
    }


def bound(session: Any, x: Any, shape: tuple[int, ...]) -> Step:
    """One call on buffers that are there already, the least that there is to do."""
    binding = session.io_binding()
    arrays = {
        "x": x.copy(),
        **{name: np.zeros(shape, np.float32) for name in ("h0", "c0", "hn", "cn")},
        "y": np.zeros((*x.shape[:2], shape[-1]), np.float32),
    }
    for name, array in arrays.items():
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if name in ("x", "h0", "c0"):
            binding.bind_ortvalue_input(name, value)
        else:
            binding.bind_ortvalue_output(name, value)

    def step(_held: object = arrays) -> None:
        session.run_with_iobinding(binding)

    return step


def by_hand(session: Any, module: Any, x: Any, shape: tuple[int, ...]) -> dict[str, Step]:
    """A state per stream, as one would keep it without stateport."""
    layers, streams, hidden = shape
    zero = np.zeros((layers, 1, hidden), np.float32)
    alone: list[Any] = [(zero, zero)] * streams
    together: list[Any] = [(zero, zero)] * streams
    xs = [x[i : i + 1] for i in range(streams)]
    torch_x = torch.from_numpy(x)
    torch_state: list[Any] = [torch.zeros(shape), torch.zeros(shape)]

    def loop() -> None:
        for i, (h, c) in enumerate(alone):
            alone[i] = session.run(None, {"x": xs[i], "h0": h, "c0": c})[1:]

    def concatenated() -> None:
        h, c = (np.concatenate(part, axis=1) for part in zip(*together, strict=True))
        _, h, c = session.run(None, {"x": np.concatenate(xs), "h0": h, "c0": c})
        together[:] = [(h[:, i : i + 1], c[:, i : i + 1]) for i in range(streams)]

    def batched() -> None:
        with torch.no_grad():
            _, *torch_state[:] = module(torch_x, *torch_state)

    return {
        "a loop over streams": loop,
        "concatenate, run, split": concatenated,
        "PyTorch batched": batched,
    }


if __name__ == "__main__":
    main()

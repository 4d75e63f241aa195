"""What an export costs, beside `torch.onnx.export` and beside another commit of stateport.

`python -m benchmarks.export_cost` exports each network in turns, in processes that live through all
rounds, and prints ratios. The first export of a process is not counted: it loads what later ones
find loaded. `--against FOLDER` adds the checkout of another commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

import click
import numpy as np
import torch
from torch import Tensor, nn

from models.lstm import ReferenceLSTM
from stateport import StateportError
from stateport_exporter import Spec, export
from tests.exporter.patterns import PATTERNS, Pattern, seeded

from .processor import processor

ROOT: Final = Path(__file__).parents[1]
STATEPORT, TORCH, OTHER = "stateport", "torch", "the other commit"


class Forecaster(nn.Module):
    """Two layers whose state nobody sees, and a head: (batch, time, 4) -> (batch, time, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The forecast at every step."""
        y, _ = self.lstm(x)
        forecast: Tensor = self.head(y)
        return forecast


@dataclass(frozen=True)
class Cost:
    """One export: seconds by the clock, seconds of the processor, and the digest of the file.

    The digest is empty where the network was refused.
    """

    clock: float
    processor: float
    digest: str


@click.command()
@click.argument("names", nargs=-1)
@click.option("--rounds", default=5, show_default=True, help="Exports of each that are counted.")
@click.option("--against", type=click.Path(exists=True, path_type=Path), help="Another checkout.")
def main(names: tuple[str, ...], rounds: int, against: Path | None) -> None:
    """Measures the reference network and the forecaster, or networks and patterns by NAMES.

    A name may be a part of one, as "loop".
    """
    print(f"{processor()}, torch {torch.__version__}; ratios of {rounds} rounds: median (spread)")
    for name in _names(names):
        with contextlib.ExitStack() as stack:
            mine = stack.enter_context(_worker(ROOT))
            other = stack.enter_context(_worker(against)) if against else None
            runs: dict[str, Callable[[], Cost]] = {STATEPORT: partial(_ask, mine, name, STATEPORT)}
            if other is not None:
                runs[OTHER] = partial(_ask, other, name, STATEPORT)
            if name in NETWORKS:
                runs["torch.onnx.export"] = partial(_ask, mine, name, TORCH)
            _print_row(name, _in_turns(runs, rounds))


def _names(parts: Sequence[str]) -> Iterator[str]:
    """The networks whose names contain one of these parts; the first two where none is given."""
    if not parts:
        yield from NETWORKS
        return

    for name in (*NETWORKS, *map(str, PATTERNS)):
        if any(part in name for part in parts):
            yield name


def _in_turns(runs: dict[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """The costs of each run in every round but the first."""
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            costs[name].append(run())
    return {name: of_one[1:] for name, of_one in costs.items()}


def _print_row(name: str, costs: dict[str, list[Cost]]) -> None:
    mine = costs.pop(STATEPORT)
    cells = [f"{name}: {np.median([cost.clock for cost in mine]):.2f} s"]
    for other, theirs in costs.items():
        clock = [a.clock / b.clock for a, b in zip(mine, theirs, strict=True)]
        cpu = [a.processor / b.processor for a, b in zip(mine, theirs, strict=True)]
        cells.append(f"by {other}: {_spread(clock)} by the clock, {_spread(cpu)} of the processor")
        if other == OTHER:
            same = {cost.digest for cost in mine} == {cost.digest for cost in theirs}
            cells.append("same file" if same else "ANOTHER FILE")
    print("; ".join(cells), flush=True)


def _spread(ratios: Sequence[float]) -> str:
    return f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


@contextlib.contextmanager
def _worker(tree: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that exports with the stateport of a checkout, and the networks of this one."""
    path = os.pathsep.join(map(str, (tree / "runtime", tree / "exporter", ROOT)))
    process = subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.export_cost import work; work()"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _ask(worker: subprocess.Popen[str], network: str, exporter: str) -> Cost:
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(json.dumps([network, exporter]), file=worker.stdin, flush=True)
    answer = worker.stdout.readline()
    if not answer:
        raise SystemExit(f"Exporting {network} took its process down.")
    return Cost(**json.loads(answer))


def work() -> None:
    """Exports what the lines of stdin name, and writes what that cost to stdout."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            network, exporter = json.loads(line)
            cost = _cost(_prepared(network, exporter, Path(folder) / "m.onnx"))
            print(json.dumps(asdict(cost)), file=answers, flush=True)


def _cost(run: Callable[[], Path | None]) -> Cost:
    clock, cpu = perf_counter(), process_time()
    path = run()
    clock, cpu = perf_counter() - clock, process_time() - cpu
    return Cost(clock, cpu, hashlib.sha256(path.read_bytes()).hexdigest() if path else "")


def _prepared(name: str, exporter: str, path: Path) -> Callable[[], Path | None]:
    """One export, ready to be called."""
    if name in NETWORKS:
        net, example, shapes = NETWORKS[name]()
        if exporter == TORCH:
            return lambda: _export_by_torch(net, example, shapes, path)
        return lambda: _export_by_stateport(net, example, path, "forward")

    pattern: Pattern = next(pattern for pattern in PATTERNS if str(pattern) == name)
    return lambda: _export_by_stateport(seeded(pattern.make), pattern.example, path, pattern.method)


def _export_by_stateport(net: nn.Module, example: Any, path: Path, method: str) -> Path | None:
    try:
        export(net, example, path, method=method)
    except StateportError:
        return None
    return path


def _export_by_torch(net: nn.Module, example: Any, shapes: Any, path: Path) -> Path:
    """Exports as PyTorch's documentation shows it."""
    batch, time = 3, 7
    arguments = tuple(
        spec.make({"batch": batch, "time": time}, np.random.default_rng(0)) for spec in example
    )
    torch.onnx.export(net.eval(), arguments, path, dynamic_shapes=shapes, dynamo=True)
    return path


def _reference() -> tuple[nn.Module, Any, Any]:
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    state = Spec("float32", 1, "batch", 10)
    example = (Spec("float32", "batch", "time", 5), state, state)
    return ReferenceLSTM(), example, ({0: batch, 1: time}, {1: batch}, {1: batch})


def _forecaster() -> tuple[nn.Module, Any, Any]:
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("time")},)
    return seeded(Forecaster), (Spec("float32", "batch", "time", 4),), shapes


#: Name -> the network, its example, and the axes as PyTorch's exporter takes them.
NETWORKS: Final[dict[str, Callable[[], tuple[nn.Module, Any, Any]]]] = {
    "reference": _reference,
    "two-layer forecaster": _forecaster,
}

if __name__ == "__main__":
    main()

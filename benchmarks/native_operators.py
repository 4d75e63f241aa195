"""Linear attention as a loop, and as ONNX Runtime's own operator: the time of a step.

`make bench-native` rewrites the table of this kind of processor in docs/performance.md, and leaves
that of the other kind alone. Both forms of one network take turns on one pinned core.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import torch
from torch import Tensor, nn

import stateport
from stateport.bench.timing import measure, ratio
from stateport.bench.workload import Workload, step_call
from stateport_exporter import export

from .marks import replace_of_processor
from .processor import DOCS, kind_of_processor, processor

PAGE: Final = DOCS / "performance.md"
STREAMS: Final = (1, 64)
#: Heads, and the sizes of keys and values.
SIZES: Final = ((4, 16), (4, 32), (4, 64), (8, 64))


class LinearAttention(nn.Module):
    """Gated linear attention, written as a loop over time."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """Queries, keys, values and gates (batch, time, heads, size); values of the same shape."""
        batch, time, heads, size = q.shape
        decay = torch.sigmoid(g)
        matrix = q.new_zeros(batch, heads, size, size)

        outputs = []
        for t in range(time):
            matrix = matrix * decay[:, t, :, :, None] + k[:, t, :, :, None] * v[:, t, :, None]
            outputs.append((q[:, t, :, :, None] * matrix).sum(-2))
        return torch.stack(outputs, 1)


class Layer(nn.Module):
    """Gated linear attention with its projections: (batch, time, heads x size) in and out."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.projections = nn.Linear(heads * size, 4 * heads * size)
        self.attention = LinearAttention()
        self.out = nn.Linear(heads * size, heads * size)

    def forward(self, x: Tensor) -> Tensor:
        """Values of the shape of x."""
        batch, time = x.shape[:2]
        parts = self.projections(x).chunk(4, -1)
        heads = [part.reshape(batch, time, self.heads, self.size) for part in parts]
        y: Tensor = self.out(self.attention(*heads).flatten(2))
        return y


def networks() -> Iterator[tuple[str, nn.Module, Callable[[int, int], tuple[Tensor, ...]]]]:
    """The name, the network and the example of each row."""
    for heads, size in SIZES:

        def alone(
            batch: int, time: int, shape: tuple[int, int] = (heads, size)
        ) -> tuple[Tensor, ...]:
            return tuple(torch.randn(batch, time, *shape) for _ in range(4))

        yield f"attention alone, {heads} heads of {size}", LinearAttention(), alone

    for heads, size in SIZES:

        def layer(batch: int, time: int, width: int = heads * size) -> tuple[Tensor, ...]:
            return (torch.randn(batch, time, width),)

        yield f"with its projections, {heads} heads of {size}", Layer(heads, size), layer


def measured_row(loop: Path, native: Path, rounds: int) -> list[str]:
    """The operator's time as a share of the loop's, for each number of streams."""
    cells = []
    models = [stateport.load(path, engine="ort-cpu") for path in (loop, native)]
    for streams in STREAMS:
        calls = {str(n): step_call(model, Workload(streams, 1)) for n, model in enumerate(models)}
        times = measure(calls, rounds=rounds)
        share = ratio(times["1"], times["0"])
        cells.append(f"{share.median:.2f} ({share.low:.2f} to {share.high:.2f})")
    return cells


@click.command()
@click.option("--rounds", default=30, show_default=True, help="Turns of each form.")
@click.option("--page", default=PAGE, type=click.Path(path_type=Path), help="The page to rewrite.")
def main(rounds: int, page: Path) -> None:
    """Measures both forms of every network and rewrites this processor's table."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = ["| network | 1 stream, of the loop's time | 64 streams |", "| --- | --- | --- |"]

    with tempfile.TemporaryDirectory() as folder:
        for name, module, example in networks():
            torch.manual_seed(0)
            loop, native = Path(folder, "loop.onnx"), Path(folder, "native.onnx")
            export(module, example, loop)
            export(module, example, native, operators="native")
            rows.append(f"| {name} | {' | '.join(measured_row(loop, native, rounds))} |")

    lines = [f"{processor()}.", "", *rows]
    replace_of_processor(page, "native", kind_of_processor(), lines)


if __name__ == "__main__":
    main()

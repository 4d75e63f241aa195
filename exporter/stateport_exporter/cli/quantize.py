"""`stateport quantize`: weights in 8 or 4 bits."""

from __future__ import annotations

from pathlib import Path

import click

from stateport.cli.common import FILE
from stateport.cli.output import progress, say, show


@click.command()
@click.argument("model", type=FILE, metavar="MODEL.onnx")
@click.option("-o", "--output", type=FILE, required=True, help="Write OUT.onnx.")
@click.option("--bits", type=click.Choice(["8", "4"]), default="8", show_default=True)
@click.option("--no-check", is_flag=True, help="Write the file even if it fails verification.")
def quantize(model: Path, output: Path, bits: str, no_check: bool) -> None:
    """Make the weights of MODEL.onnx 8 or 4 bits wide, for ONNX Runtime on the CPU.

    LSTM, GRU, RNN, loops and linear layers are quantised; what was not is listed with the reason.
    The contract stays the same. The file is verified with a signal-to-noise budget, over chains of
    thousands of steps, before it appears.
    """
    from rich.table import Table

    from stateport.parity.reports.text import summary

    from ..quantize_file import quantize as run_quantize

    with progress(f"Quantising {model}"):
        result = run_quantize(model, output, bits=int(bits), check=not no_check)
    grid = Table(box=None, pad_edge=False)
    for heading in ("operator", "weights", "now"):
        grid.add_column(heading, overflow="fold")
    for one in result.outcomes:
        grid.add_row(one.operator, one.name, one.form or f"as it was: {one.reason}")
    show(grid)
    before, after = model.stat().st_size, output.stat().st_size
    say(f"{output}: {after:,} bytes, {after / before:.0%} of {before:,}")
    if result.report is not None:
        say(*summary(result.report))
    say(*result.remarks)

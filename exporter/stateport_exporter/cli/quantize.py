# SPDX-License-Identifier: Apache-2.0
"""`stateport quantize`: weights in 8 or 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stateport.cli.common import FILE
from stateport.cli.output import progress, say, show
from stateport.table import Column, Table

from .options import NO_CHECK, no_check_in_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..variants.quantization import QuantizedOperator


@click.command()
@click.argument("model", type=FILE, metavar="MODEL.onnx")
@click.option("-o", "--output", type=FILE, required=True, help="The file to write, OUT.onnx.")
@click.option(
    "--bits",
    type=click.Choice(["8", "4"]),
    default="8",
    show_default=True,
    help="The width of the weights.",
)
@NO_CHECK
def quantize(model: Path, output: Path, bits: str, no_check: bool) -> None:
    """Make the weights of MODEL.onnx 8 or 4 bits wide, for ONNX Runtime on the CPU.

    The command quantises LSTM, GRU, RNN, loops and linear layers, and lists every operator with
    weights, with the reason where it left one as it was. The contract stays the same.

    If ONNX Runtime is installed, the command verifies the new file first, over sequences of
    thousands of steps. It writes nothing if the signal-to-noise ratio is below the budget.
    """
    from stateport.parity.reports.text import summary

    with progress("importing the exporter") as show_step, no_check_in_errors():
        from ..quantize_file import quantize as run_quantize

        result = run_quantize(model, output, bits=int(bits), check=not no_check, progress=show_step)

    _show_operators(result.outcomes)
    before = model.stat().st_size
    after = output.stat().st_size
    say(f"{output}: {after:,} bytes, {after / before:.0%} of {before:,}")
    if result.report is not None:
        say(*summary(result.report))
    say(*result.remarks)


def _show_operators(operators: Iterable[QuantizedOperator]) -> None:
    table = Table(Column("operator"), Column("weights", wraps=True), Column("now", wraps=True))
    for each in operators:
        table.add(each.operator, each.name, each.form or f"as it was: {each.reason}")
    show(table)

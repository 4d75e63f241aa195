"""`stateport lift`: hidden states of an ONNX file become inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import click

from stateport.cli.common import CONSTANTS, FILE, STATES, named_constants, named_states
from stateport.cli.output import progress, say, show

from .said import say_contract


@click.command()
@click.argument("source", type=FILE, metavar="IN.onnx")
@click.option("-o", "--output", type=FILE, required=True, help="Write OUT.onnx.")
@STATES
@CONSTANTS
def lift(source: Path, output: Path, states: tuple[str, ...], constants: tuple[str, ...]) -> None:
    """Make the hidden states of IN.onnx explicit inputs and outputs.

    LSTM, GRU and RNN operators whose first state is absent, zero or constant get it from an input,
    and give the last one to an output. The new file gets a contract and is held against the old
    one, whole and in chunks. What was lifted is listed, and what was left, with the reason.
    """
    from rich.table import Table

    from stateport.parity.reports.text import summary

    from ..lift_file import lift as run_lift

    with progress(f"Lifting {source}"):
        result = run_lift(
            source, output, states=named_states(states), constants=named_constants(constants)
        )
    grid = Table(box=None, pad_edge=False)
    for heading in ("operator", "name", "what became of it"):
        grid.add_column(heading, overflow="fold")
    for one in result.outcomes:
        grid.add_row(
            one.operator, one.name, f"{one.what}: {one.reason}" if one.reason else one.what
        )
    show(grid)
    say_contract(result.contract, result.lifted)
    for pair in result.possible_states:
        say(f"note: {pair}; --state {pair.argument}={pair.result} takes them.")
    say(f"Wrote {result.path} and {result.vectors.name}.")
    say(*summary(result.report))

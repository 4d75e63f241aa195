# SPDX-License-Identifier: Apache-2.0
"""`stateport lift`: hidden states of an ONNX file become inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stateport.cli.common import CONSTANTS, FILE, STATES, named_constants, named_states
from stateport.cli.output import progress, say, show
from stateport.table import Column, Table

from .printing import say_contract

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..foreign.states import LiftedOperator


@click.command()
@click.argument("source", type=FILE, metavar="IN.onnx")
@click.option("-o", "--output", type=FILE, required=True, help="The file to write, OUT.onnx.")
@STATES
@CONSTANTS
@click.option(
    "--over-time",
    is_flag=True,
    help="Turn a file of one step per call, (1, 1, n), into one that takes any number of steps.",
)
def lift(
    source: Path,
    output: Path,
    states: tuple[str, ...],
    constants: tuple[str, ...],
    over_time: bool,
) -> None:
    """Make the hidden states of IN.onnx explicit inputs and outputs.

    An LSTM, GRU or RNN operator whose first state is absent, zero or constant gets its first state
    from a new input, and gives its last state to a new output. So does a value that a Scan or Loop
    over time carries. The new file also gets a contract.

    The command compares the new file with the old one, on whole sequences and on chunks, and
    writes nothing if their answers differ. It lists every recurrent operator, with the reason
    where it could not lift one.
    """
    from stateport.parity.reports.text import summary

    with progress("importing the exporter") as show_step:
        from ..lift_file import lift as run_lift

        result = run_lift(
            source,
            output,
            states=named_states(states),
            constants=named_constants(constants),
            over_time=over_time,
            progress=show_step,
        )

    _show_operators(result.outcomes)
    say_contract(result.contract, result.lifted)
    for note in result.notes:
        say(f"note: {note}.")
    for pair in result.possible_states:
        say(f"note: {pair}; --state {pair.argument}={pair.result} makes them a state.")
    say(f"Wrote {result.path} and {result.vectors.name}.")
    say(*summary(result.report))


def _show_operators(operators: Iterable[LiftedOperator]) -> None:
    table = Table(Column("operator"), Column("name", wraps=True), Column("result", wraps=True))
    for each in operators:
        reason = f": {each.reason}" if each.reason else ""
        table.add(each.operator, each.name, f"{each.what}{reason}")
    show(table)

# SPDX-License-Identifier: Apache-2.0
"""`stateport contract`: an ONNX file with states of its own gets a contract and vectors."""

from __future__ import annotations

from pathlib import Path

import click

from stateport.cli.common import CONSTANTS, FILE, STATES, named_axes, named_constants, named_states
from stateport.cli.output import progress, say

from .printing import say_contract


@click.command()
@click.argument("source", type=FILE, metavar="IN.onnx")
@click.option("-o", "--output", type=FILE, required=True, help="The file to write, OUT.onnx.")
@STATES
@CONSTANTS
@click.option(
    "--axes",
    multiple=True,
    metavar="NAME=AXIS,...",
    help="Name the axes of an input or output: x=batch,time,5. Repeatable.",
)
def contract(
    source: Path,
    output: Path,
    states: tuple[str, ...],
    constants: tuple[str, ...],
    axes: tuple[str, ...],
) -> None:
    """Write a contract into a copy of IN.onnx, whose states are inputs and outputs.

    The graph stays as it is. States without --state are recognised by their names. An axis that
    the file leaves open without a usable name is found by running the file at two sizes; --axes
    names it, and --constant gives an input the same value in every call. (`stateport lift` is for
    a file that hides its states.)

    The command records vectors beside the copy: the answers of the graph itself in float64. It
    verifies ONNX Runtime against them, and writes nothing if that fails. Every other command then
    works on the copy.
    """
    from stateport.parity.reports.text import summary

    with progress("importing the exporter") as show_step:
        from ..contract_file import add_contract

        result = add_contract(
            source,
            output,
            states=named_states(states),
            axes=named_axes(axes),
            progress=show_step,
            constants=named_constants(constants),
        )

    say_contract(result.contract, ())
    if result.truth == "float32":
        say(
            "note: the graph cannot be evaluated in float64, so the vectors are the answers of "
            "ONNX Runtime."
        )
    for note in result.notes:
        say(f"note: {note}.")
    say(f"Wrote {result.path} and {result.vectors.name}.")
    say(*summary(result.report))

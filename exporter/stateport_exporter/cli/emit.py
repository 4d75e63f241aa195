# SPDX-License-Identifier: Apache-2.0
"""`stateport emit`: a model's step as source code for devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from stateport.cli.common import FILE
from stateport.cli.output import progress, say, show
from stateport.table import facts

from .options import NO_CHECK, no_check_in_errors

if TYPE_CHECKING:
    from ..emit_file import EmitResult


@click.group(short_help="Write a model's step as source code for devices.")
def emit() -> None:
    """Write a model's step as source code, for devices that have no runtime.

    `stateport emit c` writes C.
    """


@emit.command(name="c", short_help="Write a model's step as C99, with its state in a struct.")
@click.argument("model", type=FILE, metavar="MODEL.onnx")
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    metavar="FOLDER",
    help="The folder for the files; it is made if it is not there.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1, max=1 << 16),
    default=1,
    show_default=True,
    metavar="N",
    help="The rows of a batch in each step.",
)
@click.option(
    "--name",
    default="model",
    show_default=True,
    metavar="NAME",
    help="What the files and the names in C begin with.",
)
@NO_CHECK
def emit_c_command(model: Path, output: Path, batch: int, name: str, no_check: bool) -> None:
    """Write one step of MODEL.onnx as C99 source into a folder.

    The files are NAME.h, NAME.c, NAME_test.c and README.md. They need no library but math.h, and
    allocate nothing: a struct holds the state, and a function takes a step. The test has recorded
    inputs and PyTorch's answers, and returns 0, or says the first difference. Where there is a C
    compiler, it is run before the files appear.

    A network that needs whole sequences is refused with the reason.
    """
    with progress("importing the exporter") as show_step, no_check_in_errors():
        from ..emit_file import emit_c

        result = emit_c(
            model, output, batch=batch, name=name, check=not no_check, progress=show_step
        )

    _show(result)
    say(*result.remarks)


def _show(result: EmitResult) -> None:
    table = facts()
    table.add("constants", f"{result.constants:,} bytes")
    table.add("state", f"{result.state:,} bytes for each sequence")
    table.add("local arrays", f"{result.scratch:,} bytes of stack during a step")
    table.add("multiplications", f"{result.multiplications:,} in a step")
    show(table)

    tested = "; its test passes here" if result.tested else ""
    say(f"Wrote {', '.join(result.files)} into {result.folder}{tested}.")

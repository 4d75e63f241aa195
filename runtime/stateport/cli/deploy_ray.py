# SPDX-License-Identifier: Apache-2.0
"""`stateport deploy ray`: write an application for Ray Serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import ENGINE, FILE, Finite
from .output import say


@click.command(short_help="Write an application for Ray Serve: streams on many replicas.")
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL.onnx...")
@click.option(
    "-o", "--output", type=FILE, required=True, metavar="APP.py", help="The file to write."
)
@click.option(
    "--store",
    required=True,
    metavar="URL",
    help="Where streams are kept: redis://HOST:PORT, or file:DIR if all replicas run on one "
    "machine.",
)
@click.option(
    "--durability",
    metavar="MODE",
    help="When a state is stored: before the answer, behind it, or behind:MILLISECONDS; before "
    "by default.",
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    metavar="N",
    help="How many servers run.",
)
@click.option("--engine", type=ENGINE, help="The engine to run on; ort-cpu by default.")
@click.option(
    "--capacity",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many streams of each model a replica has in memory at most; 1024 by default.",
)
@click.option(
    "--idle",
    type=Finite(min=0, min_open=True),
    metavar="SECONDS",
    help="End a stream that is not used for so long; 600 by default.",
)
@click.option(
    "--token-file",
    type=FILE,
    metavar="FILE",
    help="Ask for one of the bearer tokens in this file, one on each line.",
)
def ray(models: tuple[str, ...], output: Path, token_file: Path | None, **options: Any) -> None:
    """Write a Python file with an application for Ray Serve.

    The server of `stateport serve` runs in it as replicas. Ray sends the steps of a stream to one
    replica, and the store has all streams, so that replicas may die, be added and be removed. The
    file is short and meant to be changed. Start it with `serve run APP:app`.
    """
    from ..deploy.ray import write_application
    from ..files.paths import usable_path
    from ..serve.names import named_models

    files = {name: Path(usable_path(path)) for name, path in named_models(models).items()}
    if token_file is not None:
        options["token_file"] = str(token_file.resolve())
    write_application(files, output, options)
    say(f"Wrote {output}. Start it with `serve run {output.stem}:app`.")

# SPDX-License-Identifier: Apache-2.0
"""`stateport deploy`: write what other servers need to run a model's streams."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from .common import ENGINE, FILE, Finite
from .deploy_ray import ray
from .output import progress, say

#: What Triton's numbers of 32 bits hold, and 30 years in seconds, whose microseconds 64 bits hold.
_MOST, _LONGEST = (1 << 31) - 1, 1e9


@click.group(short_help="Write what other servers need to run a model's streams.")
def deploy() -> None:
    """Write what other servers need to run a model's streams.

    `stateport deploy triton` is for NVIDIA's Triton server, and `stateport deploy ray` for Ray
    Serve. (`stateport serve` is a server.)
    """


deploy.add_command(ray)


@deploy.command(short_help="Write a model repository for NVIDIA's Triton, or check one.")
@click.argument("model", type=FILE, metavar="[MODEL.onnx]", required=False)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="REPOSITORY",
    help="The repository to write the model into; it is made if it is not there.",
)
@click.option(
    "--check",
    "checked",
    type=FILE,
    metavar="REPOSITORY",
    help="Check this repository, or one model's folder in it, and write nothing.",
)
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime"]),
    default="python",
    show_default=True,
    help="python: stateport inside of Triton; onnxruntime: Triton's own implicit state.",
)
@click.option("--name", metavar="NAME", help="The model's name; by default that of its file.")
@click.option(
    "--capacity",
    type=click.IntRange(min=1, max=_MOST),
    default=1024,
    show_default=True,
    metavar="N",
    help="The most live sequences.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1, max=_MOST),
    default=256,
    show_default=True,
    metavar="N",
    help="The most sequences in one call of the backend.",
)
@click.option(
    "--idle",
    type=Finite(min=0, min_open=True, max=_LONGEST),
    metavar="SECONDS",
    help="End a sequence that is not used for so long; 600 by default. With --check: the longest "
    "time between two chunks of a sequence; 10 by default.",
)
@click.option("--engine", type=ENGINE, help="stateport's engine, for --backend python.")
@click.option(
    "--threads",
    type=click.IntRange(min=1, max=_MOST),
    default=1,
    show_default=True,
    metavar="N",
    help="The threads of a call.",
)
@click.pass_context
def triton(
    context: click.Context,
    model: Path | None,
    output: Path | None,
    checked: Path | None,
    backend: str,
    name: str | None,
    capacity: int,
    batch: int,
    idle: float | None,
    engine: str | None,
    threads: int,
) -> None:
    """Write MODEL.onnx into a model repository for NVIDIA's Triton server.

    With --check, read a repository that somebody wrote by hand, and report what would go wrong:
    states that are crossed or start from anything, a batch axis that is not the first one, names,
    dtypes and dims that are not the file's, outputs left out, and sequences that end too early.
    The exit code is 1 if there is anything to report.
    """
    if checked is not None:
        _refuse_beside_check(context)
        _check(checked, 10.0 if idle is None else idle)
        return

    if model is None or output is None:
        raise click.UsageError(
            "A model and a repository were expected: stateport deploy triton MODEL.onnx -o "
            "REPOSITORY. Or pass --check REPOSITORY."
        )
    if engine is not None and backend != "python":
        raise click.UsageError("--engine is for --backend python. Leave out one of them.")

    from ..deploy.triton.configuration import Settings
    from ..deploy.triton.repository import name_of, write_repository

    settings = Settings(
        name_of(model, name),
        capacity,
        batch,
        600.0 if idle is None else idle,
        engine or "ort-cpu",
        threads,
    )
    with progress("reading the model") as show_step:
        folder = write_repository(model, output, settings, backend=backend, progress=show_step)
    say(f"Wrote {folder}. Start Triton with --model-repository={output}.")


def _refuse_beside_check(context: click.Context) -> None:
    """Refuses what only writing a repository takes."""
    for parameter in context.command.params:
        name = parameter.name or ""
        is_given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if is_given and name not in ("checked", "idle", "debug"):
            extra = parameter.opts[-1] if isinstance(parameter, click.Option) else "MODEL.onnx"
            raise click.UsageError(
                f"--check reads a repository and takes nothing else but --idle. Leave out {extra}."
            )


def _check(repository: Path, idle: float) -> None:
    """Prints what is wrong with a repository, and exits with 1 if anything is."""
    from ..deploy.triton.check import check_repository

    report = check_repository(repository, idle=idle)
    say(*(f"{each.model}: {each.text}" for each in report.findings))
    models = f"{report.models} model{'s' if report.models != 1 else ''}"
    if report.findings:
        say(f"FAIL: {len(report.findings)} to correct in {models}.")
        raise SystemExit(1)
    say(f"PASS: nothing to correct in {models}.")

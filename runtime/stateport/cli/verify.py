"""`stateport verify`: hold a model against PyTorch's recorded answers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from ..engines import engine_names
from ..engines.choice import EngineChoice, choices
from ..errors import InputError, StateportError
from ..files.writing import check_place
from ..parity.baseline import GROWTH, read_baseline, regressions
from ..parity.bounds import requested_bound
from ..parity.matrix import TIME_LIMIT, Matrix
from ..parity.reports import ENDINGS, text, write
from ..parity.reports.document import document
from ..parity.reports.github import commands
from ..parity.reports.wording import place, precision_note, verdict
from ..parity.verify import verify as verify_file
from .common import FILE, MODEL, PLAN, Finite
from .output import progress, say, say_commands, say_json, show


class _Engines(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """NAME, NAME:OPTION=VALUE,..., or all."""

    name = "engine"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[EngineChoice, ...]:
        try:
            return choices(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[click.shell_completion.CompletionItem]:
        names = (*engine_names(), "all")
        item = click.shell_completion.CompletionItem
        return [item(name) for name in names if name.startswith(incomplete)]


class _Report(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """A file whose ending says the form of a report."""

    name = "report"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        path = Path(str(value))
        if path.suffix not in ENDINGS:
            self.fail(
                f"{str(value)!r} has an unknown ending; reports are written as FILE"
                f"{', FILE'.join(ENDINGS)}.",
                param,
                ctx,
            )
        return path


@click.command(short_help="Check a model against PyTorch's own answers.")
@MODEL
@click.option(
    "--engine",
    "engines",
    type=_Engines(),
    multiple=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="An engine to check, or `all`; may be repeated. Default ort-cpu.",
)
@click.option("--require", is_flag=True, help="Fail if one of the engines is not installed.")
@click.option(
    "--python",
    "pythons",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    metavar="PATH",
    help="Check the engines of this Python interpreter's environment too; may be repeated.",
)
@click.option(
    "--time-limit",
    type=Finite(min=0, min_open=True),
    default=TIME_LIMIT,
    show_default=True,
    metavar="SECONDS",
    help="How long an engine may take over one case.",
)
@PLAN
@click.option(
    "--vectors",
    "vectors_file",
    type=FILE,
    help="The recorded answers, if not beside the model.",
)
@click.option("--atol", type=click.FloatRange(min=0), help="Absolute bound, in place of the floor.")
@click.option("--rtol", type=click.FloatRange(min=0), help="Relative bound, in place of the floor.")
@click.option(
    "--snr",
    type=Finite(min=0, min_open=True),
    help="Decibels of the truth above the error, in place of the floor.",
)
@click.option(
    "--locate", is_flag=True, help="Find the first node that is off, and write it as a file."
)
@click.option(
    "--report",
    "reports",
    type=_Report(),
    multiple=True,
    metavar="FILE",
    help="Write FILE.json, FILE.xml (JUnit), FILE.md or FILE.html; may be repeated.",
)
@click.option(
    "--baseline",
    type=FILE,
    help="An earlier FILE.json: fail if an error grew since.",
)
@click.option(
    "--growth",
    type=Finite(min=1),
    metavar="FACTOR",
    help=f"By how much an error may grow since the baseline. Default {GROWTH:g}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, nothing else.")
@click.pass_context
def verify(
    ctx: click.Context,
    model: Path,
    engines: tuple[tuple[EngineChoice, ...], ...],
    require: bool,
    pythons: tuple[str, ...],
    time_limit: float,
    plan: Path | None,
    vectors_file: Path | None,
    atol: float | None,
    rtol: float | None,
    snr: float | None,
    locate: bool,
    reports: tuple[Path, ...],
    baseline: Path | None,
    growth: float | None,
    as_json: bool,
) -> None:
    """Check that MODEL.onnx gives PyTorch's answers: outputs, states, every step.

    The answers were recorded by `stateport export` in float64; PyTorch is not needed here. Each
    engine runs in a process of its own. With several engines, a stream is carried from each to
    each as well. A model of reduced precision is judged by a signal-to-noise budget. The exit code
    is 1 when any answer is off by more than its bound.
    """
    try:
        requested_bound(atol, rtol, snr)  # before anything is read
    except InputError as error:
        raise click.UsageError(str(error)) from error
    if plan is not None and engines:
        raise click.UsageError("--plan says the engine; give --engine or the plan.")
    if growth is not None and baseline is None:
        raise click.UsageError("--growth says how much --baseline allows; give both.")
    if plan is not None and locate:
        raise click.UsageError("--locate looks into MODEL.onnx itself; leave out --plan.")
    if baseline is not None and baseline.resolve() in [path.resolve() for path in reports]:
        raise click.UsageError("--report would overwrite the baseline; give it another name.")
    for path in reports:
        check_place(path)
    before = None if baseline is None else read_baseline(baseline)
    with progress("") as doing:
        matrix = verify_file(
            model,
            engines=[choice for several in engines for choice in several] or None,
            plan=plan,
            pythons=pythons,
            vectors=vectors_file,
            atol=atol,
            rtol=rtol,
            snr=snr,
            locate=locate,
            require=require,
            time_limit=time_limit,
            progress=doing,
        )
    if before is not None:
        matrix = replace(matrix, grown=regressions(matrix, before, growth or GROWTH))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        say_commands(commands(matrix))
    if as_json:
        say_json(document(matrix))
    for path in reports:
        write(matrix, path)
    if not as_json:
        _show(matrix)
    ctx.exit(0 if matrix.passed else 1)


def _show(matrix: Matrix) -> None:
    if len(matrix.rows) > 1:
        show(text.grid(matrix))
        if matrix.carried:
            show(text.carried_grid(matrix))
        say(*text.reasons(matrix))
        return
    (row,) = matrix.rows
    if row.report is None:
        raise StateportError(str(row.problem))
    show(text.table(row.report))
    say(*matrix.remarks, *text.summary(row.report))
    say(*filter(None, [place(row), precision_note(row)]), *matrix.grown)
    if matrix.grown:
        say(verdict(matrix))

# SPDX-License-Identifier: Apache-2.0
"""`stateport verify`: compare a model with PyTorch's recorded answers."""

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
from ..parity.reports.alike import common_fault
from ..parity.reports.document import document
from ..parity.reports.github import commands
from ..parity.reports.wording import place, precision_note, verdict
from ..parity.verify import verify as verify_file
from .common import FILE, MODEL, PLAN, Finite, Number
from .output import progress, say, say_commands, say_json, show


class _Engines(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """An engine: NAME, NAME:OPTION=VALUE,..., or `all`."""

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
        items = []
        for name in (*engine_names(), "all"):
            if name.startswith(incomplete):
                items.append(click.shell_completion.CompletionItem(name))
        return items


class _Report(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """The file of a report, whose ending is that of a known format."""

    name = "report"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        path = Path(str(value))
        if path.suffix not in ENDINGS:
            self.fail(
                f"{str(value)!r} has an unknown ending; reports are written as FILE"
                f"{', FILE'.join(ENDINGS)}. Use one of these.",
                param,
                ctx,
            )
        return path

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[click.shell_completion.CompletionItem]:
        return [click.shell_completion.CompletionItem(incomplete, type="file")]


@click.command(short_help="Check a model against PyTorch's recorded answers.")
@MODEL
@click.option(
    "--engine",
    "engines",
    type=_Engines(),
    multiple=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="An engine to check, or `all`. Repeatable; ort-cpu by default.",
)
@click.option("--require", is_flag=True, help="Fail if an engine is not available here.")
@click.option(
    "--python",
    "pythons",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    metavar="PATH",
    help="Also check the engines in the environment of this Python interpreter. Repeatable.",
)
@click.option(
    "--time-limit",
    type=Finite(min=0, min_open=True),
    default=TIME_LIMIT,
    show_default=True,
    metavar="SECONDS",
    help="How long an engine may take for one recorded case.",
)
@PLAN
@click.option(
    "--vectors",
    "vectors_file",
    type=FILE,
    metavar="FILE",
    help="The file of PyTorch's recorded answers; by default the one beside the model.",
)
@click.option(
    "--data",
    type=FILE,
    metavar="PATH",
    help="Verify on inputs that you recorded, in place of PyTorch's recorded answers: an .npz, "
    ".npy or .safetensors file, or a folder of them, with arrays named like the model's inputs. "
    "Outputs recorded there are the answers; all else is compared with the whole run of "
    "onnx-reference, or of ort-cpu.",
)
@click.option(
    "--atol",
    type=Number(min=0),
    metavar="ERROR",
    help="Replace the default bound: the largest absolute error allowed.",
)
@click.option(
    "--rtol",
    type=Number(min=0),
    metavar="ERROR",
    help="Replace the default bound: the largest relative error allowed.",
)
@click.option(
    "--snr",
    type=Finite(min=0, min_open=True),
    metavar="DB",
    help="Replace the default bound: the lowest signal-to-noise ratio allowed, in decibels.",
)
@click.option(
    "--locate", is_flag=True, help="Find the first node with wrong values, and write it as a file."
)
@click.option(
    "--report",
    "reports",
    type=_Report(),
    multiple=True,
    metavar="FILE",
    help="Write a report: FILE.json, FILE.xml (JUnit), FILE.md or FILE.html. Repeatable.",
)
@click.option(
    "--baseline",
    type=FILE,
    metavar="FILE.json",
    help="Fail if an error grew since this report, which --report wrote earlier.",
)
@click.option(
    "--growth",
    type=Finite(min=1),
    metavar="FACTOR",
    help=f"How many times as large as in the baseline an error may be. Default {GROWTH:g}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
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
    data: Path | None,
    atol: float | None,
    rtol: float | None,
    snr: float | None,
    locate: bool,
    reports: tuple[Path, ...],
    baseline: Path | None,
    growth: float | None,
    as_json: bool,
) -> None:
    """Check that MODEL.onnx gives PyTorch's answers: outputs and states, at every step.

    `stateport export` recorded the answers in float64, so PyTorch is not needed here. Each engine
    runs in a separate process. With several engines, each also continues the sequences of every
    other one from the saved state.

    By default an error may be up to 8 times the error that PyTorch makes in float32, and a model of
    lower precision must reach a signal-to-noise ratio. --atol and --rtol allow errors up to
    ATOL + RTOL * |answer| instead. The exit code is 1 if an error is larger.
    """
    _check_bounds(atol, rtol, snr)
    _check_plan_options(plan, engines, locate=locate)
    _check_data_options(data, vectors_file, locate=locate)
    _check_reports(reports, baseline, growth)
    earlier_errors = None if baseline is None else read_baseline(baseline)

    with progress("reading", quiet=as_json) as report_progress:
        matrix = verify_file(
            model,
            engines=[choice for group in engines for choice in group] or None,
            plan=plan,
            pythons=pythons,
            vectors=vectors_file,
            data=data,
            atol=atol,
            rtol=rtol,
            snr=snr,
            locate=locate,
            require=require,
            time_limit=time_limit,
            progress=report_progress,
        )
    if earlier_errors is not None:
        matrix = replace(matrix, grown=regressions(matrix, earlier_errors, growth or GROWTH))

    _publish(matrix, reports, as_json=as_json)
    ctx.exit(0 if matrix.passed else 1)


def _check_bounds(atol: float | None, rtol: float | None, snr: float | None) -> None:
    """Refuses bounds that exclude one another, before any file is read."""
    try:
        requested_bound(atol, rtol, snr)
    except InputError as error:
        raise click.UsageError(str(error)) from error


def _check_plan_options(
    plan: Path | None, engines: tuple[tuple[EngineChoice, ...], ...], *, locate: bool
) -> None:
    """Refuses a plan together with options that do not apply to it."""
    if plan is None:
        return

    if engines:
        raise click.UsageError("--plan sets the engine. Leave out --engine, or leave out --plan.")
    if locate:
        raise click.UsageError(
            "--locate examines MODEL.onnx, but --plan may run other files. To use --locate, "
            "leave out --plan."
        )


def _check_data_options(data: Path | None, vectors: Path | None, *, locate: bool) -> None:
    """Refuses recorded data together with options that do not apply to it."""
    if data is not None and vectors is not None:
        raise click.UsageError(
            "--data and --vectors are two sets of cases; give one of them, and verify twice."
        )
    if data is not None and locate:
        raise click.UsageError(
            "--locate needs the values that an export recorded, and --data has none. Leave out one "
            "of them; stateport export --vectors-from records the data with PyTorch's answers."
        )


def _check_reports(reports: tuple[Path, ...], baseline: Path | None, growth: float | None) -> None:
    """Refuses reports that could not be written, before anything is measured."""
    if growth is not None and baseline is None:
        raise click.UsageError("--growth is the factor that --baseline allows; give both.")

    if baseline is not None and baseline.resolve() in [path.resolve() for path in reports]:
        raise click.UsageError("--report would overwrite the baseline; give it another name.")

    for path in reports:
        check_place(path)


def _publish(matrix: Matrix, reports: tuple[Path, ...], *, as_json: bool) -> None:
    """Prints the result and writes the reports."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        say_commands(commands(matrix))
    if as_json:
        say_json(document(matrix))

    for path in reports:
        write(matrix, path)

    # The tables come last: a single engine that could not run raises its error here.
    if not as_json:
        _show_tables(matrix)


def _show_tables(matrix: Matrix) -> None:
    """Prints one table of all engines, or of all measurements where there is one engine.

    Raises:
        StateportError: the only engine could not run.
    """
    if len(matrix.rows) > 1:
        fault = common_fault(matrix)
        if fault is not None:
            say(fault, "")
        show(text.grid(matrix))
        if matrix.carried:
            show(text.carried_grid(matrix))
        say(*text.reasons(matrix))
        return

    (row,) = matrix.rows
    if row.report is None:
        raise StateportError(str(row.problem))

    # The engine ran in a process that knows the whole path; here it is as it was typed.
    show(text.table(replace(row.report, model=matrix.model)))
    say(*matrix.remarks, *text.summary(row.report))
    say(*filter(None, [place(row), precision_note(row)]), *matrix.grown)
    if matrix.grown:
        say(verdict(matrix))

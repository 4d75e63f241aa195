"""`stateport verify`: hold a model against PyTorch's recorded answers."""

from __future__ import annotations

from pathlib import Path

import click

from ..files import check_place
from ..model import load, read_contract
from ..onnx_file import read
from ..parity import report as reports
from ..parity.bounds import Tolerance
from ..parity.vectors import Vectors, vectors_path
from ..parity.verify import verify as run_verify
from .common import ENGINE, MODEL, PLAN, console


@click.command(short_help="Check a model against PyTorch's own answers.")
@MODEL
@click.option(
    "--engine", "engines", type=ENGINE, multiple=True, help="An engine to check; may be repeated."
)
@PLAN
@click.option(
    "--vectors",
    "vectors_file",
    type=click.Path(path_type=Path),
    help="The recorded answers, if not beside the model.",
)
@click.option("--atol", type=click.FloatRange(min=0), help="Absolute bound, in place of the floor.")
@click.option("--rtol", type=click.FloatRange(min=0), help="Relative bound, in place of the floor.")
@click.option(
    "--snr", type=float, help="Decibels of the truth above the error, in place of the floor."
)
@click.option("--report", type=click.Path(path_type=Path), help="Write the report: FILE.json.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, nothing else.")
@click.pass_context
def verify(
    ctx: click.Context,
    model: Path,
    engines: tuple[str, ...],
    plan: Path | None,
    vectors_file: Path | None,
    atol: float | None,
    rtol: float | None,
    snr: float | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Check that MODEL.onnx gives PyTorch's answers: outputs, states, every step.

    The answers were recorded by `stateport export` in float64; PyTorch is not needed here. A
    model of reduced precision is judged by a signal-to-noise budget. The exit code is 1 when any
    answer is off by more than its bound.
    """
    if plan is not None and engines:
        raise click.UsageError("--plan says the engine; give --engine or the plan.")
    if report is not None and report.suffix != ".json":
        raise click.BadParameter("Reports are written as FILE.json.", param_hint="--report")
    if report is not None:
        check_place(report)
    if snr is not None and (atol is not None or rtol is not None):
        raise click.UsageError("--snr and --atol or --rtol exclude one another; give one of them.")
    tolerance = None
    if atol is not None or rtol is not None:
        tolerance = Tolerance(atol or 0.0, rtol or 0.0)
    read_contract(read(model))  # a name that looks like a state's is no promise to be checked
    errors, screen = console(stderr=True), console()
    results = []
    for engine in engines or (None,):
        loaded = load(model, engine=engine, plan=plan)
        vectors = Vectors.load(vectors_file or vectors_path(model))
        with errors.status("") as status:
            result = run_verify(
                loaded,
                vectors,
                name=str(model),
                tolerance=tolerance,
                snr=snr,
                progress=lambda case: status.update(f"{loaded.engine}: {case}"),  # noqa: B023
            )
        results.append(result)
        if not as_json:
            screen.print(reports.table(result))
            screen.print(reports.summary(result), soft_wrap=True, markup=False)
    if report is not None:
        reports.write(results, report)
    if as_json:
        click.echo(reports.to_json(results))
    ctx.exit(0 if all(result.passed for result in results) else 1)

"""`stateport tune`: find the quickest plan for a load, among those that pass verification."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..files.writing import check_place
from ..parity.pair import remarks
from ..parity.vectors import Vectors, vectors_path
from ..tune.search import Trial, Tuned, TuningGoal
from ..tune.search import tune as run_tune
from .common import ENGINE, FILE, MODEL, NUMBERS
from .output import progress, say, say_json, show


@click.command(short_help="Find the quickest plan for a load.")
@MODEL
@click.option("-o", "--output", type=FILE, help="Write the plan: PLAN.json.")
@click.option("--streams", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--time", "chunks", type=NUMBERS, default="1", show_default=True, help="Steps per call: 1,10."
)
@click.option(
    "--goal", type=click.Choice(["latency", "throughput"]), default="latency", show_default=True
)
@click.option(
    "--snr", type=float, help="Allow reduced precision: decibels of the truth above the error."
)
@click.option("--engine", "engines", type=ENGINE, multiple=True, help="Try it; may be repeated.")
@click.option("--threads", type=NUMBERS, help="Threads per call: 1,2; by default 1 and all cores.")
@click.option(
    "--vectors",
    "vectors_file",
    type=FILE,
    help="The recorded answers, if not beside the model.",
)
@click.option("--rounds", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the trials as JSON, nothing else.")
def tune(
    model: Path,
    output: Path | None,
    streams: int,
    chunks: tuple[int, ...],
    goal: str,
    snr: float | None,
    engines: tuple[str, ...],
    threads: tuple[int, ...] | None,
    vectors_file: Path | None,
    rounds: int,
    as_json: bool,
) -> None:
    """Find how MODEL.onnx is run the quickest for a load, and write that as a plan.

    Engines, threads, and ways to write a step (with the exporter installed) are measured side by
    side. The plan is the quickest that gives PyTorch's answers: within the usual bound, or with
    --snr within that budget. Use it with `--plan`, or load(model, plan=...).
    """
    output = output or model.with_name(f"{model.stem}.plan.json")
    if output.suffix != ".json":
        raise click.BadParameter("A plan is written as FILE.json.", param_hint="--output")
    check_place(output)
    vectors = Vectors.load(vectors_file or vectors_path(model))
    said = remarks(model, vectors)
    with progress("") as doing:
        tuned = run_tune(
            model,
            vectors,
            output,
            TuningGoal(streams, chunks, goal, snr),
            engines=engines,
            threads=threads or tuple(sorted({1, len(os.sched_getaffinity(0))})),
            rounds=rounds,
            progress=doing,
        )
    if as_json:
        say_json({**_document(tuned, output), "remarks": said})
        return
    show(_table(tuned))
    say(*(f"Not tried: {note}." for note in tuned.notes))
    say(*said, f"Written: {output}")


def _table(tuned: Tuned) -> Table:
    wanted = tuned.wanted
    streams = "1 stream" if wanted.streams == 1 else f"{wanted.streams} streams"
    grid = Table(
        box=SIMPLE_HEAD,
        title=f"Plans for {streams}, by {wanted.goal}",
        title_justify="left",
        title_style="bold",
    )
    for heading in ("plan", "engine"):
        grid.add_column(heading, overflow="fold")
    for heading in ("threads", "steps per call", "us per call", "p99", "steps/s"):
        grid.add_column(heading, justify="right")
    grid.add_column("verdict", overflow="fold")
    for trial in tuned.trials:
        style = "bold green" if trial is tuned.best else ""
        grid.add_row(*_cells(trial, wanted.streams), style=style)
    return grid


def _cells(trial: Trial, streams: int) -> list[str]:
    plan, times = trial.plan, trial.times
    options = "".join(f", {name} {value}" for name, value in plan.options.items())
    cells = [trial.variant.name, f"{plan.engine}{options}", str(plan.threads), str(plan.chunk)]
    if times is not None:
        rate = streams * plan.chunk / times.median
        cells += [f"{times.median * 1e6:.1f}", f"{times.latency(0.99) * 1e6:.1f}", f"{rate:,.0f}"]
    else:
        cells += ["", "", ""]
    return [*cells, trial.verdict]


def _document(tuned: Tuned, output: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "plan": str(output),
        "notes": list(tuned.notes),
        "trials": [
            {
                "variant": trial.variant.name,
                "precision": trial.variant.precision,
                "engine": trial.plan.engine,
                "options": dict(trial.plan.options),
                "threads": trial.plan.threads,
                "time": trial.plan.chunk,
                "seconds": trial.times and trial.times.median,
                "quartiles": trial.times and list(trial.times.quartiles),
                "p99": trial.times and trial.times.latency(0.99),
                "verdict": trial.verdict,
                "best": trial is tuned.best,
            }
            for trial in tuned.trials
        ],
    }

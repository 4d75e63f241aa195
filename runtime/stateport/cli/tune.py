# SPDX-License-Identifier: Apache-2.0
"""`stateport tune`: find the fastest plan for a load among those that pass verification."""

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


@click.command(short_help="Find the fastest way to run a model under a load.")
@MODEL
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="PLAN.json",
    help="Write the plan to this file; by default beside the model.",
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="How many live sequences step together.",
)
@click.option(
    "--time",
    "chunks",
    type=NUMBERS,
    default="1",
    show_default=True,
    help="Numbers of steps per call to try, e.g. 1,10.",
)
@click.option(
    "--goal",
    type=click.Choice(["latency", "throughput"]),
    default="latency",
    show_default=True,
    help="The shortest calls, or the most steps per second and thread.",
)
@click.option(
    "--snr",
    type=float,
    metavar="DB",
    help="Also try lower precisions, with a signal-to-noise ratio of at least DB decibels.",
)
@click.option(
    "--engine",
    "engines",
    type=ENGINE,
    multiple=True,
    help="An engine to try. Repeatable; by default all that work here but onnx-reference.",
)
@click.option(
    "--threads",
    type=NUMBERS,
    help="Numbers of threads per call to try, e.g. 1,2; by default 1 and all cores.",
)
@click.option(
    "--vectors",
    "vectors_file",
    type=FILE,
    metavar="FILE",
    help="The file of PyTorch's recorded answers; by default the one beside the model.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=2),
    metavar="N",
    default=20,
    show_default=True,
    help="How many times each plan is measured.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
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
    """Find the fastest way to run MODEL.onnx under a load, and write it as a plan.

    Engines, numbers of threads, and other forms of the file (if the exporter is installed) are
    measured side by side. The plan is the fastest candidate whose answers agree with PyTorch's,
    within the usual bound or the budget of --snr. Use it with `--plan`, or with
    load(model, plan=...).
    """
    output = output or model.with_name(f"{model.stem}.plan.json")
    if output.suffix != ".json":
        raise click.BadParameter(
            f"{str(output)!r} does not end in .json; a plan is a JSON file. Name it FILE.json.",
            param_hint="--output",
        )
    check_place(output)

    vectors = Vectors.load(vectors_file or vectors_path(model))
    warnings = remarks(model, vectors)
    with progress("") as report_progress:
        tuned = run_tune(
            model,
            vectors,
            output,
            TuningGoal(streams, chunks, goal, snr),
            engines=engines,
            threads=threads or tuple(sorted({1, len(os.sched_getaffinity(0))})),
            rounds=rounds,
            progress=report_progress,
        )

    if as_json:
        say_json({**_document(tuned, output), "remarks": warnings})
        return

    show(_table(tuned))
    say(*(f"Not tried: {note}." for note in tuned.notes))
    say(*warnings, f"Written: {output}")


def _table(tuned: Tuned) -> Table:
    goal = tuned.wanted
    streams = "1 stream" if goal.streams == 1 else f"{goal.streams} streams"
    grid = Table(
        box=SIMPLE_HEAD,
        title=f"Plans for {streams}, by {goal.goal}",
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
        grid.add_row(*_cells(trial, goal.streams), style=style)
    return grid


def _cells(trial: Trial, streams: int) -> list[str]:
    plan, times = trial.plan, trial.times
    options = "".join(f", {name} {value}" for name, value in plan.options.items())
    cells = [trial.variant.name, f"{plan.engine}{options}", str(plan.threads), str(plan.chunk)]

    if times is None:  # not measured, for the reason that the verdict gives
        cells += ["", "", ""]
    else:
        rate = streams * plan.chunk / times.median
        cells += [f"{times.median * 1e6:.1f}", f"{times.latency(0.99) * 1e6:.1f}", f"{rate:,.0f}"]

    return [*cells, trial.verdict]


def _document(tuned: Tuned, output: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "plan": str(output),
        "notes": list(tuned.notes),
        "trials": [_trial_entry(trial, best=trial is tuned.best) for trial in tuned.trials],
    }


def _trial_entry(trial: Trial, *, best: bool) -> dict[str, Any]:
    plan, times = trial.plan, trial.times
    return {
        "variant": trial.variant.name,
        "precision": trial.variant.precision,
        "engine": plan.engine,
        "options": dict(plan.options),
        "threads": plan.threads,
        "time": plan.chunk,
        "seconds": times and times.median,
        "quartiles": times and list(times.quartiles),
        "p99": times and times.latency(0.99),
        "verdict": trial.verdict,
        "best": best,
    }

# SPDX-License-Identifier: Apache-2.0
"""`stateport tune`: find the fastest plan for a load among those that pass verification."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from ..bench.noise import busy, unsteady
from ..files.writing import check_place
from ..model_file.onnx_outline import read
from ..model_file.read_contract import read_contract
from ..parity.pair import remarks
from ..parity.reports.wording import decibels
from ..parity.vectors import Vectors, vectors_path
from ..shown import counted
from ..table import Column, Table
from ..tune.choice import Trial
from ..tune.search import Tuned, TuningGoal
from ..tune.search import tune as run_tune
from .common import ENGINE, FILE, MODEL, NUMBERS, Finite
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
    type=Finite(min=0, min_open=True),
    metavar="DB",
    help="Also try lower precisions, with a signal-to-noise ratio of at least DB decibels.",
)
@click.option(
    "--engine",
    "engines",
    type=ENGINE,
    multiple=True,
    help="An engine to try. Repeatable; by default all that work here but onnx-reference, "
    "ort-node and ort-web.",
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
    within the usual bound or the budget of --snr. Among candidates that are as fast within the
    noise, it is the simplest: fewer threads, then float32, then ort-cpu, then the file as it is.
    Use it with `--plan`, or with load(model, plan=...).
    """
    output = output or model.with_name(f"{model.stem}.plan.json")
    if output.suffix != ".json":
        raise click.BadParameter(
            f"{str(output)!r} does not end in .json; a plan is a JSON file. Name it FILE.json.",
            param_hint="--output",
        )
    check_place(output)

    read_contract(read(model))  # a model that is missing is not answered with its vectors
    vectors = Vectors.load(vectors_file or vectors_path(model))
    warnings = remarks(model, vectors)
    with progress("making variants", quiet=as_json) as report_progress:
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
    say(*_reasons(tuned), *(f"Not tried: {note}." for note in tuned.notes))
    say(*warnings, *_doubts(tuned), f"Written: {output}")


def _table(tuned: Tuned) -> Table:
    trials = tuned.trials
    chunks = {trial.plan.chunk for trial in trials}
    # Of what all plans share, the chunk is in the title, and the threads may be left out.
    several_counts = len({trial.plan.threads for trial in trials}) > 1
    per_call = [Column("steps per call", right=True)] if len(chunks) > 1 else []
    grid = Table(
        Column("plan", wraps=True),
        Column("engine"),
        Column("threads", rank=0 if several_counts else 4, right=True),
        *per_call,
        Column("us per call", right=True),
        Column("p99", rank=2, right=True),
        Column("steps/s", rank=3, right=True),
        Column("SNR", rank=1, right=True),
        Column("verdict"),
        title=_title(tuned.wanted, chunks),
    )

    for trial in trials:
        style = "bold green" if trial is tuned.best else ""
        chunk = [str(trial.plan.chunk)] if len(chunks) > 1 else []
        row = [trial.variant.name, _engine(trial), str(trial.plan.threads), *chunk]
        grid.add(*row, *_measured(trial, tuned.wanted.streams), style=style)
    return grid


def _title(goal: TuningGoal, chunks: Collection[int]) -> str:
    """The load: `Plans for 8 streams, 1 step per call, by latency`."""
    streams = counted(goal.streams, "stream")
    if len(chunks) != 1:
        return f"Plans for {streams}, by {goal.goal}"

    (chunk,) = chunks
    return f"Plans for {streams}, {counted(chunk, 'step')} per call, by {goal.goal}"


def _measured(trial: Trial, streams: int) -> list[str | Text]:
    """The cells of what was measured, and the verdict."""
    plan, times = trial.plan, trial.times
    if times is None:  # for a reason that stands below the table
        return ["", "", "", "", Text("not run", "dim")]

    rate = streams * plan.chunk / times.median
    return [
        f"{times.median * 1e6:,.1f}",
        f"{times.latency(0.99) * 1e6:,.1f}",
        f"{rate:,.0f}",
        decibels(trial.decibels),
        trial.verdict if trial.passed else Text("FAIL", "bold red"),
    ]


def _engine(trial: Trial) -> str:
    """The engine with its options: `openvino, bfloat16`."""
    parts = [trial.plan.engine]
    for name, value in trial.plan.options.items():
        text = str(value) if name == "precision" else f"{name} {value}"
        parts.append(text)
    return ", ".join(parts)


def _reasons(tuned: Tuned) -> list[str]:
    """Why plans could not run or fail, each reason once for a form of the file and an engine."""
    lines = []
    for trial in tuned.trials:
        if not trial.passed:
            lines.append(f"{trial.variant.name} on {_engine(trial)}: {trial.verdict.rstrip('.')}.")

    return list(dict.fromkeys(lines))


def _doubts(tuned: Tuned) -> list[str]:
    """At most one line on a machine that was too busy to be measured."""
    times = (trial.times for trial in tuned.trials if trial.times is not None)
    line = busy(tuned.busy, os.cpu_count() or 1) or unsteady(times)
    return [] if line is None else [line]


def _document(tuned: Tuned, output: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "plan": str(output),
        "load_average": tuned.busy,
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
        "decibels": trial.decibels,
        "verdict": trial.verdict,
        "best": best,
    }

"""`stateport bench`: how quick a model is here, and how quick it could be."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from ..bench import report
from ..bench.plot import picture
from ..bench.run import MakeCall
from ..bench.run import bench as run_bench
from ..bench.workload import Workload
from ..errors import StateportError
from ..files.writing import check_place, written_atomically
from .common import (
    CONSTANTS,
    ENGINE,
    FILE,
    MODEL,
    NUMBERS,
    PLAN,
    STATES,
    named_constants,
    named_states,
)
from .output import can_show, progress, say, say_json, show


@click.command(short_help="Measure a model: steps per second, latency, share of the machine.")
@MODEL
@click.option("--engine", "engines", type=ENGINE, multiple=True, help="May be repeated.")
@click.option(
    "--streams", type=NUMBERS, default="1", show_default=True, help="Live sequences: 1,64,256."
)
@click.option(
    "--time", "times", type=NUMBERS, default="1", show_default=True, help="Steps per call: 1,100."
)
@click.option("--threads", type=NUMBERS, help="Threads per call: 1,2; by default 1.")
@PLAN
@STATES
@CONSTANTS
@click.option("--against", metavar="TARGET", help="The network in PyTorch, to measure beside it.")
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Passed to TARGET.")
@click.option("--weights", type=FILE, help="Weights for TARGET.")
@click.option("--example", "examples", multiple=True, help="As `stateport export` takes it.")
@click.option("--rounds", type=click.IntRange(min=2), default=30, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=0.03,
    show_default=True,
    help="How long a turn is.",
)
@click.option("--plot", type=FILE, help="Draw a picture: FILE.svg.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, nothing else.")
def bench(
    model: Path,
    engines: tuple[str, ...],
    streams: tuple[int, ...],
    times: tuple[int, ...],
    threads: tuple[int, ...] | None,
    plan: Path | None,
    states: tuple[str, ...],
    constants: tuple[str, ...],
    against: str | None,
    arguments: tuple[str, ...],
    weights: Path | None,
    examples: tuple[str, ...],
    rounds: int,
    seconds: float,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure MODEL.onnx: steps per second and latency, for every load that is named.

    All contenders of a load take turns, so that noise hits them alike. Beside each stands how much
    it reaches of what the machine could do: reading the weights once per call, or multiplying
    them, whichever takes longer.
    """
    if plan is not None and (engines or threads):
        raise click.UsageError("--plan says the engine and the threads; give these or the plan.")
    if against is None and (arguments or weights or examples):
        raise click.UsageError("--arg, --weights and --example are for --against TARGET.")
    if plot is not None and plot.suffix != ".svg":
        raise click.BadParameter("The picture is written as FILE.svg.", param_hint="--plot")
    if plot is not None:
        check_place(plot)
    with progress("loading") as doing:
        result = run_bench(
            model,
            [Workload(count, length) for count in streams for length in times],
            engines=engines or ("ort-cpu",),
            threads=threads or (1,),
            plan=plan,
            states=named_states(states),
            constants=named_constants(constants),
            beside=(against and _contender(against, arguments, weights, examples)) or None,
            rounds=rounds,
            seconds=seconds,
            progress=doing,
        )
    if plot is not None:
        with written_atomically(plot) as part:
            part.write_text(picture(result), encoding="utf-8")
    if as_json:
        say_json(report.document(result))
        return
    show(report.table(result, "█" if can_show("█") else "="))
    say(*report.notes(result, os.cpu_count() or 1))


def _contender(
    target: str, arguments: tuple[str, ...], weights: Path | None, examples: tuple[str, ...]
) -> tuple[str, MakeCall]:
    makers = [entry.load() for entry in entry_points(group="stateport.contenders")]
    if not makers:
        raise StateportError(
            "--against belongs to the exporter, which is not installed here. "
            "Install it: pip install stateport-exporter."
        )
    make: Callable[..., Any] = makers[0]
    result: tuple[str, MakeCall] = make(target, arguments, weights, examples)
    return result

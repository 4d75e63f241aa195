# SPDX-License-Identifier: Apache-2.0
"""`stateport bench`: how fast a model is on this machine, and how fast it could be."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from ..bench import report
from ..bench.plot import picture
from ..bench.run import Bench, MakeCall
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
    Finite,
    check_plan,
    named_constants,
    named_states,
)
from .output import can_show, progress, say, say_json, show


@click.command(short_help="Measure steps per second and latency.")
@MODEL
@click.option(
    "--engine",
    "engines",
    type=ENGINE,
    multiple=True,
    help="An engine to measure. Repeatable; ort-cpu by default.",
)
@click.option(
    "--streams",
    type=NUMBERS,
    default="1",
    show_default=True,
    help="Numbers of live sequences, e.g. 1,64,256.",
)
@click.option(
    "--time",
    "times",
    type=NUMBERS,
    default="1",
    show_default=True,
    help="Numbers of steps per call, e.g. 1,100.",
)
@click.option("--threads", type=NUMBERS, help="Numbers of threads per call, e.g. 1,2; default 1.")
@PLAN
@STATES
@CONSTANTS
@click.option(
    "--against",
    metavar="TARGET",
    help="Also measure this network in PyTorch. TARGET as for `stateport export`.",
)
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument for TARGET. Repeatable.",
)
@click.option("--weights", type=FILE, metavar="FILE", help="A file of weights to load into TARGET.")
@click.option(
    "--example",
    "examples",
    multiple=True,
    metavar="NAME=SPEC",
    help="An input of TARGET, as for `stateport export`. Repeatable.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=2),
    metavar="N",
    default=30,
    show_default=True,
    help="How many times each candidate is measured.",
)
@click.option(
    "--seconds",
    type=Finite(min=0, min_open=True),
    metavar="SECONDS",
    default=0.03,
    show_default=True,
    help="How long each measurement takes.",
)
@click.option("--plot", type=FILE, metavar="FILE.svg", help="Draw the results as a picture.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
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
    """Measure steps per second and latency of MODEL.onnx.

    Each combination of --streams and --time is measured. Each result also shows its share of the
    machine's limit: the time to read all weights once per call, or to multiply them, whichever is
    longer. All candidates take turns, so that noise affects them alike.
    """
    check_plan(plan, engines, threads)
    _check_target_options(against, arguments, weights, examples)
    _check_plot(plot)

    with progress("loading", quiet=as_json) as report_progress:
        result = run_bench(
            model,
            [Workload(count, length) for count in streams for length in times],
            engines=engines or ("ort-cpu",),
            threads=threads or (1,),
            plan=plan,
            states=named_states(states),
            constants=named_constants(constants),
            beside=_contender(against, arguments, weights, examples) if against else None,
            rounds=rounds,
            seconds=seconds,
            progress=report_progress,
        )

    if plot is not None:
        with written_atomically(plot) as part:
            part.write_text(picture(result), encoding="utf-8")
    _print_result(result, as_json=as_json)


def _check_target_options(
    against: str | None,
    arguments: tuple[str, ...],
    weights: Path | None,
    examples: tuple[str, ...],
) -> None:
    """Refuses options that describe TARGET where there is no TARGET."""
    describes_target = arguments or weights or examples
    if against is None and describes_target:
        raise click.UsageError(
            "--arg, --weights and --example are for --against TARGET. Add --against, or leave "
            "them out."
        )


def _check_plot(plot: Path | None) -> None:
    """Refuses a plot that could not be written, before anything is measured."""
    if plot is None:
        return

    if plot.suffix != ".svg":
        raise click.BadParameter(
            f"{str(plot)!r} does not end in .svg; the plot is an SVG file. Name it FILE.svg.",
            param_hint="--plot",
        )
    check_place(plot)


def _print_result(result: Bench, *, as_json: bool) -> None:
    if as_json:
        say_json(report.document(result))
        return

    sign = "█" if can_show("█") else "="
    show(report.table(result, sign))
    say(*report.notes(result, os.cpu_count() or 1))


def _contender(
    target: str, arguments: tuple[str, ...], weights: Path | None, examples: tuple[str, ...]
) -> tuple[str, MakeCall]:
    """The name of the network in PyTorch, and a function that makes a call of it.

    Raises:
        StateportError: the exporter, which loads the network, is not installed.
    """
    makers = [entry.load() for entry in entry_points(group="stateport.contenders")]
    if not makers:
        raise StateportError(
            "--against is part of the exporter, which is not installed here. "
            "Install it: pip install stateport-exporter."
        )

    make: Callable[..., Any] = makers[0]
    contender: tuple[str, MakeCall] = make(target, arguments, weights, examples)
    return contender

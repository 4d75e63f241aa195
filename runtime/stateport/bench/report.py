"""What was measured, for people and for programs."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .run import Bench, Result

_BAR = 20


def table(bench: Bench, sign: str = "█") -> Table:
    """One row per load, engine and number of threads; bars are drawn with the sign."""
    grid = Table(box=SIMPLE_HEAD, title=bench.model, title_justify="left", title_style="bold")
    grid.add_column("load")
    grid.add_column("on")
    beside = any(result.against for result in bench.results)
    for heading in ("threads", "us per call", "p50", "p99", "steps/s"):
        grid.add_column(heading, justify="right")
    grid.add_column("of what the machine could do")
    if beside:
        grid.add_column("of the time", justify="right")
    before = None
    for result in bench.results:
        if before is not None and result.load != before:
            grid.add_section()
        cells = _cells(result, sign)
        grid.add_row("" if result.load == before else str(result.load), *cells)
        before = result.load
    return grid


def _cells(result: Result, sign: str) -> list[str]:
    times = result.times
    numbers = (times.median, times.latency(0.5), times.latency(0.99))
    bar = sign * max(round(min(result.share, 1.0) * _BAR), 1)
    return [
        result.name,
        str(result.threads),
        *(f"{number * 1e6:,.1f}" for number in numbers),
        f"{result.steps_per_second:,.0f}",
        f"{bar:<{_BAR}} {result.share:.0%}",
        "" if result.against is None else str(result.against),
    ]


def notes(bench: Bench, cores: int) -> list[str]:
    """What has to be known to read the table."""
    said = [
        f"{ceilings.threads} {'thread' if ceilings.threads == 1 else 'threads'}: "
        f"{ceilings.bandwidth / 1e9:.1f} GB/s, {ceilings.peak / 1e9:.0f} GFLOP/s in float32; "
        f"the model has {bench.work.weights:,} weights of {bench.work.nbytes:,} bytes."
        for ceilings in bench.ceilings
    ]
    if bench.busy is not None and bench.busy > cores - 0.5:
        said.append(
            f"The machine was busy before this began (load {bench.busy:.1f} on {cores} cores): "
            "measure again when it is quiet."
        )
    return said


def document(bench: Bench) -> dict[str, Any]:
    """The results as JSON's objects; docs/performance.md says what the fields are."""
    return {
        "version": 1,
        "model": bench.model,
        "weights": {"count": bench.work.weights, "bytes": bench.work.nbytes},
        "load_average": bench.busy,
        "environment": bench.environment,
        "ceilings": [
            {
                "threads": ceilings.threads,
                "bytes_per_second": ceilings.bandwidth,
                "flops_per_second": ceilings.peak,
            }
            for ceilings in bench.ceilings
        ],
        "results": [_entry(result) for result in bench.results],
    }


def _entry(result: Result) -> dict[str, Any]:
    return {
        "streams": result.load.streams,
        "time": result.load.time,
        "on": result.name,
        "threads": result.threads,
        "seconds": result.times.median,
        "quartiles": list(result.times.quartiles),
        "p50": result.times.latency(0.5),
        "p99": result.times.latency(0.99),
        "steps_per_second": result.steps_per_second,
        "least_seconds": result.least,
        "share": result.share,
        "against": result.against
        and [result.against.median, result.against.low, result.against.high],
    }

# SPDX-License-Identifier: Apache-2.0
"""The results of a benchmark as a table and as JSON."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from ..shown import counted
from ..table import Column, Table
from .noise import busy
from .roofline import Ceilings, Work
from .run import AT_LEAST_ALL, Bench, Result

#: The characters of a bar at 100 %.
_BAR: Final = 20


def table(bench: Bench, sign: str = "█") -> Table:
    """A table with one row per load, engine and number of threads.

    Args:
        bench: the results.
        sign: the character that bars are drawn with.
    """
    # A number of threads that all results share is in the line below the table, too.
    one_count = len({result.threads for result in bench.results}) == 1
    columns = [
        Column("load"),
        Column("on"),
        Column("threads", rank=3 if one_count else 0, right=True),
        Column("us per call", right=True),
        Column("p50", rank=6, right=True),
        Column("p99", rank=2, right=True),
        Column("steps/s", rank=4, right=True),
        Column("of limit", right=True),
        Column("", rank=7),
    ]
    if any(result.against for result in bench.results):
        columns.append(Column("relative time", rank=1, right=True))

    grid = Table(*columns, title=bench.model)
    for load, results in groupby(bench.results, key=lambda result: result.load):
        for number, result in enumerate(results):
            heading = str(load) if number == 0 else ""
            grid.add(heading, *_cells(result, sign)[: len(columns) - 1])
        grid.end_group()
    return grid


def _cells(result: Result, sign: str) -> list[str]:
    times = result.times
    numbers = (times.median, times.latency(0.5), times.latency(0.99))
    microseconds = [f"{number * 1e6:,.1f}" for number in numbers]

    # The shortest bar has one character; one above the limit is cut at 100 %.
    bar = sign * max(round(min(result.share, 1.0) * _BAR), 1)

    return [
        result.name,
        str(result.threads),
        *microseconds,
        f"{result.steps_per_second:,.0f}",
        result.share_text,
        f"{bar:<{_BAR}}",
        "" if result.against is None else str(result.against),
    ]


def notes(bench: Bench, cores: int) -> list[str]:
    """Lines below the table: the machine's limits, and whether the machine was busy.

    Args:
        bench: the results.
        cores: how many cores the machine has.
    """
    lines = [_ceilings_line(ceilings, bench.work) for ceilings in bench.ceilings]
    if any(result.share > 1 for result in bench.results):
        lines.append(
            f"{AT_LEAST_ALL}: the call is faster than this estimate of the limit. The file uses "
            "some of its weights in few steps only, or it does not compute in float32."
        )

    busy_line = busy(bench.busy, cores)
    if busy_line is not None:
        lines.append(busy_line)
    return lines


def _ceilings_line(ceilings: Ceilings, work: Work) -> str:
    threads = counted(ceilings.threads, "thread")
    return (
        f"{threads}: {ceilings.bandwidth / 1e9:.1f} GB/s, {ceilings.peak / 1e9:.0f} GFLOP/s in "
        f"float32; the model has {work.weights:,} weights of {work.nbytes:,} bytes."
    )


def document(bench: Bench) -> dict[str, Any]:
    """The results as a JSON document. docs/performance.md describes its fields."""
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
        "results": [*map(_entry, bench.results)],
    }


def _entry(result: Result) -> dict[str, Any]:
    against = result.against
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
        "against": against and [against.median, against.low, against.high],
    }

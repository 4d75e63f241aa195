# SPDX-License-Identifier: Apache-2.0
"""The page of the figures: medians over the rounds, with their spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from .contestants import BY_HAND
from .results import Result, read

_TOP = """\
# Servers side by side

Measured by `make bench-serve` on {processor}.
The load and the server share this machine. Each stream sends one step, waits for the answer, and
sends the next. A heading gives the LSTM, written as input, hidden x layers. A figure is the median
of {rounds}, in which the servers took turns; ± is half of the distance between the lowest and the
highest. *Times* compares the steps per second with those of the handler "FastAPI by hand, plain",
which sends bytes in place of JSON. CPU is what the server took for 1,000 steps, and MB its memory
afterwards, both without the load.

"""


def write(page: Path, results: Path) -> None:
    """Writes the page."""
    groups: dict[tuple[str, int], dict[tuple[str, str], list[Result]]] = defaultdict(dict)
    everything = read(results)
    for result in everything:
        servers = groups[result.network, result.streams]
        servers.setdefault((result.server, result.transport), []).append(result)

    counts = {len(found) for servers in groups.values() for found in servers.values()}
    rounds = (
        f"{min(counts)} to {max(counts)} rounds" if len(counts) > 1 else f"{max(counts)} rounds"
    )
    text = _TOP.format(processor=everything[0].processor, rounds=rounds)
    for (network, streams), servers in sorted(groups.items(), key=_in_order):
        text += f"## ({network}), {streams:,} {'stream' if streams == 1 else 'streams'}\n\n"
        text += "\n".join([*_table(servers), "", ""])
    page.write_text(text.rstrip() + "\n", encoding="utf-8")


def _in_order(group: tuple[tuple[str, int], object]) -> tuple[int, int]:
    """By the number of the network's inputs, and that of the streams."""
    (network, streams), _ = group
    return int(network.split(",")[0]), streams


def _table(servers: dict[tuple[str, str], list[Result]]) -> Iterable[str]:
    yield "| server | transport | steps/s | times | p50 ms | p99 ms | CPU s per 1,000 | MB |"
    yield "| --- | --- | --: | --: | --: | --: | --: | --: |"
    base = servers.get((BY_HAND.name, "plain"))
    for (server, transport), results in sorted(servers.items()):
        reason = next((result.problem for result in results if result.problem), "")
        if reason:
            yield f"| {server} | {transport} | none: {reason} | | | | | |"
            continue
        cells = [
            server,
            transport,
            _with_spread(results, lambda result: result.steps, ",.0f"),
            f"{_middle(results) / _middle(base):.2f}" if base else "-",
            _with_spread(results, lambda result: result.p50 * 1e3, ".2f"),
            _with_spread(results, lambda result: result.p99 * 1e3, ".2f"),
            f"{median(result.cpu for result in results):.3f}",
            f"{median(result.memory for result in results) / 1e6:,.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _middle(results: list[Result]) -> float:
    return median(result.steps for result in results)


def _with_spread(results: list[Result], value: Callable[[Result], float], form: str) -> str:
    values = [value(result) for result in results]
    half = (max(values) - min(values)) / 2
    return f"{median(values):{form}} ± {half:{form}}"

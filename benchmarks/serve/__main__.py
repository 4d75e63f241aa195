# SPDX-License-Identifier: Apache-2.0
"""Servers of streams side by side, under the same load: `make bench-serve`.

All servers of a network run at once, and the load goes from one to the next in each round, so that
a change of the machine's speed meets all of them. The results go to a file of JSON lines, one for
each measurement, and a run adds to it: a long measurement can be made in parts. `--page` writes
what is in the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click

from ..networks import FOLDER, Network
from ..processor import processor
from .contestants import Contestant, Running, contestants, running
from .page import write
from .results import Result
from .usage import usage

NETWORKS: Final = (Network(5, 10, 1), Network(128, 256, 2), Network(256, 512, 2))
STREAMS: Final = (1, 16, 256, 2000)


@dataclass(frozen=True)
class _Entry:
    """A server and one of its transports."""

    contestant: Contestant
    server: Running
    transport: str


@click.command()
@click.option("--only", multiple=True, metavar="5,10x1", help="Only this network; repeatable.")
@click.option("--streams", multiple=True, type=int, help="Only so many streams; repeatable.")
@click.option("--server", multiple=True, help="Only this server; repeatable.")
@click.option("--transport", multiple=True, help="Only this transport; repeatable.")
@click.option("--rounds", default=5, show_default=True, help="Turns of each.")
@click.option("--seconds", default=5.0, show_default=True, help="The length of one turn.")
@click.option("--threads", default=1, show_default=True, help="Threads of each engine.")
@click.option(
    "--results",
    default=FOLDER / "serve.jsonl",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file that the measurements are added to.",
)
@click.option("--page", type=click.Path(path_type=Path), help="Write the file's figures there.")
def main(
    only: tuple[str, ...],
    streams: tuple[int, ...],
    server: tuple[str, ...],
    transport: tuple[str, ...],
    rounds: int,
    seconds: float,
    threads: int,
    results: Path,
    page: Path | None,
) -> None:
    """Measures, unless there are no rounds, and writes the page."""
    results.parent.mkdir(parents=True, exist_ok=True)
    networks = [n for n in NETWORKS if not only or str(n).replace(" ", "") in only]
    for network in networks if rounds else []:
        with ExitStack() as stack, results.open("a", encoding="utf-8") as file:
            entries = [*_started(stack, network, server, transport, threads)]
            for count in streams or STREAMS:
                for _ in range(rounds):
                    for entry in entries:
                        result = _measured(entry, network, count, seconds)
                        file.write(json.dumps(asdict(result)) + "\n")
                        file.flush()
                        print(result.line(), flush=True)
    if page is not None:
        write(page, results)


def _started(
    stack: ExitStack,
    network: Network,
    names: tuple[str, ...],
    transports: tuple[str, ...],
    threads: int,
) -> Iterator[_Entry]:
    """Runs the servers, and gives each with each of its transports."""
    for contestant in contestants(names):
        server = stack.enter_context(running(contestant, network.path, threads))
        for transport in contestant.transports:
            if not transports or transport in transports:
                yield _Entry(contestant, server, transport)


def _measured(entry: _Entry, network: Network, streams: int, seconds: float) -> Result:
    """One turn of one server, by a load in a process of its own."""
    target = entry.contestant.target(entry.server, entry.transport, network)
    asked = json.dumps({"target": asdict(target), "streams": streams, "seconds": seconds})
    before = usage(entry.server.process)
    load = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve.load", asked],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    after = usage(entry.server.process)

    taken = json.loads(load.stdout)
    problem = taken.get("problem", "")
    if problem:
        taken = {"steps": 0.0, "p50": 0.0, "p99": 0.0, "count": 0}
    # The time to get warm is a fifth of what is measured.
    steps = taken["count"] * 1.2 + 2 * streams
    return Result(
        processor=processor(),
        network=str(network),
        server=entry.contestant.name,
        transport=entry.transport,
        streams=streams,
        steps=taken["steps"],
        p50=taken["p50"],
        p99=taken["p99"],
        cpu=(after.cpu - before.cpu) / steps * 1000,
        memory=after.memory,
        problem=problem,
    )


if __name__ == "__main__":
    main()

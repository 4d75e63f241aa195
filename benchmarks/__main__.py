"""stateport beside its peers, in one run: `make bench`. Rewrites the page of this processor's kind.

Every network under every load is measured in a separate process, first on one core, which is
pinned, then on all, and on the GPU where there is one. Within a process all contenders take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console

from .loads import LOADS, Load
from .measure import Taken
from .networks import NETWORKS, Network
from .page import Setting, write
from .processor import figures_page
from .startup import measure_startup
from .targets import Results
from .verification import measure_verification


@click.command()
@click.option("--rounds", default=30, show_default=True, help="Turns of each contender.")
@click.option("--only", multiple=True, metavar="5,10x1", help="Only this network; repeatable.")
@click.option("--one-core", is_flag=True, help="Leave out all cores and the GPU.")
@click.option(
    "--page",
    default=figures_page,
    show_default="that of this kind of processor",
    type=click.Path(path_type=Path),
    help="The page to rewrite.",
)
def main(rounds: int, only: tuple[str, ...], one_core: bool, page: Path) -> None:
    """Measures everything and puts the figures into the page."""
    networks = [n for n in NETWORKS if not only or str(n).replace(" ", "") in only]
    cores = len(os.sched_getaffinity(0))
    settings, missing = [Setting("One core", 1)], list[str]()
    if cores > 1 and not one_core:
        settings.append(Setting(f"All {cores} cores", cores))
    if torch.cuda.is_available() and not one_core:
        settings.append(Setting(f"GPU: {torch.cuda.get_device_name()}", 1, "cuda"))
    else:
        missing.append("No GPU was at hand in this run, so nothing on this page is about CUDA.")
    found = [(setting, _measured(setting, networks, rounds)) for setting in settings]
    startup = measure_startup(rounds=max(rounds // 3, 2))
    write(page, found, startup, measure_verification(rounds), missing)


def _measured(setting: Setting, networks: Sequence[Network], rounds: int) -> Results:
    results: dict[tuple[Network, Load], list[Taken]] = {}
    screen = Console(stderr=True)
    for network in networks:
        for load in LOADS:
            screen.print(f"{setting.title}: {network}, {load}", highlight=False)
            results[network, load] = _in_a_process(setting, network, load, rounds)
    return results


def _in_a_process(setting: Setting, network: Network, load: Load, rounds: int) -> list[Taken]:
    asked = {
        "network": asdict(network),
        "load": asdict(load),
        "threads": setting.threads,
        "device": setting.device,
        "rounds": rounds,
    }
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps(asked)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Measuring {network} under {load} failed; see above.")
    return [Taken(**one) for one in json.loads(done.stdout.splitlines()[-1])]


if __name__ == "__main__":
    main()

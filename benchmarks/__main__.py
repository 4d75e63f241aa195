"""stateport beside its peers, in one run: `make bench`. Rewrites the page of this processor's kind.

Every network under every load is measured in a separate process, first on one core, which is
pinned, then on all. Within a process all contenders take turns. `--gpu` measures on the GPU
instead, and rewrites the page of CUDA.
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
from .processor import CUDA_PAGE, figures_page
from .startup import measure_startup
from .targets import Results
from .verification import measure_verification


@click.command()
@click.option("--rounds", default=30, show_default=True, help="Turns of each contender.")
@click.option("--only", multiple=True, metavar="5,10x1", help="Only this network; repeatable.")
@click.option("--one-core", is_flag=True, help="Leave out all cores.")
@click.option("--gpu", is_flag=True, help="Measure on the GPU alone.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    help="The page to rewrite; by default, that of this kind of processor, or of CUDA.",
)
def main(rounds: int, only: tuple[str, ...], one_core: bool, gpu: bool, page: Path | None) -> None:
    """Measures everything and puts the figures into the page."""
    networks = [n for n in NETWORKS if not only or str(n).replace(" ", "") in only]
    if gpu:
        setting = Setting(f"GPU: {torch.cuda.get_device_name()}", 1, "cuda")
        write(page or CUDA_PAGE, [(setting, _measured(setting, networks, rounds))], [], {})
        return

    cores = len(os.sched_getaffinity(0))
    settings = [Setting("One core", 1)]
    if cores > 1 and not one_core:
        settings.append(Setting(f"All {cores} cores", cores))
    found = [(setting, _measured(setting, networks, rounds)) for setting in settings]
    startup = measure_startup(rounds=max(rounds // 3, 2))
    write(page or figures_page(), found, startup, measure_verification(rounds))


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

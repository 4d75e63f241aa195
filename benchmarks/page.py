"""The page of figures of one kind of processor, between two marks; the rest of it is by hand."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .loads import LOADS, Load
from .measure import Taken
from .networks import NETWORKS
from .processor import processor
from .startup import IMPORT_TORCH, STATEPORT, Process
from .targets import Figure, Results, figures, ratio
from .verification import AT_MOST

BEGIN, END = "<!-- figures: make bench -->", "<!-- end of figures -->"
_PACKAGES: Final = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tract", "numpy")


@dataclass(frozen=True)
class Setting:
    """Where a part of the run took place: "One core", "All cores", "GPU", and the threads."""

    title: str
    threads: int
    device: str = "cpu"


def write(
    page: Path,
    settings: Sequence[tuple[Setting, Results]],
    startup: Sequence[Process],
    verification: Mapping[str, Sequence[float]],
) -> None:
    """Puts the figures into the page."""
    lines = [_machine(), ""]
    for setting, results in settings:
        if setting.threads == 1 and setting.device == "cpu":
            lines += _targets(list(figures(results)), startup, verification)
        lines += [f"## {setting.title}", ""]
        for load in LOADS:
            lines += _table(load, results)
    lines += _startup(startup)
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    head, _, rest = before.partition(BEGIN)
    text = "\n".join(lines).strip()
    tail = rest.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def _machine() -> str:
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    versions = [f"{name} {installed[name]}" for name in _PACKAGES if name in installed]
    return f"{processor()}. {', '.join(versions)}, Python {platform.python_version()}."


def _targets(
    found: Sequence[Figure],
    startup: Sequence[Process],
    verification: Mapping[str, Sequence[float]],
) -> Iterator[str]:
    yield "## What is to hold"
    yield ""
    yield "| what | against | network | ratio of time | at most | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for one in found:
        target, other = one.target, one.other
        at_most = target.at_most[one.network]
        best = f" ({other})" if "best" in target.against else ""
        yield (
            f"| {target.what} | {target.against}{best} | {one.network} | "
            f"{_spread(one.low, one.median, one.high)} | {at_most:.2f} | "
            f"{'holds' if one.holds else '**does not hold**'} |"
        )
    times = {process.name: process for process in startup}
    if {STATEPORT, IMPORT_TORCH} <= times.keys():
        mine, theirs = times[STATEPORT], times[IMPORT_TORCH]
        low, median, high = ratio(_as_taken(mine), _as_taken(theirs))
        yield (
            f"| import and first answer of the runtime | `import torch` alone | | "
            f"{_spread(low, median, high)} | 0.25 | "
            f"{'holds' if median <= 0.25 else '**does not hold**'} |"
        )
    yield from verification_rows(verification)
    yield ""


def verification_rows(verification: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """What verifying costs, by network."""
    for network, ratios in verification.items():
        low, median, high = np.percentile(ratios, (25, 50, 75))
        yield (
            f"| `verify` on `ort-cpu` | its own engine calls | {network} | "
            f"{_spread(low, median, high)} | {AT_MOST:.2f} | "
            f"{'holds' if median <= AT_MOST else '**does not hold**'} |"
        )


def _as_taken(process: Process) -> Taken:
    return Taken("", process.name, "", process.rounds, 0.0, None)


def _table(load: Load, results: Results) -> Iterator[str]:
    """Contenders down, networks across; each as a multiple of stateport's time."""
    networks = [network for network in NETWORKS if (network, load) in results]
    if not networks:
        return
    yield f"### {str(load)[0].upper()}{str(load)[1:]}"
    yield ""
    yield f"| | {' | '.join(map(str, networks))} |"
    yield f"| --- |{' --- |' * len(networks)}"
    names: dict[str, None] = {}
    for network in networks:
        names |= dict.fromkeys(taken.name.partition(":")[0] for taken in results[network, load])
    for name in names:
        cells = [_cell(name, results[network, load]) for network in networks]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _cell(name: str, taken: Sequence[Taken]) -> str:
    one = next((t for t in taken if t.name.partition(":")[0] == name), None)
    if one is None:
        return "-"
    if one is taken[0]:
        text = f"**{one.median * 1e6:,.1f} us**, p99 {one.p99 * 1e6:,.1f}"
    else:
        low, median, high = ratio(one, taken[0])
        text = _spread(low, median, high)
    how = one.name.partition(": ")[2]
    notes = [how] if how else []
    if one.precision != "float32" and one.snr is not None:
        notes.append(f"{one.snr:.0f} dB")
    return f"{text}{'; ' if notes else ''}{', '.join(notes)}"


def _spread(low: float, median: float, high: float) -> str:
    digits = 3 if median < 0.1 else 2
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _startup(startup: Sequence[Process]) -> Iterator[str]:
    if not startup:
        return
    yield "## Coming up"
    yield ""
    yield "| a process that does | of the time of `import torch` | seconds | memory |"
    yield "| --- | --- | --- | --- |"
    base = next(process for process in startup if process.name == IMPORT_TORCH)
    for process in startup:
        shares = ratio(_as_taken(process), _as_taken(base))
        yield (
            f"| {process.name} | {_spread(*shares)} | {process.median:.2f} | "
            f"{process.memory / 1e6:.0f} MB |"
        )
    yield ""

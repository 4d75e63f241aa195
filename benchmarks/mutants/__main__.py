"""The mutation suite: `make mutants` breaks good files and rewrites the table in docs/parity.md."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import onnx
from rich.progress import track

import stateport
from stateport.engines import status

from ..marks import replace_between
from .faults import FAULTS, Applied, Fault
from .judge import CAUGHT, FAILED, MISSED, WITHIN, judge_all
from .networks import NETWORKS, exported

PAGE: Final = Path(__file__).parents[2] / "docs" / "parity.md"
BEGIN, END = "<!-- table: make mutants -->", "<!-- end of table -->"
ENGINES: Final = ("ort-cpu", "openvino", "tract", "onnx-reference")
#: So many of the faults that sit in one node must be located there.
LOCATED: Final = 0.9


@dataclass(frozen=True)
class Mutant:
    """A fault in a network, as a file; and what became of it on each engine."""

    network: str
    fault: Fault
    applied: Applied
    path: Path
    outcomes: dict[str, dict[str, Any]]


@click.command()
@click.option("--network", "names", multiple=True, type=click.Choice([*NETWORKS]))
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES))
@click.option("--page/--no-page", default=True, help="Whether to rewrite docs/parity.md.")
def main(names: Sequence[str], engines: Sequence[str], page: bool) -> None:
    """Breaks every network with every fault and judges the files on every engine."""
    chosen = engines or [name for name in ENGINES if status(name).problem is None]
    with tempfile.TemporaryDirectory() as folder:
        mutants = list(mutants_of(names or [*NETWORKS], Path(folder)))
        for name in dict.fromkeys(mutant.network for mutant in mutants):
            of_one = [mutant for mutant in mutants if mutant.network == name]
            good = of_one[0].path.parent.with_suffix(".onnx")
            for engine in track(chosen, f"{name}: {len(of_one)} broken files"):
                if not takes(engine, good):
                    continue
                told = judge_all(engine, good, [mutant.path for mutant in of_one])
                for mutant, outcome in zip(of_one, told, strict=True):
                    mutant.outcomes[engine] = outcome
    text = report(mutants, chosen)
    print(text)
    if page:
        replace_between(PAGE, BEGIN, END, [text])
    if missed(mutants) or located(mutants) < LOCATED:
        raise SystemExit(1)


def takes(engine: str, good: Path) -> bool:
    """Whether an engine takes the unbroken network at all."""
    try:
        stateport.load(good, engine=engine)
    except stateport.EngineError:
        return False
    return True


def mutants_of(names: Sequence[str], folder: Path) -> Iterator[Mutant]:
    """Every fault in every network that it applies to."""
    for name in names:
        good = exported(name, folder)
        place = good.with_suffix("")
        place.mkdir()
        for number, fault in enumerate(FAULTS):
            model = onnx.load(good)
            applied = fault.apply(model)
            if applied is not None:
                path = place / f"{number:03}.onnx"
                onnx.save(model, path)
                yield Mutant(name, fault, applied, path, {})


def missed(mutants: Sequence[Mutant]) -> list[str]:
    """Those that should have been caught."""
    return [
        f"{mutant.fault.name}, in {mutant.network}, on {engine}"
        for mutant in mutants
        for engine, outcome in mutant.outcomes.items()
        if outcome["verdict"] == MISSED
    ]


def located(mutants: Sequence[Mutant]) -> float:
    """The share of the faults in one node that are located there."""
    asked = _asked(mutants)
    return sum(map(_right, asked)) / len(asked) if asked else 1.0


def _asked(mutants: Sequence[Mutant]) -> list[Mutant]:
    return [
        mutant
        for mutant in mutants
        if len(mutant.applied.nodes) == 1
        and mutant.outcomes.get("ort-cpu", {}).get("verdict") == FAILED
        and "node" in mutant.outcomes["ort-cpu"]
    ]


def _right(mutant: Mutant) -> bool:
    return mutant.outcomes["ort-cpu"]["node"] in mutant.applied.nodes


def report(mutants: Sequence[Mutant], engines: Sequence[str]) -> str:
    """The table by group of faults, and what was missed."""
    spread = Counter(mutant.fault.name for mutant in mutants)
    wide = sum(count >= 5 for count in spread.values())
    asked = _asked(mutants)
    networks = len({mutant.network for mutant in mutants})
    head = (
        f"{len(spread)} faults, {wide} of them in at least five of {networks} networks: "
        f"{len(mutants)} broken files. Of those whose network an engine takes: caught / those that "
        "change an output by more than twice what is allowed."
    )
    lines = [
        head,
        "",
        f"| faults in | broken files | {' | '.join(engines)} | located |",
        f"| --- | --- | {' | '.join('---' for _ in engines)} | --- |",
    ]
    groups = dict.fromkeys(mutant.fault.group for mutant in mutants)
    for group in groups:
        lines.append(_row(group, [m for m in mutants if m.fault.group == group], engines))
    lines.append(_row("**all**", mutants, engines))
    right = sum(map(_right, asked))
    lines.append("")
    lines.append(
        f"*Located*: of the {len(asked)} that sit in one node and can be run, the node is named "
        f"right for {right}, {located(mutants):.1%}."
    )
    wrong = missed(mutants)
    lines += ["", *(f"- missed: {line}" for line in wrong)] if wrong else []
    return "\n".join(lines)


def _row(name: str, mutants: Sequence[Mutant], engines: Sequence[str]) -> str:
    cells = [name, str(len(mutants))]
    for engine in engines:
        verdicts = [m.outcomes[engine]["verdict"] for m in mutants if engine in m.outcomes]
        caught = sum(verdict in CAUGHT for verdict in verdicts)
        cells.append(f"{caught} / {sum(verdict != WITHIN for verdict in verdicts)}")
    asked = _asked(mutants)
    cells.append(f"{sum(map(_right, asked))} / {len(asked)}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

"""What else than the model's own file can be run, as the exporter makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

#: The entry points that make variants: functions (model, folder, *, reduced) -> variants, and of
#: those that cannot be made the reason why.
GROUP: Final = "stateport.variants"


@dataclass(frozen=True)
class Variant:
    """Files to run in place of the model's own.

    Attributes:
        name: what it is, in words.
        precision: in what it computes.
        whole: the file for everything; None for the model's own.
        step: the file for calls in which time is 1; None for the same as everything else.
        engines: the engines that it is for; none named for all of them.
    """

    name: str
    precision: str = "float32"
    whole: Path | None = None
    step: Path | None = None
    engines: tuple[str, ...] = ()


def make_variants(model: Path, folder: Path, *, reduced: bool) -> Iterator[Variant | str]:
    """The model as it is, and what installed packages make of it.

    Gives a reason, in words, in place of a variant that cannot be made.
    """
    yield Variant("as exported")
    makers = [entry.load() for entry in entry_points(group=GROUP)]
    if not makers:
        yield "other ways to write a step need the exporter: pip install stateport-exporter"
    make: Callable[..., Iterator[Variant | str]]
    for make in makers:
        yield from make(model, folder, reduced=reduced)

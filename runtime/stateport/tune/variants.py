# SPDX-License-Identifier: Apache-2.0
"""Variants of a model: files that can run in its place, as the exporter makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

#: The entry points that make variants: functions (model, folder, *, reduced) -> an iterator of
#: variants, with a reason in place of each that cannot be made.
GROUP: Final = "stateport.variants"


@dataclass(frozen=True)
class Variant:
    """Files to run in place of the model's own.

    Attributes:
        name: a description in words.
        precision: the precision in which it computes.
        whole: the file for all calls; None for the model's own.
        step: the file for calls in which time is 1; None for the same as for all other calls.
        engines: the engines that it is for; empty for all of them.
    """

    name: str
    precision: str = "float32"
    whole: Path | None = None
    step: Path | None = None
    engines: tuple[str, ...] = ()


def make_variants(model: Path, folder: Path, *, reduced: bool) -> Iterator[Variant | str]:
    """The model as it is, and the variants that installed packages make of it.

    Args:
        model: the model's file.
        folder: the folder for the files of the variants.
        reduced: whether variants of reduced precision are made, too.

    Yields:
        A variant, or in place of a variant that cannot be made the reason, in words.
    """
    yield Variant("as exported")

    makers: list[Callable[..., Iterator[Variant | str]]]
    makers = [entry.load() for entry in entry_points(group=GROUP)]
    if not makers:
        yield "other ways to write a step need the exporter: pip install stateport-exporter"

    for make in makers:
        yield from make(model, folder, reduced=reduced)

"""What several commands share: arguments, options and consoles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from ..engines import ENGINES


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers of at least 1, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers of at least 1: 1,64.", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


NUMBERS: Final = _Numbers()
MODEL: Final = click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
PLAN: Final = click.option(
    "--plan", type=click.Path(path_type=Path), help="Run as `stateport tune` found: PLAN.json."
)
ENGINE: Final = click.Choice(list(ENGINES))


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr; in a pipe it is wide, so that tables are never cut."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 160, highlight=False)


def named_path(text: str, option: str) -> tuple[str, Path]:
    """Splits NAME=FILE."""
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise click.BadParameter(f"{text!r} is not of the form NAME=FILE.", param_hint=option)
    return name, Path(path)

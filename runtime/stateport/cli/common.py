"""What several commands share: arguments, options and consoles."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from ..engines import engine_names
from ..files.paths import usable_path

#: A whole number of at least 1, and of no more digits than any number of streams or steps has.
_DIGITS: Final = re.compile("0*[1-9][0-9]{0,8}")


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """Whole numbers of at least 1, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(_DIGITS.fullmatch(part) for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers of at least 1: 1,64.", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


class _FilePath(click.Path):
    """The path of a file: not empty, and one that a file can be called."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """A path.

        Raises:
            FileError: no file can be called that.
        """
        if not str(value):
            self.fail("The path is empty; the name of a file was expected.", param, ctx)
        path = super().convert(usable_path(value), param, ctx)
        assert isinstance(path, Path)
        return path


class Finite(click.FloatRange):
    """A number in a range, and neither infinite nor NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A float."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


NUMBERS: Final = _Numbers()
FILE: Final = _FilePath()
MODEL: Final = click.argument("model", type=FILE, metavar="MODEL.onnx")
PLAN: Final = click.option("--plan", type=FILE, help="Run as `stateport tune` found: PLAN.json.")
STATES: Final = click.option(
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="A state of a file that does not say so itself; repeat.",
)
CONSTANTS: Final = click.option(
    "--constant",
    "constants",
    multiple=True,
    metavar="NAME=VALUE",
    help="An input that is the same in every call; repeat.",
)
ENGINE: Final = click.Choice(engine_names())

#: Words in Python's errors about literals that are too large for it -> the reason.
_LIMITS: Final = {
    "too many nested": "it is nested too deeply",
    "Exceeds the limit": "it has too many digits",
}


def named_states(texts: Sequence[str]) -> dict[str, str] | None:
    """INPUT=OUTPUT for each; None where there are none."""
    states: dict[str, str] = {}
    for text in texts:
        name, output = named_state(text)
        if name in states:
            raise click.BadParameter(f"{name!r} is named twice.", param_hint="--state")
        states[name] = output
    return states or None


def named_state(text: str) -> tuple[str, str]:
    """Splits INPUT=OUTPUT."""
    return _named(text, "--state", "INPUT=OUTPUT")


def named_constants(texts: Sequence[str]) -> dict[str, object] | None:
    """NAME=VALUE for each, a number or a list of numbers; None where there are none."""
    found = {}
    for text in texts:
        name, value = _named(text, "--constant", "NAME=VALUE")
        try:
            found[name] = literal(value, "--constant")
        except (ValueError, SyntaxError) as error:
            raise click.BadParameter(
                f"{value!r} is no number, and no list of numbers.", param_hint="--constant"
            ) from error
    return found or None


def literal(text: str, option: str) -> object:
    """The value of a Python literal, as an option has it.

    Raises:
        ValueError: the text is none.
        SyntaxError: it is none, and no Python either.
        click.BadParameter: it is one that Python refuses to read or to print: it is nested too
            deeply, or has a number of thousands of digits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on "\d" and the like
            value: object = ast.literal_eval(text)
        repr(value)  # Python reads longer numbers than it prints, where they are hexadecimal
    except (RecursionError, MemoryError) as error:
        raise _too_much(text, option, "it is nested too deeply") from error
    except (ValueError, SyntaxError) as error:
        for words, reason in _LIMITS.items():
            if words in str(error):
                raise _too_much(text, option, reason) from error
        raise
    return value


def _too_much(text: str, option: str, reason: str) -> click.BadParameter:
    return click.BadParameter(
        f"{text[:40]!r}... cannot be read: {reason}. Give a shorter value.", param_hint=option
    )


def named_path(text: str, option: str) -> tuple[str, Path]:
    """Splits NAME=FILE."""
    name, path = _named(text, option, "NAME=FILE")
    return name, Path(path)


def _named(text: str, option: str, form: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise click.BadParameter(f"{text!r} is not of the form {form}.", param_hint=option)
    return name, value

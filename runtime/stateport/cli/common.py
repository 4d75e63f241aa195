# SPDX-License-Identifier: Apache-2.0
"""Arguments, options and parsers that several commands share."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import click

from ..engines import engine_names
from ..files.paths import usable_path
from ..suggestions import did_you_mean

#: A whole number of at least 1, of at most nine digits besides leading zeros.
_DIGITS: Final = re.compile("0*[1-9][0-9]{0,8}")


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """Whole numbers of at least 1, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value  # converted already

        parts = [part.strip() for part in str(value).split(",")]
        if not all(map(_DIGITS.fullmatch, parts)):
            self.fail(
                f"{value!r} is not a list of whole numbers of at least 1 and at most 999999999. "
                "Write them with commas: 1,64.",
                param,
                ctx,
            )

        # Repeated numbers are dropped, in the order of their first appearance.
        return tuple(dict.fromkeys(map(int, parts)))


class _FilePath(click.Path):
    """The path of a file: not empty, and possible as a file name on this system."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The text as a path.

        Raises:
            click.BadParameter: the text is empty.
            FileError: no file can have this name.
        """
        if not str(value):
            self.fail("The path is empty; the name of a file was expected.", param, ctx)

        path = super().convert(usable_path(value), param, ctx)
        assert isinstance(path, Path)
        return path


class Number(click.FloatRange):
    """A number in a range; infinity is one."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The value as a float.

        Raises:
            click.BadParameter: it is not a number, or not in the range.
        """
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is no number. Write one such as 20, 0.5 or 1e-6.", param, ctx)
        return float(super().convert(value, param, ctx))


class Finite(Number):
    """A number in a range that is neither infinite nor NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The value as a float.

        Raises:
            click.BadParameter: it is not a number, not in the range, or not finite.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class _Engine(click.Choice):  # type: ignore[type-arg]  # not before click 8.2
    """The name of an engine."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name.

        Raises:
            click.BadParameter: there is no such engine.
        """
        if value not in self.choices:
            known = ", ".join(self.choices)
            hint = did_you_mean(value, self.choices)
            self.fail(f"There is no engine {value!r}; known are {known}.{hint}", param, ctx)
        return super().convert(value, param, ctx)


NUMBERS: Final = _Numbers()
FILE: Final = _FilePath()
MODEL: Final = click.argument("model", type=FILE, metavar="MODEL.onnx")
PLAN: Final = click.option(
    "--plan",
    type=FILE,
    metavar="PLAN.json",
    help="Use a plan written by `stateport tune`.",
)
STATES: Final = click.option(
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="Pair a state input with the output that holds its next value, for files without a "
    "contract. Repeatable.",
)
CONSTANTS: Final = click.option(
    "--constant",
    "constants",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give an input the same value in every call. Repeatable.",
)
ENGINE: Final = _Engine(engine_names())

#: Words in Python's errors about literals that it cannot read -> the reason.
_LIMITS: Final = {
    "too many nested": "it is nested too deeply",
    "Exceeds the limit": "it has too many digits",
}


def check_plan(
    plan: Path | None, engines: Collection[str] | None, threads: int | Collection[int] | None
) -> None:
    """Refuses a plan together with options that the plan sets.

    Raises:
        click.UsageError: there is a plan, and an engine or a number of threads.
    """
    if plan is not None and (engines or threads):
        raise click.UsageError(
            "--plan sets the engine and the threads. Leave out --engine and --threads, or leave "
            "out --plan."
        )


def named_states(texts: Sequence[str]) -> dict[str, str] | None:
    """Parses INPUT=OUTPUT for each state; None where there are no texts.

    Raises:
        click.BadParameter: a text has another form, or two texts name one input.
    """
    states: dict[str, str] = {}
    for text in texts:
        name, output = named_state(text)
        if name in states:
            raise click.BadParameter(
                f"{name!r} is named twice. Pair each state input with one output.",
                param_hint="--state",
            )
        states[name] = output

    return states or None


def named_state(text: str) -> tuple[str, str]:
    """Splits INPUT=OUTPUT."""
    return _split_pair(text, "--state", "INPUT=OUTPUT")


def named_constants(texts: Sequence[str]) -> dict[str, object] | None:
    """Parses NAME=VALUE for each constant; None where there are no texts.

    Raises:
        click.BadParameter: a text has another form, or its value is not a Python literal.
    """
    constants: dict[str, object] = {}
    for text in texts:
        name, value = _split_pair(text, "--constant", "NAME=VALUE")
        try:
            constants[name] = literal(value, "--constant")
        except (ValueError, SyntaxError) as error:
            raise click.BadParameter(
                f"{value!r} is neither a number nor a list of numbers. Write NAME=16000 or "
                "NAME=[1,2].",
                param_hint="--constant",
            ) from error

    return constants or None


def named_axes(texts: Sequence[str]) -> dict[str, tuple[int | str, ...]]:
    """Parses NAME=AXIS,AXIS,... for each array; a whole number is a size.

    Raises:
        click.BadParameter: a text has another form, or two texts name one array.
    """
    axes: dict[str, tuple[int | str, ...]] = {}
    for text in texts:
        name, shape = _split_pair(text, "--axes", "NAME=AXIS,AXIS,...")
        parts = [part.strip() for part in shape.split(",")]
        if name in axes or not all(parts):
            reason = "is named twice" if name in axes else f"has an empty axis in {shape!r}"
            raise click.BadParameter(
                f"{name!r} {reason}. Name the axes of each array once: x=batch,time,5.",
                param_hint="--axes",
            )
        axes[name] = tuple(int(part) if part.isdecimal() else part for part in parts)
    return axes


def literal(text: str, option: str) -> object:
    """The value of a Python literal that was passed to an option.

    Raises:
        ValueError: the text is an expression, but not a literal.
        SyntaxError: the text is not a Python expression.
        click.BadParameter: Python refuses to read or to print the literal, because it is nested too
            deeply or has a number of thousands of digits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of escapes such as "\d"
            value: object = ast.literal_eval(text)
        repr(value)  # fails for a long hexadecimal number, which Python reads but does not print
    except (RecursionError, MemoryError) as error:
        raise _unreadable(text, option, "it is nested too deeply") from error
    except (ValueError, SyntaxError) as error:
        for words, reason in _LIMITS.items():
            if words in str(error):
                raise _unreadable(text, option, reason) from error
        raise

    return value


def _unreadable(text: str, option: str, reason: str) -> click.BadParameter:
    return click.BadParameter(
        f"{text[:40]!r}... cannot be read: {reason}. Give a shorter value.", param_hint=option
    )


def named_path(text: str, option: str) -> tuple[str, Path]:
    """Splits NAME=FILE."""
    name, path = _split_pair(text, option, "NAME=FILE")
    return name, Path(path)


def _split_pair(text: str, option: str, form: str) -> tuple[str, str]:
    """The two parts of a text like NAME=VALUE; neither may be empty."""
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise click.BadParameter(f"{text!r} is not of the form {form}.", param_hint=option)
    return name, value

# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share: arguments, states, examples and `--no-check`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from stateport.cli.common import literal, named_state

from ..errors import CheckError, ExportError

if TYPE_CHECKING:
    from ..network.example import ExampleLike

NO_CHECK: Final = click.option(
    "--no-check", is_flag=True, help="Write the file without verifying it."
)


@contextlib.contextmanager
def no_check_in_errors() -> Iterator[None]:
    """Adds the option `--no-check` to errors that name the argument `check=False`.

    Raises:
        CheckError: the error of the library, with the option.
    """
    try:
        yield
    except CheckError as error:
        raise CheckError(f"{error} On the command line, that is --no-check.") from error


def parse_argument(text: str) -> tuple[str, object]:
    """Splits NAME=VALUE; the value is a Python literal, or else a plain word."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE.", param_hint="--arg")

    try:
        return name, literal(value, "--arg")
    except (ValueError, SyntaxError):
        return name, value  # a plain word


def parse_states(states: Collection[str], no_states: Collection[str]) -> dict[str, str | None]:
    """The result of each `--state ARGUMENT=RESULT`, and None for each `--no-state ARGUMENT`."""
    pairs: list[tuple[str, str | None]] = [*map(named_state, states)]
    pairs += [(name, None) for name in no_states]

    declared: dict[str, str | None] = {}
    for name, result in pairs:
        if name in declared:
            raise click.UsageError(
                f"--state and --no-state name {name!r} twice. Name each argument once."
            )
        declared[name] = result
    return declared


def find_example(module: Any, examples: tuple[str, ...]) -> ExampleLike:
    """The example that the options describe, or else the module's own.

    Raises:
        ExportError: there is neither, or what should be a function is none.
    """
    from ..network.spec import is_spec

    if len(examples) == 1 and "=" not in examples[0] and not is_spec(examples[0]):
        return _example_function(examples[0])
    if examples:
        return dict(map(_named_spec, examples))

    own = getattr(module, "example_inputs", None)
    if callable(own):
        function: Callable[[int, int], Any] = own
        return function
    raise ExportError(
        f"The arguments of {type(module).__qualname__}.forward are not known. Describe each one: "
        "--example x=float32[batch,time,5]; or give the network a method "
        "example_inputs(batch, time)."
    )


def _example_function(target: str) -> Callable[[int, int], Any]:
    """The function that `--example file.py:function` names."""
    from ..network.loading import load_attribute

    function: Callable[[int, int], Any] = load_attribute(target)
    if not callable(function):
        raise ExportError(
            f"{target} is not a function of (batch, time). Name one that returns the arguments of "
            "forward, or describe each argument: --example x=float32[batch,time,5]."
        )
    return function


def _named_spec(text: str) -> tuple[str, object]:
    from ..network.example import Spec

    name, separator, spec = text.partition("=")
    if not separator or not name.isidentifier() or not spec:
        raise click.BadParameter(
            f"{text!r} is not of the form NAME=SPEC; write the name that forward gives the "
            "argument, and its dtype and axes: x=float32[batch,time,5].",
            param_hint="--example",
        )
    return name, Spec.parse(spec)

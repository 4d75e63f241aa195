"""What options of several commands say: arguments, states, examples."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import click

from stateport.cli.common import literal, named_state

if TYPE_CHECKING:
    from ..network.example import ExampleLike


def parse_argument(text: str) -> tuple[str, object]:
    """NAME=VALUE, where the value is a Python literal or a plain word."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE.", param_hint="--arg")
    try:
        return name, literal(value, "--arg")
    except (ValueError, SyntaxError):
        return name, value  # a plain word


def parse_states(states: Collection[str], no_states: Collection[str]) -> dict[str, str | None]:
    """IN=OUT for each state, and None for each argument that is none."""
    declared: dict[str, str | None] = {}
    for name, result in [*(named_state(text) for text in states), *((n, None) for n in no_states)]:
        if name in declared:
            raise click.UsageError(f"--state and --no-state name {name!r} twice.")
        declared[name] = result
    return declared


def find_example(module: Any, examples: tuple[str, ...]) -> ExampleLike:
    """The example that the options name, or the module's own."""
    from ..errors import ExportError
    from ..network.loading import load_attribute

    if len(examples) == 1 and "=" not in examples[0]:
        function: Callable[[int, int], Any] = load_attribute(examples[0])
        if not callable(function):
            raise ExportError(f"{examples[0]} is not a function of (batch, time).")
        return function
    if examples:
        return dict(_named_spec(text) for text in examples)
    own = getattr(module, "example_inputs", None)
    if callable(own):
        result: Callable[[int, int], Any] = own
        return result
    raise ExportError(
        f"What {type(module).__qualname__}.forward takes is not known. Say it with "
        "--example x=float32[batch,time,5] for each argument, or give the network a method "
        "example_inputs(batch, time)."
    )


def _named_spec(text: str) -> tuple[str, object]:
    from ..network.example import Spec

    name, separator, spec = text.partition("=")
    if not separator or not name.isidentifier() or not spec:
        raise click.BadParameter(f"{text!r} is not of the form NAME=SPEC.", param_hint="--example")
    return name, Spec.parse(spec)

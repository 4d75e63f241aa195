# SPDX-License-Identifier: Apache-2.0
"""An engine with its options, as people write it: `openvino:precision=bfloat16`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InputError
from ..suggestions import did_you_mean
from . import engine_names


@dataclass(frozen=True)
class EngineChoice:
    """An engine, its options, and the Python interpreter that runs it.

    Attributes:
        name: as `stateport.load` takes it.
        options: as `stateport.load` takes them.
        python: the interpreter of another environment; by default the one that runs this.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    python: str | None = None

    @classmethod
    def parse(cls, text: str) -> EngineChoice:
        """Reads `NAME` or `NAME:OPTION=VALUE,OPTION=VALUE`; a value is a word or a number.

        Raises:
            InputError: the text has another form.
        """
        name, colon, rest = text.partition(":")
        if not colon:
            return cls(name)

        options: dict[str, object] = {}
        for part in rest.split(","):
            option, equals, value = part.partition("=")
            if not (name and option and equals and value):
                raise InputError(
                    f"{text!r} is no engine with options; NAME:OPTION=VALUE,OPTION=VALUE was "
                    "expected, such as openvino:precision=bfloat16."
                )
            options[option.strip()] = _read_value(value.strip())
        return cls(name, options)

    def __str__(self) -> str:
        text = self.name
        if self.options:
            options = ",".join(f"{option}={value}" for option, value in self.options.items())
            text += f":{options}"

        if self.python is not None:
            text += f" in {self.python}"
        return text


def choices(text: str) -> tuple[EngineChoice, ...]:
    """The engine that a text names; for `all`, every known engine.

    Raises:
        InputError: the text has another form, or there is no such engine.
    """
    if text == "all":
        return tuple(map(EngineChoice, engine_names()))

    choice = EngineChoice.parse(text)
    if choice.name == "all":
        raise InputError("'all' takes no options; name the engine that has them.")

    if choice.name not in engine_names():
        known = ", ".join(engine_names())
        hint = did_you_mean(choice.name, [*engine_names(), "all"])
        raise InputError(f"There is no engine {choice.name!r}; known are {known}, and all.{hint}")
    return (choice,)


def _read_value(text: str) -> object:
    """A bool, a whole number or a float where the text is one, else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, bool | int | float) else text

# SPDX-License-Identifier: Apache-2.0
"""Picking values out of others: those that are there, those that are wanted, the only one."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
Key = TypeVar("Key")
Result = TypeVar("Result")


def sure(value: T | None) -> T:
    """A value that the caller knows to be there, for the type checker.

    Raises:
        AssertionError: it is None, which is a mistake in the caller.
    """
    assert value is not None
    return value


def present(values: Iterable[T | None]) -> list[T]:
    """The values without None."""
    return [value for value in values if value is not None]


def without(values: Iterable[T], taken: Container[object]) -> list[T]:
    """The values that are not among `taken`, in their order."""
    return [value for value in values if value not in taken]


def among(values: Iterable[T], wanted: Container[object]) -> list[T]:
    """The values that are among `wanted`, in their own order."""
    return [value for value in values if value in wanted]


def instances_of(kind: type[T], values: Iterable[object]) -> list[T]:
    """The values of a type, in their order."""
    return [value for value in values if isinstance(value, kind)]


def only(values: Sequence[T]) -> T | None:
    """The value of a sequence that has one; None if it has none, or several."""
    return values[0] if len(values) == 1 else None


def positions_of(is_wanted: Callable[[T], object], values: Iterable[T]) -> list[int]:
    """The positions of the values for which `is_wanted` is true."""
    return [position for position, value in enumerate(values) if is_wanted(value)]


def map_values(function: Callable[[T], Result], mapping: Mapping[Key, T]) -> dict[Key, Result]:
    """The result of a function for each value of a mapping, by the same keys."""
    return {key: function(value) for key, value in mapping.items()}

"""What several engines say of options that they do not have."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError


def no_options(name: str, options: Mapping[str, object]) -> None:
    """Refuses options where an engine has none.

    Raises:
        InputError: there are some.
    """
    for option in sorted(options):
        raise InputError(f"{name} has no option {option!r}; it takes none.")


def one_thread(name: str, threads: int | None) -> None:
    """Refuses more threads where an engine has one.

    Raises:
        InputError: there are more.
    """
    if threads is not None and threads > 1:
        raise InputError(f"{name} computes in one thread; threads={threads} was asked for.")

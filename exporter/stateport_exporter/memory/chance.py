"""Random numbers that Python code draws: whether anything is decided by them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from ..sizes.foreseen import GRID, Watch, foresee

#: Where single numbers are drawn, between two bounds.
_DRAWN: Final = (
    *((random, name) for name in ("random", "uniform")),
    *((np.random, name) for name in ("random", "random_sample", "rand", "uniform")),
)


def standing() -> tuple[Any, ...]:
    """Where the generators of Python and NumPy stand."""
    return random.getstate(), repr(np.random.get_state(legacy=False))


@contextlib.contextmanager
def foreseen_chance(watch: Watch) -> Iterator[None]:
    """Lets draws of single numbers give what is foreseen to be anything; generators stay."""
    originals = [getattr(module, name) for module, name in _DRAWN]
    try:
        for (module, name), original in zip(_DRAWN, originals, strict=True):
            setattr(module, name, _drawn(original, watch))
        yield
    finally:
        for (module, name), original in zip(_DRAWN, originals, strict=True):
            setattr(module, name, original)


def _drawn(original: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def draw(*bounds: Any, **more: Any) -> Any:
        is_uniform = original.__name__ == "uniform"
        if more or len(bounds) != (2 if is_uniform else 0):
            return original(*bounds, **more)
        low, high = bounds if is_uniform else (0.0, 1.0)
        shares = np.linspace(0, 1, len(GRID))
        return foresee(float(low + (high - low) / 2), low + (high - low) * shares, watch)

    return draw

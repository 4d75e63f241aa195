"""Precisions that a model computes in, and the error that each may make."""

from __future__ import annotations

from math import inf
from typing import Final

#: How many decibels the truth must be above the error, by precision. Half a digit more or less is
#: 10 dB. docs/parity.md has the measurements behind them.
BUDGETS: Final = {"float16": 50.0, "bfloat16": 25.0, "int8": 25.0, "int4": 12.0}


def lowest(*precisions: str) -> str:
    """Of several precisions, the one that may make the largest error."""
    return min(precisions, key=lambda name: BUDGETS.get(name, inf))

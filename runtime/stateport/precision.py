# SPDX-License-Identifier: Apache-2.0
"""The precisions that a model may compute in, and the error that each is allowed."""

from __future__ import annotations

from math import inf
from typing import Final

#: The lowest signal-to-noise ratio in decibels, by precision; 10 dB are half a decimal digit.
#: docs/parity.md has the measurements that they are based on.
BUDGETS: Final = {"float16": 50.0, "bfloat16": 25.0, "int8": 25.0, "int4": 12.0}


def lowest(*precisions: str) -> str:
    """The precision with the largest allowed error."""
    return min(precisions, key=lambda name: BUDGETS.get(name, inf))

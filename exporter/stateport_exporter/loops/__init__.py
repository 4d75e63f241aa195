# SPDX-License-Identifier: Apache-2.0
"""Loops over time: a network that steps in a Python `for` becomes one step, run by ONNX's `Scan`.

`unroll` traces the network at two lengths, `roll` finds the step that each trace repeats,
`recurrences` finds parallel scans, and `unify` makes one program of the two traces. `RolledNetwork`
runs that program in place of the author's `forward`.
"""

from __future__ import annotations

from .check import check_memory, results_in_float64, same_in_float64
from .folded import RolledNetwork, roll_loops, roll_rounds

__all__ = [
    "RolledNetwork",
    "check_memory",
    "results_in_float64",
    "roll_loops",
    "roll_rounds",
    "same_in_float64",
]

# SPDX-License-Identifier: Apache-2.0
"""Axes with remainders in the words of a contract."""

from __future__ import annotations

from typing import Any

import pytest

from stateport.axes import resolve
from stateport_exporter.states.axis_remainders import without_remainders

WORDS = {
    "(time - (Mod(time, 3)))//3": "time//3",
    "(time + (PythonMod(-time, 3)))//3": "(time + 2)//3",
    "time + PythonMod(-time, 4)": "4*((time + 3)//4)",
    "Mod(time, 2)": "time - 2*(time//2)",
    "time + (4 - Mod(time, 4))": "4*(time//4) + 4",
    "2*time - 2*Mod(time, 5) + 1": "10*(time//5) + 1",
    "Mod(time, 3)*batch": "batch*(time - 3*(time//3))",
    "Mod(8 - (Mod(time, 8)), 8) + time": "8*((time + 7)//8)",
    "(time + Mod(time, 2))//4": "(time - (time//2))//2",
}


@pytest.mark.parametrize("axis", WORDS)
def test_a_remainder_is_what_a_division_leaves(axis: str) -> None:
    written = without_remainders(axis)
    assert written == WORDS[axis]
    functions: dict[str, Any] = {"Mod": lambda a, b: a % b, "PythonMod": lambda a, b: a % b}
    for time in range(1, 50):
        sizes = {"time": time, "batch": 3}
        assert resolve([written], sizes) == (eval(axis, {**functions, **sizes}),)  # noqa: S307


@pytest.mark.parametrize(
    "axis", [7, "time", "time//2", "Max(1, Mod(time, 2))", "Mod(time, n) + 1 if", "Mod(time)"]
)
def test_other_axes_stay(axis: int | str) -> None:
    assert without_remainders(axis) == axis

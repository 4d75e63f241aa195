"""Numbers that know what they would be elsewhere."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stateport_exporter.sizes.foreseen import GRID, Watch, foresee, is_foreseen, plain

COMPUTED: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
    (lambda n: 2 * n + 1, lambda n: 2 * n + 1),
    (lambda n: n // 3 - 4, lambda n: n // 3 - 4),
    (lambda n: 7 - n % 5, lambda n: 7 - n % 5),
    (lambda n: n / 4, lambda n: n / 4),
    (lambda n: 100 / n, lambda n: 100 / n),
    (lambda n: n**2, lambda n: n**2),
    (lambda n: divmod(n, 10)[1], lambda n: n % 10),
    (lambda n: -abs(-n), lambda n: -n),
    (lambda n: n & 6, lambda n: n.astype(int) & 6),
    (lambda n: 1 << (n % 8), lambda n: 1 << (n.astype(int) % 8)),
    (lambda n: math.ceil(n / 3), lambda n: np.ceil(n / 3)),
    (lambda n: round(n / 3), lambda n: np.round(n / 3)),
    (lambda n: math.floor(n / 3) + True, lambda n: np.floor(n / 3) + 1),
]


@pytest.mark.parametrize(("compute", "everywhere"), COMPUTED)
def test_arithmetic_carries_both_along(compute: Any, everywhere: Any) -> None:
    number = compute(foresee(9, GRID, Watch()))
    assert plain(number) == compute(9)
    assert type(plain(number)) is type(compute(9))
    few = slice(0, 200)
    np.testing.assert_allclose(number.elsewhere[few], everywhere(GRID[few]))


@pytest.mark.parametrize("name", ["lt", "le", "gt", "ge", "eq", "ne"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_comparison_is_kept_with_its_outcome_everywhere(name: str, swapped: bool) -> None:
    watch, compare = Watch(), getattr(operator, name)
    number = foresee(9, GRID, watch)
    outcome = compare(600, number) if swapped else compare(number, 600)
    assert outcome is (compare(600, 9) if swapped else compare(9, 600))
    [decision] = watch.decisions
    expected = compare(600, GRID) if swapped else compare(GRID, 600)
    np.testing.assert_array_equal(decision.outcomes, expected)


def test_what_comes_out_alike_everywhere_is_no_decision() -> None:
    watch = Watch()
    number = foresee(9, GRID, watch)
    assert number >= 0
    assert number != 0.5
    assert number
    assert watch.decisions == []
    assert not number - 9
    assert len(watch.decisions) == 1


def test_the_smaller_of_two_is_a_decision() -> None:
    watch = Watch()
    assert plain(min(foresee(9, GRID, watch), 100)) == 9
    assert len(watch.decisions) == 1


def test_it_is_a_number_like_others() -> None:
    number = foresee(9, GRID, Watch())
    assert isinstance(number, int)
    assert ([10, 20, 30] * 4)[:12] == [10, 20, 30] * 4
    assert list(range(12))[number] == 9
    assert {9: "nine"}[number] == "nine"
    assert f"{number:03d}" == "009"
    assert copy.deepcopy(number) is number
    assert not is_foreseen(plain(number))
    assert foresee("text", GRID, Watch()) == "text"  # type: ignore[arg-type]


def test_what_has_no_value_somewhere_is_no_number_there() -> None:
    watch = Watch()
    number = 1 / (foresee(9, GRID, watch) - 20)
    assert not number > 0
    assert np.isinf(number.elsewhere).sum() == 1

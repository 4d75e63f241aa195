# SPDX-License-Identifier: Apache-2.0
"""Picking values out of others."""

from __future__ import annotations

import pytest

from stateport.picking import (
    among,
    instances_of,
    map_values,
    only,
    positions_of,
    present,
    sure,
    without,
)


def test_values_keep_their_order() -> None:
    assert present([3, None, 0]) == [3, 0]
    assert without([3, 1, 2], {1}) == [3, 2]
    assert among([3, 1, 2], {2, 3}) == [3, 2]
    assert instances_of(str, [1, "b", None, "a"]) == ["b", "a"]


def test_only_value_is_found_if_there_is_one() -> None:
    assert only("a") == "a"
    assert only("") is None
    assert only("ab") is None


def test_positions_are_those_of_wanted_values() -> None:
    assert positions_of(str.isdigit, ["a", "1", "b", "2"]) == [1, 3]


def test_function_sees_each_value_of_mapping() -> None:
    assert map_values(len, {"a": "xy", "b": ""}) == {"a": 2, "b": 0}


def test_value_that_is_missing_is_mistake_of_the_caller() -> None:
    assert sure(0) == 0

    with pytest.raises(AssertionError):
        sure(None)

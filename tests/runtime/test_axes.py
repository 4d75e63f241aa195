"""Axes that are computed from others: bounded, whoever wrote them."""

from __future__ import annotations

import pytest

from stateport import Contract, ContractError
from stateport.axes import resolve, without_brackets

SIZES = {"batch": 2, "time": 7}


@pytest.mark.parametrize(
    "axis",
    [
        "time//0",
        "time*10000000000",
        "time//(2-2)",
        "time**9",
        "9**9**9",
        "time*" * 300 + "time",
        "(" * 300 + "time" + ")" * 300,
        "-" * 391 + "time",
        "time-8",
        "a.b",
        "f(time)",
        "__import__('os')",
        "time if time else batch",
        "1.5*time",
        "",
        "\0",
    ],
)
def test_an_axis_that_no_array_can_have_is_refused(axis: str) -> None:
    with pytest.raises(KeyError):
        resolve((axis, "time", 2**20), SIZES)


@pytest.mark.parametrize(
    "axis", [10**12, 10**30, "time*10000000000", "time//0", -1, 0.5, True, None, [1]]
)
def test_a_contract_with_such_an_axis_is_refused(axis: object) -> None:
    document = {
        "version": 1,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", axis]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch"]}],
        "states": [],
        "streaming": {"ok": True},
    }
    with pytest.raises(ContractError):
        Contract.from_document(document)


@pytest.mark.parametrize(
    ("axis", "size"), [("time", 7), ("8*(time//4)", 8), ("time-batch", 5), ("batch*time+1", 15)]
)
def test_an_axis_that_is_sound_has_a_size(axis: str, size: int) -> None:
    assert resolve((axis,), SIZES) == (size,)


@pytest.mark.parametrize(
    ("axis", "plain"),
    [
        ("(time//160)", "time//160"),
        ("((time//160))", "time//160"),
        ("(time + 1)//(batch + 1)", "(time + 1)//(batch + 1)"),
        ("(time", "(time"),
        ("()", "()"),
        ("time", "time"),
        (5, 5),
    ],
)
def test_brackets_around_the_whole_of_an_axis_say_nothing(
    axis: int | str, plain: int | str
) -> None:
    assert without_brackets(axis) == plain

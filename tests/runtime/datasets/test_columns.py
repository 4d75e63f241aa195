# SPDX-License-Identifier: Apache-2.0
"""Columns to arrays and back: every dtype, lists within lists, nulls, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stateport import ArraySpec, Contract, InputError
from stateport.contract import DTYPES
from stateport.datasets.columns import check_columns, column_of, rows_of
from stateport.datasets.rows import Answer

SHAPES: list[tuple[tuple[Any, ...], list[tuple[int, ...]]]] = [
    (("batch",), [(), ()]),
    (("batch", "time"), [(3,), (0,)]),
    (("time", "batch", 2), [(3, 2), (1, 2)]),
    (("batch", "time", "frames", 2), [(3, 4, 2), (2, 1, 2)]),
    (("batch", 2, "time"), [(2, 3), (2, 5)]),
]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize(("axes", "shapes"), SHAPES)
def test_there_and_back(dtype: str, axes: tuple[Any, ...], shapes: list[tuple[int, ...]]) -> None:
    random = np.random.default_rng(0)
    arrays = [np.array(random.integers(0, 2, shape)).astype(dtype) for shape in shapes]
    column = column_of(ArraySpec("y", dtype, axes), [arrays[0], None, arrays[1]])
    first, missing, second = rows_of(pa.table({"c": column}), {"x": "c"})
    assert isinstance(missing, Answer)
    for row, array in zip((first, second), arrays, strict=True):
        assert not isinstance(row, Answer)
        assert (row["x"].dtype, row["x"].shape) == (array.dtype, array.shape)
        assert np.array_equal(row["x"], array)


def test_broken_rows_are_told_by_themselves() -> None:
    rows = [[[1.0, 2.0]], None, [[1.0], [1.0, 2.0]], [None], [[None, 1.0]]]
    table = pa.table({"x": pa.array(rows, pa.list_(pa.list_(pa.float32())))})
    answers = rows_of(table, {"x": "x"})
    assert not isinstance(answers[0], Answer)
    errors = [answer.error or "" for answer in answers[1:] if isinstance(answer, Answer)]
    assert len(errors) == 4
    for error, says in zip(errors, ["is null", "of 1 and of 2", "a null", "a null"], strict=True):
        assert says in error


def test_columns_that_do_not_fit_are_refused() -> None:
    contract = Contract(
        (ArraySpec("x", "float32", ("batch", "time")), ArraySpec("rate", "int64", ("batch",))),
        (ArraySpec("y", "float32", ("batch", "time")),),
    )
    schema = pa.schema(
        {"audio": pa.list_(pa.float32()), "double": pa.list_(pa.float64()), "rate": pa.int64()}
    )
    check_columns(schema, {"x": "audio", "rate": "rate"}, contract)
    for columns, says in (
        ({"x": "audo", "rate": "rate"}, "Did you mean 'audio'?"),
        ({"x": "double", "rate": "rate"}, "nothing is cast silently"),
        ({"x": "audio"}, "The input 'rate' has no column"),
        ({"z": "audio"}, "There is no input 'z'"),
    ):
        with pytest.raises(InputError) as error:
            check_columns(schema, columns, contract)
        assert says in str(error.value)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (pa.list_(pa.list_(pa.float32(), 5)), None),
        (pa.large_list(pa.list_(pa.float32())), None),
        (
            pa.list_(pa.list_(pa.float32(), 4)),
            "for each of the axes [time, 5], of that size where it is a number",
        ),
        (
            pa.list_(pa.float32()),
            "a list within a list was expected for each of the axes [time, 5]",
        ),
        (pa.list_(pa.list_(pa.list_(pa.float32()))), "a list within a list was expected"),
        (pa.list_(pa.list_(pa.string())), "nothing is cast silently"),
    ],
)
def test_columns_of_another_shape_are_refused(kind: Any, says: str | None) -> None:
    x, y = (ArraySpec(name, "float32", ("batch", "time", 5)) for name in "xy")
    contract = Contract((x,), (y,))
    if says is None:
        check_columns(pa.schema({"x": kind}), {"x": "x"}, contract)
        return
    with pytest.raises(InputError) as error:
        check_columns(pa.schema({"x": kind}), {"x": "x"}, contract)
    assert says in str(error.value)


def test_two_columns_of_one_name_are_refused() -> None:
    x, y = (ArraySpec(name, "float32", ("batch", "time")) for name in "xy")
    schema = pa.schema([("x", pa.list_(pa.float32())), ("x", pa.list_(pa.float64()))])
    with pytest.raises(InputError, match="There are 2 columns 'x'; one for the input 'x'"):
        check_columns(schema, {"x": "x"}, Contract((x,), (y,)))

# SPDX-License-Identifier: Apache-2.0
"""Chunks of several streams, joined into batches and split again."""

from __future__ import annotations

import numpy as np
import pytest

from stateport.chunks import joined, split


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_joined_is_split_into_the_same(axis: int) -> None:
    chunks = [np.full((2, 3), number) for number in range(4)]
    rows = [part for (part,) in split([joined(chunks, axis)], [axis], 4)]
    assert len(rows) == 4
    for row, chunk in zip(rows, chunks, strict=True):
        np.testing.assert_array_equal(row, chunk)


def test_each_row_gets_a_copy_of_what_has_no_batch() -> None:
    version = np.ones(1)
    rows = list(split([version], [None], 3))
    assert len(rows) == 3
    rows[0][0][:] = 9
    assert rows[1][0] == 1
    assert version == 1


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows along axis 0; 3 were expected"):
        list(split([np.zeros((2, 3))], [0], 3))

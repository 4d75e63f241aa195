# SPDX-License-Identifier: Apache-2.0
"""What is remembered of streams that are gone has a limit, in number and in bytes."""

from __future__ import annotations

import numpy as np
import pytest

from stateport.serve.gone import Gone, GoneStreams
from stateport.serve.live import Numbered


def ended(size: int, until: float = 1.0) -> Gone:
    return Gone("it has ended", until, Numbered(1, b"", {"y": np.zeros(size, np.uint8)}))


@pytest.mark.parametrize(("size", "left"), [(0, [6, 7, 8, 9]), (40, [8, 9]), (1000, [9])])
def test_the_oldest_are_forgotten(size: int, left: list[int]) -> None:
    gone = GoneStreams(most=4, most_bytes=100)
    for number in range(10):
        gone.add(number, ended(size))
        gone.add(number, ended(size))  # once more: it counts once
    assert [number for number in range(10) if gone.get(number) is not None] == left

    gone.forget(9)
    gone.forget(9)
    gone.add(10, ended(60))
    assert gone.get(10) is not None


def test_what_is_remembered_expires() -> None:
    gone = GoneStreams(most_bytes=100)
    gone.add("a", ended(60, until=1.0))
    gone.add("b", Gone("it expired", 3.0))
    gone.expire(2.0)
    assert gone.get("a") is None
    assert gone.get("b") is not None
    gone.add("c", ended(100))
    assert gone.get("b") is not None

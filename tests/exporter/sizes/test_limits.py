"""Up to which size a network runs."""

from __future__ import annotations

import pytest
from torch import nn

from stateport_exporter import ExportError
from stateport_exporter.sizes.limits import limit_of, reach


@pytest.mark.parametrize("most", [513, 514, 700, 999])
def test_the_largest_size_is_found(most: int) -> None:
    sizes = {7: True, 513: True, 1000: False}
    assert limit_of("time", sizes, lambda size: size <= most) == most


def test_a_network_that_runs_at_all_sizes_has_no_limit() -> None:
    assert limit_of("time", {7: True, 513: True}, lambda _: True) is None
    # What is too short for it is no limit either.
    assert limit_of("time", {1: False, 7: True, 513: True}, lambda _: True) is None


def test_a_network_that_fails_in_between_is_refused() -> None:
    with pytest.raises(ExportError, match="fails where 'time' is 977, and runs at smaller and"):
        limit_of("time", {7: True, 977: False, 978: True}, lambda _: True)


def test_a_large_network_is_run_at_fewer_sizes() -> None:
    small, large = nn.Linear(2, 2), nn.Linear(4000, 4000)
    assert reach(small, "time", loops=True) > reach(small, "time") > reach(large, "time")
    assert reach(large, "time") > 2048
    assert reach(small, "batch") > 512

"""Whether the machine was too busy, on made-up figures."""

from __future__ import annotations

import pytest

from stateport.bench.noise import busy, unsteady
from stateport.bench.timing import Times


@pytest.mark.parametrize(("load", "cores"), [(None, 1), (0.0, 1), (1.4, 2), (15.5, 16)])
def test_a_free_machine_is_no_matter(load: float | None, cores: int) -> None:
    assert busy(load, cores) is None


@pytest.mark.parametrize(("load", "cores"), [(0.7, 1), (2.1, 2), (40.0, 16)])
def test_more_work_than_cores_is_said_with_what_to_do(load: float, cores: int) -> None:
    line = busy(load, cores)
    assert line == (
        f"The machine was busy before this began (load {load:.1f} on {cores} cores): measure again "
        "when it is idle."
    )


def rounds(*seconds: float) -> Times:
    return Times(seconds, seconds)


def test_times_that_vary_are_said() -> None:
    steady = rounds(1.0, 1.1, 1.0, 1.1)
    wild = rounds(1.0, 2.0, 1.0, 2.0)
    assert unsteady([]) is None
    assert unsteady([steady]) is None
    assert unsteady([steady, steady, wild]) is None, "one candidate may be unlucky"
    line = unsteady([wild, wild, steady])
    assert line is not None
    assert line.startswith("The times vary by 67% from round to round: other programs")
    assert "--rounds" in line

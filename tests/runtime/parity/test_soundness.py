"""Vectors that every answer would pass, or that do not fit their contract, pass no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stateport import Contract, FileError
from stateport.parity.vectors import Case, Vectors, vectors_path

Change = Callable[[Vectors], Vectors]

NOTHING = np.zeros(0, np.int64)


def in_every_case(change: Callable[[Case], Case]) -> Change:
    """The same change in every case."""
    return lambda vectors: replace(vectors, cases=tuple(change(case) for case in vectors.cases))


def with_truth(change: Callable[[np.ndarray], np.ndarray], name: str = "y") -> Change:
    """Another truth of one output, in every case."""
    return in_every_case(
        lambda case: replace(case, truth={**case.truth, name: change(case.truth[name])})
    )


def with_kept(kept: np.ndarray) -> Change:
    """So many kept elements of the output, in every case."""
    return in_every_case(
        lambda case: replace(
            case,
            kept={"y": kept},
            truth={**case.truth, "y": case.truth["y"][:, : len(kept)]},
        )
    )


def with_floor(value: float) -> Change:
    """The same floor at every step of every output."""
    return lambda vectors: replace(
        vectors, floor={name: np.full_like(floor, value) for name, floor in vectors.floor.items()}
    )


def with_another_output(vectors: Vectors) -> Vectors:
    """A contract with an output more, of which nothing is recorded."""
    contract = vectors.contract
    more = replace(contract.outputs[0], name="z")
    return replace(vectors, contract=replace(contract, outputs=(*contract.outputs, more)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_kept(NOTHING), "no elements of 'y' are kept"),
        (with_kept(np.array([3])), "1 elements of each row are kept; 10 can be"),
        (with_kept(np.array([4, 4, 4, 4, 4, 4, 4, 4, 4, 4])), "not in order"),
        (with_kept(np.array([-1, 0, 1, 2, 3, 4, 5, 6, 7, 8])), "not in order"),
        (lambda vectors: replace(vectors, cases=()), "no cases"),
        (
            lambda vectors: replace(
                vectors, contract=Contract(inputs=vectors.contract.inputs, outputs=())
            ),
            "no outputs",
        ),
        (with_truth(lambda truth: truth[:0]), "has the shape"),
        (with_truth(lambda truth: truth[:, :4]), "has the shape"),
        (with_truth(lambda truth: np.full_like(truth, np.nan)), "no value of 'y' is a number"),
        (with_truth(lambda truth: truth.astype(np.int64)), "rows of floating-point numbers"),
        (
            in_every_case(lambda case: replace(case, truth={"y": case.truth["y"]})),
            "the truth of 'cn' is not there",
        ),
        (with_another_output, "'z' is not there"),
        (
            in_every_case(lambda case: replace(case, inputs={"x": case.inputs["x"][..., :4]})),
            "'x' is float32",
        ),
        (
            in_every_case(
                lambda case: replace(case, inputs={"x": case.inputs["x"].astype(np.float64)})
            ),
            "'x' is float64",
        ),
        (
            in_every_case(lambda case: replace(case, through="telepathy")),
            "model or stream was expected",
        ),
        (with_floor(np.nan), "negative, or no number"),
        (with_floor(-1.0), "negative, or no number"),
        (with_floor(np.inf), "negative, or no number"),
        (lambda vectors: replace(vectors, floor={}), "the floor of 'cn' is not there"),
        (lambda vectors: replace(vectors, truth="float16"), "float64 or float32 was expected"),
    ],
)
def test_vectors_that_prove_nothing_are_refused(copied: Path, change: Change, message: str) -> None:
    path = vectors_path(copied)
    change(Vectors.load(path)).save(path)
    with pytest.raises(FileError, match=message):
        Vectors.load(path)

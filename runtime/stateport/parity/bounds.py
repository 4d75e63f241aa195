# SPDX-License-Identifier: Apache-2.0
"""Bounds on errors: multiples of the floor, a tolerance, or a signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .vectors import differences

Array = NDArray[Any]

#: A float32 engine may lose this many times what PyTorch itself loses in float32. Engines sum in
#: another order and approximate tanh and sigmoid; docs/parity.md has the measurements behind it.
FLOOR_FACTOR: Final = 8.0
#: atol and rtol where the truth is known in float32 only, so that there is no floor.
FALLBACK: Final = (1e-5, 1e-4)

#: The rows of one window of the noise: short, so that nothing hides in a long sequence.
WINDOW: Final = 64


class Compared(NamedTuple):
    """The answers to one output of one case, and the truth.

    Attributes:
        name: the output's name.
        table: (rows, elements), the answers.
        truth: (rows, elements).
        errors: (rows,), the largest error of each row.
        floors: (rows,), what PyTorch itself loses up to each row.
    """

    name: str
    table: Array
    truth: Array
    errors: Array
    floors: Array


class Bound(Protocol):
    """The largest error that passes."""

    def shares(self, compared: Compared) -> Array:
        """(rows,): each row's error as a share of what is allowed there."""

    def snr(self, share: float) -> float | None:
        """The signal-to-noise ratio of a share, in decibels; None where the bound is no ratio."""


class Floor:
    """A bound in multiples of the floor, which is what PyTorch itself loses."""

    def shares(self, compared: Compared) -> Array:
        """Each row's error as a share of what is allowed there."""
        return _ratio(compared.errors, FLOOR_FACTOR * compared.floors)

    def snr(self, share: float) -> None:  # noqa: ARG002
        """There is none."""
        return

    def __str__(self) -> str:
        return f"{FLOOR_FACTOR:g} times the floor"


@dataclass(frozen=True)
class Tolerance:
    """A bound that replaces the floor: |error| <= atol + rtol * |truth|, element by element."""

    atol: float
    rtol: float

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if not value >= 0.0:
                raise InputError(f"{name} is {value}; a number of at least 0 was expected.")

    def shares(self, compared: Compared) -> Array:
        """Each row's error as a share of what is allowed there."""
        table, truth = compared.table, compared.truth
        allowed = self.atol + self.rtol * np.abs(np.nan_to_num(truth))

        shares: Array = _ratio(differences(table, truth), allowed).max(axis=1, initial=0.0)
        return shares

    def snr(self, share: float) -> None:  # noqa: ARG002
        """There is none."""
        return

    def __str__(self) -> str:
        return f"atol {self.atol:g}, rtol {self.rtol:g}"


@dataclass(frozen=True)
class SignalToNoise:
    """The least signal-to-noise ratio in decibels, in place of multiples of the floor."""

    snr: float

    def __post_init__(self) -> None:
        if not 0.0 < self.snr < np.inf:
            raise InputError(f"snr is {self.snr}; a positive number of decibels was expected.")


#: A bound that the caller chose in place of stateport's own.
RequestedBound = Tolerance | SignalToNoise


def requested_bound(
    atol: float | None = None, rtol: float | None = None, snr: float | None = None
) -> RequestedBound | None:
    """The bound with these numbers; None where all are left out.

    Raises:
        InputError: a number cannot be a bound, or the numbers are two bounds.
    """
    if atol is None and rtol is None:
        if snr is None:
            return None
        return SignalToNoise(snr)
    if snr is not None:
        raise InputError("snr and atol or rtol exclude one another; give one of them.")
    return Tolerance(atol or 0.0, rtol or 0.0)


@dataclass(frozen=True)
class Budget:
    """A signal-to-noise ratio in decibels, for reduced precision.

    The signal is the root mean square of an output's truth over all cases. The noise is the root
    mean square of the error in each window of `WINDOW` rows.
    """

    decibels: float
    signals: Mapping[str, float]

    def shares(self, compared: Compared) -> Array:
        """Each window's noise as a share of what is allowed."""
        allowed = self.signals[compared.name] * 10 ** (-self.decibels / 20)
        return _ratio(noise(compared.table, compared.truth), np.array(allowed))

    def snr(self, share: float) -> float:
        """The signal-to-noise ratio in decibels."""
        if share > 0:
            return self.decibels - decibels(share, 1.0)
        return float("inf")

    def __str__(self) -> str:
        return f"{self.decibels:g} dB"


def signal(truths: list[Array]) -> float:
    """The root mean square of the truth of one output over all cases."""
    finite = [truth[np.isfinite(truth)].astype(np.float64) for truth in truths]
    values = np.concatenate([np.zeros(0), *finite])
    if not values.size:
        return 0.0

    with np.errstate(over="ignore"):  # numbers that no float32 reaches have an infinite square
        return float(np.sqrt(np.mean(values**2)))


def noise(table: Array, truth: Array) -> Array:
    """For each row, the root mean square of the error in the window of rows that ends with it.

    Args:
        table: (rows, elements), the answers.
        truth: (rows, elements).

    Returns:
        (rows,) float64. An error that is no number counts as infinite. The windows of the first
        rows begin with the first row, so that they are shorter.
    """
    with np.errstate(over="ignore"):
        squares = differences(table, truth) ** 2

        row_means = squares.mean(axis=1) if squares.shape[1] else np.zeros(len(squares))

    window_means = np.empty_like(row_means)
    for number in range(len(row_means)):
        start = max(0, number + 1 - WINDOW)
        window_means[number] = row_means[start : number + 1].mean()

    result: Array = np.sqrt(window_means)
    return result


def decibels(signal_rms: float, noise_rms: float) -> float:
    """20 log10(signal / noise) from the root mean squares of both; infinite without noise."""
    if noise_rms == 0.0:
        return float("inf")
    if not np.isfinite(noise_rms) or signal_rms == 0.0:
        return float("-inf")
    return float(20 * np.log10(signal_rms / noise_rms))


def _ratio(error: Array, allowed: Array) -> Array:
    """Error / allowed, and 0 where the error is 0, even if no error is allowed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Array = np.divide(error, allowed, out=np.zeros_like(error), where=error != 0.0)
    return shares

"""The loads that the networks are measured under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Load:
    """`streams` streams get `steps` steps in a call, at random `among` all that are live."""

    streams: int
    time: int = 1
    among: int | None = None

    def __str__(self) -> str:
        if self.among is not None:
            return f"a random {self.streams} of {self.among} streams, one step each"
        if self.streams == 1:
            return "one stream, one step" if self.time == 1 else f"one stream, {self.time} steps"
        return f"{self.streams} streams, one step each"

    def chosen(self) -> NDArray[np.int64]:
        """Which of the live streams step, in ascending order."""
        everyone = np.arange(self.among or self.streams)
        if self.among is None:
            return everyone
        return np.sort(np.random.default_rng(1).permutation(everyone)[: self.streams])


ONE: Final = Load(1)
MANY: Final = Load(256)
HALF: Final = Load(128, among=256)
LOADS: Final = (ONE, Load(1, 100), Load(64), MANY, HALF)

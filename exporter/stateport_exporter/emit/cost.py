# SPDX-License-Identifier: Apache-2.0
"""What a step in C needs of a device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a step needs.

    Attributes:
        constants: bytes of weights, which may be in flash.
        state: bytes of the state of one live sequence.
        scratch: bytes of local arrays during a step, without what the compiler adds.
        multiplications: multiplications of numbers in a step.
    """

    constants: int
    state: int
    scratch: int
    multiplications: int

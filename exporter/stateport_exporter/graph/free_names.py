# SPDX-License-Identifier: Apache-2.0
"""Names that nothing else has."""

from __future__ import annotations

from collections.abc import Container


def free_name(base: str, taken: Container[str], separator: str) -> str:
    """A name that is not taken: `base`, or `base` and a number from 2, behind the separator."""
    name = base
    number = 1
    while name in taken:
        number += 1
        name = f"{base}{separator}{number}"
    return name

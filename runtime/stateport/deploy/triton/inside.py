# SPDX-License-Identifier: Apache-2.0
"""Files that a configuration names, which are in the model's folder."""

from __future__ import annotations

from pathlib import PurePosixPath

from ...shown import shown


def is_inside(name: str) -> bool:
    """Whether a file's name leads to nothing outside the folder that it is meant in."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def leads_out(field: str, name: str) -> str:
    """What is wrong with such a name."""
    return f"{field} is {shown(name)}, which leads out of the model's folder. Put the file there."

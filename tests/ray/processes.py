# SPDX-License-Identifier: Apache-2.0
"""The processes of the Ray that this process has started."""

from __future__ import annotations

import os
from pathlib import Path


def processes(name: str) -> list[int]:
    """The ids of this Ray's processes with a name, such as `ray::MapWorker`."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes()
                is_ours = command.startswith(name.encode()) and os.getpid() in _ancestors(folder)
            except OSError:  # it has ended
                continue
            if is_ours:
                found.append(int(folder.name))
    return sorted(found)


def _ancestors(folder: Path) -> list[int]:
    """The processes above one, nearest first."""
    above: list[int] = []
    while folder.name != "0":
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        above.append(int(fields[1]))
        folder = folder.with_name(fields[1])
    return above

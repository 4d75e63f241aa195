# SPDX-License-Identifier: Apache-2.0
"""What a process and its children take: CPU time and memory, from Linux's /proc (man 5 proc)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What was taken.

    Attributes:
        cpu: seconds of CPU since the start.
        memory: bytes of memory now; pages that are shared count in part.
    """

    cpu: float
    memory: int


def usage(process: int) -> Usage:
    """Of a process and all that it has started."""
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = 0.0
    memory = 0
    for each in _family(process):
        fields = _status(each)
        if fields:
            cpu += (int(fields[11]) + int(fields[12])) / ticks
            memory += _memory(each)
    return Usage(cpu, memory)


def _family(process: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            fields = _status(int(folder.name))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(folder.name))

    family = [process]
    for each in family:
        family += parents.get(each, [])
    return family


def _status(process: int) -> list[str]:
    """The fields of /proc/N/stat after the name, which may contain anything."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []  # it has ended
    return text.rpartition(")")[2].split()


def _memory(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    [line] = [line for line in text.splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024

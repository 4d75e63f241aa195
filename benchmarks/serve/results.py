# SPDX-License-Identifier: Apache-2.0
"""One measurement, as it is kept in the file of results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What one turn of one server took.

    Attributes:
        processor: the processor's name.
        network: as "5, 10x1".
        server: whose it is.
        transport: over which transport.
        streams: how many streams stepped at once.
        steps: answers per second.
        p50: seconds within which half of the answers came.
        p99: seconds within which 99 of 100 came.
        cpu: seconds of CPU that the server took for a thousand steps.
        memory: bytes that the server had afterwards.
        problem: why there are no figures; empty where there are.
    """

    processor: str
    network: str
    server: str
    transport: str
    streams: int
    steps: float
    p50: float
    p99: float
    cpu: float
    memory: int
    problem: str = ""

    def line(self) -> str:
        """One line for a person."""
        who = f"{self.network:>10} {self.streams:>5} {self.server:<22} {self.transport:<15}"
        if self.problem:
            return f"{who} {self.problem}"
        return (
            f"{who}{self.steps:>9,.0f}/s  p50 {self.p50 * 1e3:8.2f} ms"
            f"  p99 {self.p99 * 1e3:8.2f} ms  {self.cpu:.3f} s/1000  {self.memory / 1e6:,.0f} MB"
        )


def read(path: Path) -> list[Result]:
    """All measurements of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Result(**json.loads(line)) for line in lines]

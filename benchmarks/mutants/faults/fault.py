"""What a fault is: one change to a good file that must not go unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto


@dataclass(frozen=True)
class Applied:
    """Which top-level nodes compute something wrong now; none where no node is to blame."""

    nodes: frozenset[str] = frozenset()


#: Breaks the model in place; None, with the model as it was, where there is nothing to break so.
Change = Callable[[ModelProto], Applied | None]


@dataclass(frozen=True)
class Fault:
    """One way to break a file, in plain words, and the group that it is counted in."""

    name: str
    group: str
    apply: Change


def at(*nodes: str) -> Applied:
    """The fault sits in these nodes."""
    return Applied(frozenset(nodes))

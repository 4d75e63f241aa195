# SPDX-License-Identifier: Apache-2.0
"""What the server tells of its work, for metrics. All times are in seconds."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Is told of each event, in the event loop; every method must return at once."""

    def request(self, model: str, outcome: str, seconds: float) -> None:
        """A request ended. The outcome is "ok", or the name of a `Status` in lower case."""

    def step(self, model: str, waited: float, ran: float, batch: int) -> None:
        """A step ran: how long it waited for the engine, and with how many others it ran."""

    def streams(self, model: str, live: int) -> None:
        """The number of live streams in this process changed."""

    def evicted(self, model: str, reason: str) -> None:
        """A stream left the process: "idle", "room", "fenced" or "failed"."""

    def stored(self, model: str, operation: str, seconds: float, records: int) -> None:
        """The store did an operation, "save", "load" or "delete", on a number of records."""


class Silent:
    """An observer that does nothing."""

    def request(self, model: str, outcome: str, seconds: float) -> None:
        """Does nothing."""

    def step(self, model: str, waited: float, ran: float, batch: int) -> None:
        """Does nothing."""

    def streams(self, model: str, live: int) -> None:
        """Does nothing."""

    def evicted(self, model: str, reason: str) -> None:
        """Does nothing."""

    def stored(self, model: str, operation: str, seconds: float, records: int) -> None:
        """Does nothing."""

# SPDX-License-Identifier: Apache-2.0
"""Writes of one turn of the event loop go to the operating system together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stateport.serve.http_protocols import JoiningTransport


class Transport:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def write(self, data: bytes) -> None:
        self.events.append(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self.events.append(b"|".join(pieces))

    def close(self) -> None:
        self.events.append("closed")

    def abort(self) -> None:
        self.events.append("aborted")

    def is_closing(self) -> bool:
        return "closed" in self.events


def test_the_writes_of_a_turn_are_one() -> None:
    async def main() -> None:
        transport = Transport()
        joining = JoiningTransport(transport)
        joining.write(b"header")
        joining.write(b"body")
        assert transport.events == []
        await asyncio.sleep(0)
        assert transport.events == [b"header|body"]
        joining.write(b"more")
        await asyncio.sleep(0)
        assert transport.events == [b"header|body", b"more"]
        assert joining.is_closing() is False

    asyncio.run(main())


@pytest.mark.parametrize(
    ("end", "events"),
    [
        (JoiningTransport.close, [b"header|body", "closed"]),
        (JoiningTransport.abort, ["aborted"]),
    ],
)
def test_an_end_writes_what_waits_or_drops_it(
    end: Callable[[JoiningTransport], None], events: list[object]
) -> None:
    async def main() -> None:
        transport = Transport()
        joining = JoiningTransport(transport)
        joining.write(b"header")
        joining.write(b"body")
        end(joining)
        await asyncio.sleep(0)
        assert transport.events == events

    asyncio.run(main())

# SPDX-License-Identifier: Apache-2.0
"""What connections share: writes of one turn go out together, and requests have a window."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stateport.serve.http_protocols import JoiningTransport
from stateport.serve.limits import Window


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


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("sizes", [[0, 0, 0], [40, 40, 40], [1000, 1, 1]])
def test_a_window_holds_so_many_requests_and_bytes(sizes: list[int]) -> None:
    """The third has to wait: for their number, or for their bytes."""

    async def main() -> None:
        window = Window(most_bytes=100, most=2)
        entered = 0

        async def enter() -> None:
            nonlocal entered
            for size in sizes:
                await window.enter(size)
                entered += 1

        entering = asyncio.create_task(enter())
        await turns()
        assert entered == (1 if sizes[0] > 100 else 2)
        window.leave(sizes[0])
        await turns()
        assert entered == 3
        await entering

    asyncio.run(main())


def test_reading_that_is_held_is_not_resumed() -> None:
    class Reader(Transport):
        def pause_reading(self) -> None:
            self.events.append("paused")

        def resume_reading(self) -> None:
            self.events.append("resumed")

    transport = Reader()
    joining = JoiningTransport(transport)
    joining.hold_reading()
    joining.resume_reading()
    assert transport.events == ["paused"]
    joining.release_reading()
    assert transport.events == ["paused", "resumed"]

    joining.pause_reading()
    joining.hold_reading()
    joining.release_reading()
    assert transport.events[2:] == ["paused", "paused"]
    joining.resume_reading()
    assert transport.events[-1] == "resumed"

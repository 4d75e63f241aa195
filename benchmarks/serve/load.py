# SPDX-License-Identifier: Apache-2.0
"""Many concurrent streams in a process of their own: `python -m benchmarks.serve.load JSON`.

Each stream sends its next chunk when the answer to the last one is there. All requests are made
before the time is taken, and answers are not unpacked, so that the load takes little from the
server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import uvloop

from .talkers import TALKERS, Talker
from .wire import START, STEP, Target

#: Seconds after which an answer is no longer waited for.
_PATIENCE: Final = 30


@dataclass(frozen=True)
class Taken:
    """What a load took.

    Attributes:
        steps: answers per second.
        p50: seconds within which half of the answers came.
        p99: seconds within which 99 of 100 came.
        count: how many answers were measured.
    """

    steps: float
    p50: float
    p99: float
    count: int


async def measure(target: Target, talker: Talker, streams: int, seconds: float) -> Taken:
    """Steps so many streams for so long, after a fifth of that time to get warm.

    Raises:
        RuntimeError: a server refuses a request, or leaves one without an answer.
    """
    await talker.open(target, streams)
    begin = perf_counter() + seconds / 5
    end = begin + seconds
    latencies: list[float] = []
    try:
        async with asyncio.timeout(seconds + _PATIENCE):
            await asyncio.gather(
                *(_stream(talker, n, begin, end, latencies) for n in range(streams))
            )
    except TimeoutError:
        raise RuntimeError(f"requests without an answer for {_PATIENCE} seconds") from None
    await talker.close()

    if not latencies:
        raise RuntimeError(f"no answer came within {seconds} seconds")
    p50, p99 = np.percentile(latencies, [50, 99])
    return Taken(len(latencies) / seconds, float(p50), float(p99), len(latencies))


async def _stream(
    talker: Talker, number: int, begin: float, end: float, latencies: list[float]
) -> None:
    step: Callable[[int, int], Awaitable[None]] = talker.step
    await step(number, START)
    asked = perf_counter()
    while asked < end:
        await step(number, STEP)
        answered = perf_counter()
        if begin <= asked and answered <= end:
            latencies.append(answered - asked)
        asked = answered
    await talker.end(number)


def _in_words(error: RuntimeError) -> str:
    """One line: what gRPC says of an error of its own, or the first line of another one."""
    details = re.search(r'details = "(.*)"', str(error))
    return details[1] if details else str(error).splitlines()[0]


def main() -> None:
    """Takes the arguments of `measure` as JSON; prints what was taken, or the problem, as JSON."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    target = Target(**asked["target"])
    talker = TALKERS[target.transport]()
    try:
        taken = uvloop.run(measure(target, talker, asked["streams"], asked["seconds"]))
    except RuntimeError as error:
        print(json.dumps({"problem": _in_words(error)}))
        return
    print(json.dumps(asdict(taken)))


if __name__ == "__main__":
    main()

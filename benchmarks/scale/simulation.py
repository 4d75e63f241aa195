# SPDX-License-Identifier: Apache-2.0
"""Streams on replicas that share a store, simulated: routing, queues, batches, deaths.

It is a simulation of events. Each process (a replica, the store, a client) does one thing at a
time, and the processes of one machine share its cores evenly, as far as they have work. A replica
takes all requests that wait as one round, sends their records to the store as one transaction, and
answers when the store has them (`--durability before`). Records that wait join one transaction. All
that is random comes from a seed.

benchmarks/scale/replicas.py measures the costs with one replica, and compares what this says of two
with what two do.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import numpy as np

#: How often each replica is on the ring, as in Ray Serve.
VIRTUAL: Final = 100


@dataclass(frozen=True)
class Costs:
    """Seconds of CPU: of a round of requests whatever its size, and of each request in it."""

    server_round: float
    server_step: float
    store_round: float
    store_step: float
    client_step: float


@dataclass(frozen=True)
class Scene:
    """What is simulated.

    Attributes:
        replicas: how many servers.
        streams: how many streams there are, over all replicas.
        pause: seconds between an answer and the next chunk of its stream; 0 for none.
        cores: the cores that all processes share; None if each process has its own.
        latency: seconds on the way to the store and back.
        deaths: seconds between two deaths, of any replica; None for none.
        restart: seconds until a replica that died is back.
        stores: how many stores share the streams.
        seconds: how long it runs, after a fifth of that to get warm.
        seed: of all that is random.
    """

    replicas: int
    streams: int
    pause: float = 0.0
    cores: int | None = None
    latency: float = 0.0
    deaths: float | None = None
    restart: float = 2.0
    stores: int = 1
    seconds: float = 3.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        steps: answers per second.
        p50: seconds within which half of the answers came.
        p99: seconds within which 99 of 100 came.
        batch: requests in a round, on average.
        busiest: the share of the time that the busiest replica works.
        store: the share of the time that the busiest store works.
        moves: how often a stream came to another replica.
    """

    steps: float
    p50: float
    p99: float
    batch: float
    busiest: float
    store: float
    moves: int


class Ring:
    """A ring of hashes: which replica a stream belongs to."""

    def __init__(self, replicas: Sequence[int]) -> None:
        points = [(_hash(f"{each}:{n}"), each) for each in replicas for n in range(VIRTUAL)]
        self._points = sorted(points)
        self._hashes = [point for point, _ in self._points]

    def of(self, stream: int) -> int:
        """The replica of a stream."""
        place = bisect_right(self._hashes, _hash(str(stream)))
        return self._points[place % len(self._points)][1]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


@dataclass
class _Process:
    """One process: jobs in a queue, of which it does the first."""

    jobs: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)
    left: float = 0.0
    busy: float = 0.0


class _Machine:
    """Cores that processes share."""

    def __init__(self, cores: int | None) -> None:
        self.now = 0.0
        self._cores = cores
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._working: list[_Process] = []

    def later(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls something after some time."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), then))

    def do(self, process: _Process, work: float, then: Callable[[], None]) -> None:
        """Gives a process so many seconds of work, and calls something when it is done."""
        process.jobs.append((work, then))
        if len(process.jobs) == 1:
            self._begin(process)

    def run(self, until: float) -> None:
        """Goes on to this time."""
        while self.now < until:
            rate = 1.0
            if self._cores is not None and len(self._working) > self._cores:
                rate = self._cores / len(self._working)
            first = min(self._working, key=lambda each: each.left, default=None)
            at = until if first is None else self.now + first.left / rate
            timer = self._timers[0][0] if self._timers else until
            is_work = first is not None and at <= timer
            self._pass(min(at, timer, until) - self.now, rate)
            if is_work and at <= until:
                assert first is not None
                self._finish(first)
            elif timer <= until and self._timers:
                heapq.heappop(self._timers)[2]()

    def _pass(self, seconds: float, rate: float) -> None:
        self.now += seconds
        for process in self._working:
            process.left -= seconds * rate
            process.busy += seconds * rate

    def _begin(self, process: _Process) -> None:
        process.left = process.jobs[0][0]
        self._working.append(process)

    def _finish(self, process: _Process) -> None:
        self._working.remove(process)
        _, then = process.jobs.popleft()
        if process.jobs:
            self._begin(process)
        then()


class _Alone(_Machine):
    """Each process has a core of its own: a job ends at a time that is known when it begins."""

    def __init__(self) -> None:
        super().__init__(None)

    def _begin(self, process: _Process) -> None:
        work, then = process.jobs[0]

        def done() -> None:
            process.busy += work
            process.jobs.popleft()
            if process.jobs:
                self._begin(process)
            then()

        self.later(work, done)


class Simulation:
    """Streams, replicas and stores."""

    def __init__(self, scene: Scene, costs: Costs) -> None:
        self._scene = scene
        self._costs = costs
        self._random = np.random.default_rng(scene.seed)
        self._machine = _Alone() if scene.cores is None else _Machine(scene.cores)
        self._replicas = [_Process() for _ in range(scene.replicas)]
        self._clients = [_Process() for _ in range(scene.replicas)]
        self._stores = [_Process() for _ in range(scene.stores)]
        self._waiting: list[list[tuple[int, float]]] = [[] for _ in range(scene.replicas)]
        self._unsaved: list[list[tuple[int, float]]] = [[] for _ in range(scene.replicas)]
        self._saving = [-1] * scene.replicas  # the life that has a transaction under way
        self._lives = [0] * scene.replicas
        self._alive = [*range(scene.replicas)]
        self._route()
        self._latencies: list[tuple[float, float]] = []
        self._rounds = self._requests = self._moves = 0

    def run(self) -> Outcome:
        """Runs the scene."""
        scene, machine = self._scene, self._machine
        for stream in range(scene.streams):
            machine.later(float(self._random.uniform(0, scene.pause)), self._asking(stream))
        if scene.deaths is not None:
            machine.later(scene.deaths, self._die)
        warm = scene.seconds / 5
        machine.run(warm)
        busy = [each.busy for each in (*self._replicas, *self._stores)]
        machine.run(warm + scene.seconds)

        taken = [after - asked for asked, after in self._latencies if asked >= warm]
        worked = [
            (each.busy - before) / scene.seconds
            for each, before in zip((*self._replicas, *self._stores), busy, strict=True)
        ]
        p50, p99 = np.percentile(taken, [50, 99])
        return Outcome(
            len(taken) / scene.seconds,
            float(p50),
            float(p99),
            self._requests / self._rounds,
            max(worked[: scene.replicas]),
            max(worked[scene.replicas :]),
            self._moves,
        )

    def _route(self) -> None:
        """Gives each stream to the replica that the ring has for it."""
        ring = Ring(self._alive)
        routes = [ring.of(stream) for stream in range(self._scene.streams)]
        before = getattr(self, "_routes", routes)
        self._routes = routes
        changed = sum(one != two for one, two in zip(before, routes, strict=True))
        self._moves = getattr(self, "_moves", 0) + changed

    def _asking(self, stream: int) -> Callable[[], None]:
        """What sends the next chunk of a stream."""

        def ask() -> None:
            self._send(stream, self._machine.now)

        return ask

    def _send(self, stream: int, asked: float) -> None:
        """The client sends a request; it reaches the replica that the stream has then."""
        client = self._clients[self._routes[stream]]

        def arrive() -> None:
            replica = self._routes[stream]
            self._waiting[replica].append((stream, asked))
            if not self._replicas[replica].jobs:
                self._begin_round(replica)

        self._machine.do(client, self._costs.client_step, arrive)

    def _begin_round(self, replica: int) -> None:
        """Steps all streams that wait, in one batch."""
        batch, self._waiting[replica] = self._waiting[replica], []
        if not batch:
            return
        life = self._lives[replica]
        self._rounds += 1
        self._requests += len(batch)
        work = self._costs.server_round + self._costs.server_step * len(batch)

        def computed() -> None:
            if self._lives[replica] == life:
                self._save(replica, life, batch)
                self._begin_round(replica)
            else:
                self._repeat(batch)

        self._machine.do(self._replicas[replica], work, computed)

    def _save(self, replica: int, life: int, batch: list[tuple[int, float]]) -> None:
        """Sends the records of a round to the store, and answers when it has them.

        Records of rounds that end meanwhile wait, and are the next transaction.
        """
        if self._saving[replica] == life:
            self._unsaved[replica] += batch
            return
        self._saving[replica] = life
        store = self._stores[replica % len(self._stores)]
        work = self._costs.store_round + self._costs.store_step * len(batch)
        half = self._scene.latency / 2

        def saved() -> None:
            if self._lives[replica] != life:
                self._repeat(batch)  # the answer was lost with the replica
                return
            self._saving[replica] = -1
            more, self._unsaved[replica] = self._unsaved[replica], []
            if more:
                self._save(replica, life, more)
            for stream, asked in batch:
                self._latencies.append((asked, self._machine.now))
                self._machine.later(self._scene.pause, self._asking(stream))

        self._machine.later(
            half,
            lambda: self._machine.do(store, work, lambda: self._machine.later(half, saved)),
        )

    def _repeat(self, batch: list[tuple[int, float]]) -> None:
        """Requests without an answer are sent again, to where their streams are now."""
        for stream, asked in batch:
            self._send(stream, asked)

    def _die(self) -> None:
        """A replica dies, its streams go to others, and another one takes its place."""
        scene = self._scene
        assert scene.deaths is not None
        self._machine.later(scene.deaths, self._die)
        if len(self._alive) < 2:
            return
        replica = self._alive[int(self._random.integers(len(self._alive)))]
        self._alive.remove(replica)
        self._lives[replica] += 1
        self._route()
        lost = self._waiting[replica] + self._unsaved[replica]
        self._waiting[replica], self._unsaved[replica] = [], []
        self._repeat(lost)

        def back() -> None:
            self._alive.append(replica)
            self._route()

        self._machine.later(scene.restart, back)


def simulated(scene: Scene, costs: Costs) -> Outcome:
    """Runs a scene."""
    return Simulation(scene, costs).run()

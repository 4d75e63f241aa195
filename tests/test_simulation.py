# SPDX-License-Identifier: Apache-2.0
"""The simulation of replicas: what follows from its costs, and what a seed decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scale.simulation import Costs, Ring, Scene, simulated

COSTS = Costs(
    server_round=5e-4, server_step=2e-4, store_round=1e-4, store_step=1e-5, client_step=1e-5
)


def test_a_seed_decides_everything() -> None:
    scene = Scene(4, 400, pause=0.1, latency=1e-3, deaths=0.5, seconds=1)
    assert simulated(scene, COSTS) == simulated(scene, COSTS)
    assert simulated(scene, COSTS) != simulated(replace(scene, seed=1), COSTS)


def test_one_stream_waits_for_each_part_once() -> None:
    said = simulated(Scene(1, 1, latency=1e-3), COSTS)
    way = 1e-5 + 7e-4 + 1.1e-4 + 1e-3
    assert said.p50 == pytest.approx(way, rel=1e-6)
    assert said.steps == pytest.approx(1 / way, rel=0.01)
    assert said.batch == 1


def test_a_full_replica_is_as_fast_as_its_core() -> None:
    said = simulated(Scene(1, 256), COSTS)
    assert said.busiest == pytest.approx(1, abs=0.02)
    assert said.steps == pytest.approx(1 / (2e-4 + 5e-4 / said.batch), rel=0.03)
    # Little's law: those that are under way are the rate times the time of each.
    assert said.steps * said.p50 == pytest.approx(256, rel=0.1)


def test_cores_that_are_shared_limit_all_processes_together() -> None:
    said = simulated(Scene(2, 256, cores=1), COSTS)
    step = 1e-5 + 2e-4 + 1e-5 + (5e-4 + 1e-4) / said.batch
    assert said.steps == pytest.approx(1 / step, rel=0.05)


def test_two_replicas_make_more_than_one() -> None:
    one, two = (simulated(Scene(count, 512), COSTS) for count in (1, 2))
    assert 1.6 < two.steps / one.steps <= 2.1


def test_a_store_that_is_full_is_the_limit() -> None:
    slow = replace(COSTS, store_step=1e-3)
    said = simulated(Scene(4, 400, seconds=20), slow)
    assert said.store == pytest.approx(1, abs=0.02)
    assert said.steps == pytest.approx(1000, rel=0.05)
    assert simulated(Scene(4, 400, stores=2, seconds=20), slow).steps > 1.8 * said.steps


def test_streams_move_when_a_replica_dies_and_go_on() -> None:
    calm = Scene(4, 200, pause=0.05, seconds=4)
    died = replace(calm, deaths=1.0, restart=0.5)
    said, before = simulated(died, COSTS), simulated(calm, COSTS)
    assert before.moves == 0
    # About a quarter of the streams go away with each death, and come back.
    assert 4 * 2 * 25 < said.moves < 5 * 2 * 100
    assert said.steps == pytest.approx(before.steps, rel=0.05)
    assert said.p99 >= before.p99


def test_a_ring_moves_few_streams() -> None:
    two, three = Ring([0, 1]), Ring([0, 1, 2])
    streams = range(3000)
    changed = [stream for stream in streams if two.of(stream) != three.of(stream)]
    assert {three.of(stream) for stream in changed} == {2}
    assert 0.2 < len(changed) / len(streams) < 0.47

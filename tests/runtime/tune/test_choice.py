"""The choice among plans, on made-up times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from stateport.bench.timing import Times
from stateport.plan import Plan
from stateport.tune.choice import AS_FAST, CHOSEN, SLOWER, Trial, choose, is_as_fast, with_verdicts
from stateport.tune.variants import Variant

EXPORTED = Variant("as exported")
STEP = Variant("plain step", step=Path("step.onnx"))
INT8 = Variant("int8", "int8", Path("int8.onnx"))

STEADY = (1.0, 1.0, 1.0, 1.0)
NOISY = (1.05, 0.99, 0.99, 1.02)


def trial(
    rounds: tuple[float, ...],
    variant: Variant = EXPORTED,
    *,
    engine: str = "ort-cpu",
    threads: int = 1,
    chunk: int = 1,
    options: Mapping[str, object] | None = None,
    verdict: str = CHOSEN,
) -> Trial:
    """A plan that was verified, with the seconds of its rounds."""
    plan = Plan("", engine, threads, options or {}, variant.name, chunk=chunk)
    return Trial(variant, plan, Times(rounds, rounds), verdict)


def scaled(factor: float) -> tuple[float, ...]:
    return tuple(factor * seconds for seconds in STEADY)


def test_what_is_clearly_faster_is_chosen_however_complicated() -> None:
    simple = trial(STEADY)
    fast = trial(scaled(0.8), INT8, engine="openvino", threads=8)
    assert choose([simple, fast], "latency") is fast
    assert [t.verdict for t in with_verdicts([fast, simple], fast, "latency")] == [CHOSEN, SLOWER]


@pytest.mark.parametrize(
    ("simpler", "other"),
    [
        (trial(NOISY), trial(STEADY, threads=2)),
        (trial(NOISY), trial(STEADY, INT8)),
        (
            trial(NOISY, engine="openvino"),
            trial(STEADY, engine="openvino", options={"precision": "bfloat16"}),
        ),
        (trial(NOISY), trial(STEADY, engine="tract")),
        (trial(NOISY), trial(STEADY, STEP)),
        # Fewer threads come before all else, and float32 before the engine.
        (trial(NOISY, INT8, engine="openvino"), trial(STEADY, threads=2)),
        (trial(NOISY, engine="openvino"), trial(STEADY, INT8)),
        (trial(NOISY, STEP), trial(STEADY, engine="openvino")),
    ],
)
def test_within_the_noise_the_simpler_plan_is_chosen(simpler: Trial, other: Trial) -> None:
    assert choose([other, simpler], "latency") is simpler
    assert choose([simpler, other], "latency") is simpler
    verdicts = [t.verdict for t in with_verdicts([other, simpler], simpler, "latency")]
    assert verdicts == [AS_FAST, CHOSEN]


@pytest.mark.parametrize(
    ("rounds", "near"),
    [
        (NOISY, True),
        ((1.01, 1.01, 1.01, 1.01), False),  # never as fast: slower, if by little
        ((0.9, 0.9, 1.1, 1.1), True),
        ((0.5, 0.9, 1.4, 1.4), False),  # now and then much faster, and mostly slower
    ],
)
def test_noise_is_what_changes_from_round_to_round(rounds: tuple[float, ...], near: bool) -> None:
    assert is_as_fast(trial(rounds), trial(STEADY), "latency") is near


def test_equally_simple_plans_are_chosen_by_time() -> None:
    slow, fast = trial((1.0, 1.02, 1.0, 1.02)), trial((1.0, 1.0, 1.0, 1.01))
    assert choose([slow, fast], "latency") is fast


def test_for_throughput_a_thread_costs() -> None:
    one, two = trial(STEADY), trial(scaled(0.6), threads=2)
    assert choose([one, two], "latency") is two
    assert choose([one, two], "throughput") is one
    longer = trial(scaled(4.0), chunk=10)
    assert choose([one, two, longer], "throughput") is longer
    assert not is_as_fast(one, longer, "throughput")


def test_what_fails_or_could_not_run_is_never_chosen() -> None:
    wrong = trial(scaled(0.1), verdict="y is 1.0 off")
    absent = Trial(EXPORTED, trial(STEADY).plan, verdict="cannot run: no memory")
    right = trial(STEADY)
    assert choose([absent, wrong, right], "latency") is right
    verdicts = [t.verdict for t in with_verdicts([absent, wrong, right], right, "latency")]
    assert verdicts == ["cannot run: no memory", "y is 1.0 off", CHOSEN]
    assert not is_as_fast(absent, right, "latency")
    assert absent.cost("latency") == float("inf")

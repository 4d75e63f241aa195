"""A model under loads, on engines, with threads: all measured in turns, beside the roofline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model import load as load_model
from ..model_file.onnx_outline import read
from ..parity.engine_report import environment
from .roofline import Ceilings, Work, measure_ceilings, work_of
from .timing import ROUNDS, SECONDS, Call, Ratio, Times, measure, ratio
from .workload import Workload, step_call

#: Makes a call of something else under a load: (streams, steps, threads) -> call.
MakeCall = Callable[[int, int, int], Call]


@dataclass(frozen=True)
class Result:
    """What one contender took under one load.

    Attributes:
        load: the load.
        name: the engine, "ort-cpu", or what stands beside it.
        threads: how many threads a call may use.
        times: what it took.
        least: the seconds that the roofline says a call takes at least.
        against: how many times as long as the contender beside it; None where there is none.
    """

    load: Workload
    name: str
    threads: int
    times: Times
    least: float
    against: Ratio | None = None

    @property
    def steps_per_second(self) -> float:
        """Steps of all streams together."""
        return self.load.streams * self.load.time / self.times.median

    @property
    def share(self) -> float:
        """How much of what the machine could do is reached; see `roofline`."""
        return self.least / self.times.median


@dataclass(frozen=True)
class Bench:
    """All results of one run.

    Attributes:
        model: the model's file.
        work: its weights.
        ceilings: what the machine can do, for each number of threads.
        results: load by load.
        busy: how many processes were running besides this one, on average over the last minute.
        environment: where it was measured.
    """

    model: str
    work: Work
    ceilings: tuple[Ceilings, ...]
    results: tuple[Result, ...]
    busy: float | None
    environment: dict[str, str]


def bench(
    model: Path,
    loads: Sequence[Workload],
    *,
    engines: Sequence[str] = ("ort-cpu",),
    threads: Sequence[int] = (1,),
    plan: Path | None = None,
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
    beside: tuple[str, MakeCall] | None = None,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Measures a model under every load; what stands under one load takes turns.

    Args:
        model: the model's file.
        loads: how many streams and steps.
        engines: the engines to run it on.
        threads: the numbers of threads per call.
        plan: a plan to run it by, in place of engines and threads.
        states: of a file without a contract, as `load` takes them.
        constants: likewise.
        beside: a name and a maker of calls of something else, as the same network in PyTorch.
        rounds: how many turns each gets under each load.
        seconds: how long a turn is.
        progress: is told what is being done.

    Raises:
        InputError: the model does not fit a load.
        EngineUnavailable: an engine does not work here.
    """
    work = work_of(read(model))
    busy = _busy()
    if plan is None:
        loaded = {
            (engine, count): load_model(
                model, engine=engine, threads=count, states=states, constants=constants
            )
            for engine in engines
            for count in threads
        }
    else:
        planned = load_model(model, plan=plan)
        loaded = {(f"{planned.engine}, planned", planned.threads): planned}
    counts = sorted({count for _, count in loaded})
    progress("measuring the machine")
    ceilings = {count: measure_ceilings(count, work.nbytes) for count in counts}
    results: list[Result] = []
    for load in loads:
        calls: dict[tuple[str, int], Call] = {
            key: step_call(network, load) for key, network in loaded.items()
        }
        if beside is not None:
            name, make = beside
            calls |= {(name, count): make(load.streams, load.time, count) for count in counts}

        def tell(share: float, load: Workload = load) -> None:
            progress(f"{load}: {share:.0%}")

        times = measure(calls, rounds=rounds, seconds=seconds, progress=tell)
        results += _judged(load, times, ceilings, work, beside and beside[0])
    return Bench(str(model), work, tuple(ceilings.values()), tuple(results), busy, environment())


def _judged(
    load: Workload,
    times: dict[tuple[str, int], Times],
    ceilings: dict[int, Ceilings],
    work: Work,
    beside: str | None,
) -> Iterator[Result]:
    for (name, count), taken in times.items():
        against = None
        if beside is not None and name != beside:
            against = ratio(taken, times[beside, count])
        least = ceilings[count].least(work, load)
        yield Result(load, name, count, taken, least, against)


def _busy() -> float | None:
    """Processes that want a core, on average over the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None

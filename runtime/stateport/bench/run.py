# SPDX-License-Identifier: Apache-2.0
"""Measures a model under several loads, engines and numbers of threads, against the roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..model import Model
from ..model import load as load_model
from ..model_file.onnx_outline import read
from ..parity.engine_report import environment
from .noise import load_average
from .roofline import Ceilings, Work, measure_ceilings, work_of
from .timing import ROUNDS, SECONDS, Call, Ratio, Times, measure, ratio
from .workload import Workload, step_call

#: Makes a call of another network under a load: (streams, steps, threads) -> call.
MakeCall = Callable[[int, int, int], Call]


#: The share of a call that is faster than the estimate of the limit.
AT_LEAST_ALL: Final = ">= 100%"

#: A candidate: the name of what runs, and how many threads a call may use.
_Candidate = tuple[str, int]


@dataclass(frozen=True)
class Result:
    """The times of one candidate under one load.

    Attributes:
        load: the load.
        name: the engine, "ort-cpu", or the name of the network that is measured beside the model.
        threads: how many threads a call may use.
        times: the measured times.
        least: the seconds that a call takes at least, by the roofline.
        against: the time of a call as a multiple of that of the network beside the model; None
            where there is no such network, or this is it.
    """

    load: Workload
    name: str
    threads: int
    times: Times
    least: float
    against: Ratio | None = None

    @property
    def steps_per_second(self) -> float:
        """The steps of all streams together."""
        return self.load.streams * self.load.time / self.times.median

    @property
    def share(self) -> float:
        """The speed as a share of the machine's limit; see `roofline`."""
        return self.least / self.times.median

    @property
    def share_text(self) -> str:
        """The share in per cent, as a person reads it."""
        return f"{self.share:.0%}" if self.share <= 1 else AT_LEAST_ALL


@dataclass(frozen=True)
class Bench:
    """All results of one run.

    Attributes:
        model: the model's file.
        work: its weights.
        ceilings: the machine's limits, for each number of threads.
        results: one load after the other.
        busy: how many processes wanted a core before the run, on average over one minute; None
            where the system does not report it.
        environment: the machine and the versions of packages.
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
    """Measures a model under every load. All candidates of a load take turns.

    Args:
        model: the model's file.
        loads: how many streams and steps.
        engines: the engines to run it on.
        threads: the numbers of threads per call.
        plan: the file of a plan, in place of engines and threads.
        states: as `load` takes them, for a file without a contract.
        constants: as `load` takes them.
        beside: a name and a maker of calls of another network, such as the same one in PyTorch.
        rounds: how many times each candidate is timed under each load.
        seconds: how long each of these times is.
        progress: is called with a text before each step of the work.

    Raises:
        InputError: the model does not fit a load.
        EngineUnavailable: an engine does not work here.
    """
    work = work_of(read(model))
    busy = load_average()
    if plan is None:
        models = {
            (engine, count): load_model(
                model, engine=engine, threads=count, states=states, constants=constants
            )
            for engine in engines
            for count in threads
        }
    else:
        planned = load_model(model, plan=plan)
        models = {(f"{planned.engine}, planned", planned.threads): planned}

    multiple = next(iter(models.values())).contract.streaming.chunk_multiple
    progress("measuring the machine")
    counts = sorted({count for _, count in models})
    ceilings = {count: measure_ceilings(count, work.nbytes) for count in counts}

    results: list[Result] = []
    for load in loads:
        calls = _make_calls(models, load, beside, counts)
        report_share = _progress_of(load, progress)
        times = measure(calls, rounds=rounds, seconds=seconds, progress=report_share)
        name = beside and beside[0]
        results += _results(load, times, ceilings, work, multiple=multiple, beside=name)

    return Bench(str(model), work, tuple(ceilings.values()), tuple(results), busy, environment())


def _make_calls(
    models: Mapping[_Candidate, Model],
    load: Workload,
    beside: tuple[str, MakeCall] | None,
    counts: Sequence[int],
) -> dict[_Candidate, Call]:
    """The candidates of a load: each model, and the other network with each number of threads."""
    calls: dict[_Candidate, Call] = {
        candidate: step_call(model, load) for candidate, model in models.items()
    }
    if beside is not None:
        name, make_call = beside
        for count in counts:
            calls[name, count] = make_call(load.streams, load.time, count)
    return calls


def _progress_of(load: Workload, progress: Callable[[str], None]) -> Callable[[float], None]:
    def report_share(share: float) -> None:
        progress(f"{load}: {share:.0%}")

    return report_share


def _results(
    load: Workload,
    times: dict[_Candidate, Times],
    ceilings: dict[int, Ceilings],
    work: Work,
    *,
    multiple: int,
    beside: str | None,
) -> Iterator[Result]:
    """The results of one load; `beside` is the name of the other network, if there is one."""
    for (name, count), candidate_times in times.items():
        against = None
        if beside is not None and name != beside:
            against = ratio(candidate_times, times[beside, count])

        least = ceilings[count].least(work, load, multiple)
        yield Result(load, name, count, candidate_times, least, against)

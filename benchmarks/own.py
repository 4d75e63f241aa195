"""stateport itself: as exported, quantised, and by the plans that `tune` picks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import stateport
from stateport import Model
from stateport.engines import status
from stateport.errors import StateportError
from stateport.parity.vectors import Vectors, vectors_path
from stateport.tune.search import TuningGoal, tune
from stateport_exporter import quantize

from .contender import Contender
from .loads import Load
from .networks import Network

#: The budget for plans of reduced precision, in decibels: that of int8 and bfloat16.
BUDGET: Final = 25.0


def contenders(network: Network, load: Load, threads: int) -> Iterator[Contender]:
    """Streams and pools on the CPU."""
    model = stateport.load(network.path, threads=threads)
    yield _contender(model, load, "stateport")
    if load.among is not None:
        yield _contender(model, Load(load.streams), "stateport, a pool of these alone")
    int8 = network.path.with_suffix(".int8.onnx")
    if not int8.exists():
        quantize(network.path, int8)
    yield _contender(stateport.load(int8, threads=threads), load, "stateport int8")
    for snr, name in ((None, "stateport planned"), (BUDGET, "stateport planned, 25 dB")):
        try:
            model, what = planned(network, load, threads, snr)
        except StateportError as error:  # the page then has no figure, and this says why
            print(f"{network}, {load}: {error}", flush=True)
            continue
        yield _contender(model, load, f"{name}: {what}")


def on_cuda(network: Network, load: Load) -> Iterator[Contender]:
    """Streams and pools on a GPU, where there is one."""
    if status("ort-cuda").problem is None:
        for graphs in (False, True):
            model = stateport.load(network.path, engine="ort-cuda", graphs=graphs)
            yield _contender(model, load, f"stateport, {'CUDA graphs' if graphs else 'no graphs'}")


def planned(network: Network, load: Load, threads: int, snr: float | None) -> tuple[Model, str]:
    """The network as `tune` would run it under this load, and what that is."""
    name = f"{load.streams}-{load.time}-{threads}-{snr or 'exact'}.plan.json"
    path = network.path.with_name(f"{network.path.stem}-{name}")
    vectors = Vectors.load(vectors_path(network.path))
    wanted = TuningGoal(load.streams, (load.time,), "latency", snr)
    tuned = tune(network.path, vectors, path, wanted, threads=(threads,), rounds=10)
    best = tuned.best
    options = "".join(f" {value}" for value in best.plan.options.values())
    what = f"{best.variant.name} on {best.plan.engine}{options}"
    return stateport.load(network.path, plan=path), what


def _contender(model: Model, load: Load, name: str) -> Contender:
    if load.streams == 1:
        return Contender("stateport", name, model.stream(), model.precision)
    pool = model.pool(load.among or load.streams)
    streams = pool.open(load.among or load.streams)[load.chosen()]
    return Contender("stateport", name, lambda x: pool.step(streams, x), model.precision)

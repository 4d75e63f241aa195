"""A process that verifies one engine: it may crash, hang or be killed, and nobody else is harmed.

It reads a `Job` from stdin and writes to stdout, a line each, `MARK` and a JSON object: `doing`,
what it is about to do; `report`, `not_handed_over`, `located` or `not_located`; `carried` for each
state that it went on from; `unavailable` or `error`. When stdin ends, whoever asked is gone, and so
is it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from ...errors import EngineUnavailable, StateportError, in_words
from ...model import Model, load
from ...precision import lowest
from ..bounds import RequestedBound, requested_bound
from ..engine_report import EngineReport, bound_for, measure_model
from ..fault import locator
from ..handover import hand_over, handover_case, take_over
from ..vectors import Vectors
from .protocol import LOCATING, MARK, Job, measurement_to_json

Tell = Callable[..., None]


def main() -> None:
    """Does one job."""
    tell = _channel()
    job = Job.from_json(sys.stdin.readline())
    Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        _work(job, tell)
    except EngineUnavailable as error:
        tell(unavailable=str(error))
    except StateportError as error:
        tell(error=str(error))
    except Exception as error:  # the last line of defence: it is not the engine that is to blame
        tell(error=f"{type(error).__name__}: {error} (a fault of stateport).")


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _channel() -> Tell:
    """A way to tell; what engines print goes to stderr, also what their libraries do."""
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**message: object) -> None:
        print(f"{MARK}{json.dumps(message)}", file=stdout, flush=True)

    return tell


def _work(job: Job, tell: Tell) -> None:
    tell(doing="loading")
    options: dict[str, Any] = dict(job.options)
    model = load(Path(job.model), engine=job.engine, plan=job.plan, **options)
    vectors = Vectors.load(Path(job.vectors))
    wanted = requested_bound(**job.wanted)
    if job.take_over is not None:
        _carry(job, model, vectors, wanted, tell)
        return
    found = measure_model(
        model,
        vectors,
        name=job.model,
        wanted=wanted,
        progress=lambda case: tell(doing=case),
    )
    tell(
        report={**vars(found), "measurements": [measurement_to_json(m) for m in found.measurements]}
    )
    case = handover_case(vectors)
    if job.hand_over is not None and case is not None:
        tell(doing=f"the first half of {case.name}")
        try:
            hand_over(model, case, Path(job.hand_over))
        except StateportError as error:
            tell(not_handed_over=str(error))
    if job.locate is not None and not found.passed:
        _locate(job, model, vectors, found, tell)
    tell(doing="ending")


def _locate(job: Job, model: Model, vectors: Vectors, found: EngineReport, tell: Tell) -> None:
    assert job.locate is not None
    tell(doing=LOCATING)
    try:
        place = Path(job.locate)
        one = locator()(Path(job.model), model, dict(job.options), vectors, found, place)
    except StateportError as error:
        tell(not_located=str(error))
    except Exception as error:  # whatever a graph, or its engine, makes the search stumble over
        tell(not_located=f"The search failed: {in_words(error)}")
    else:
        tell(located=vars(one))


def _carry(
    job: Job, model: Model, vectors: Vectors, wanted: RequestedBound | None, tell: Tell
) -> None:
    case = handover_case(vectors)
    assert case is not None
    for folder, precision in (job.take_over or {}).items():
        tell(doing=f"the second half of {case.name}")
        bound = bound_for(vectors, lowest(precision, model.precision), wanted)
        try:
            found = take_over(model, vectors, case, Path(folder), bound)
        except StateportError as error:
            tell(carried=folder, problem=str(error))
        else:
            tell(carried=folder, measurements=[measurement_to_json(m) for m in found])

# SPDX-License-Identifier: Apache-2.0
"""A process that verifies one engine, so that a crash or a hang harms no other.

It reads a `Job` from stdin and writes messages to stdout. Each message is a line: `MARK`, and a
JSON object with one of these keys:

- `doing`: what it is about to do;
- `report`, `not_handed_over`, `located`, `not_located`: the results of a job;
- `carried`, once for each state that it continued from;
- `remarks`: what the vectors of recorded data are;
- `unavailable` or `error`: why there are no results.

When stdin ends, the client is gone, and the process ends, too.
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
from ...picking import sure
from ...precision import lowest
from ..bounds import RequestedBound, requested_bound
from ..engine_report import EngineReport, bound_for, measure_model
from ..fault import locator
from ..handover import hand_over, handover_case, take_over
from ..recordings.answers import answered
from ..vectors import Vectors
from .protocol import LOCATING, MARK, Job, measurement_to_json, report_to_json

#: Sends a message with these keys and values.
Send = Callable[..., None]


def main() -> None:
    """Does one job."""
    send = _open_channel()
    job = Job.from_json(sys.stdin.readline())
    Thread(target=_end_with_the_parent, daemon=True).start()

    try:
        _do_job(job, send)
    except EngineUnavailable as error:
        send(unavailable=str(error))
    except StateportError as error:
        send(error=str(error))
    except Exception as error:  # a bug here must not look like a fault of the engine
        send(error=f"{type(error).__name__}: {error} (this is a bug in stateport).")


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _open_channel() -> Send:
    """Takes stdout for messages; what engines and their libraries print goes to stderr."""
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(**message: object) -> None:
        print(f"{MARK}{json.dumps(message)}", file=stdout, flush=True)

    return send


def _do_job(job: Job, send: Send) -> None:
    send(doing="loading")
    options: dict[str, Any] = dict(job.options)
    model = load(Path(job.model), engine=job.engine, plan=job.plan, **options)
    if job.data is not None:
        _answer_recordings(job, model, Path(job.data), send)
        return

    vectors = Vectors.load(Path(job.vectors))
    bound = requested_bound(**job.wanted)

    if job.take_over is None:
        _verify_model(job, model, vectors, bound, send)
    else:
        _continue_streams(job, model, vectors, bound, send)


def _answer_recordings(job: Job, model: Model, data: Path, send: Send) -> None:
    """Writes recorded data, with this engine's answers, as vectors."""
    recorded = answered(model, Path(job.model), data, progress=lambda text: send(doing=text))
    recorded.vectors.save(Path(job.vectors))
    send(remarks=list(recorded.remarks))


def _verify_model(
    job: Job, model: Model, vectors: Vectors, bound: RequestedBound | None, send: Send
) -> None:
    report = measure_model(
        model,
        vectors,
        name=job.model,
        wanted=bound,
        progress=lambda case: send(doing=case),
    )
    send(report=report_to_json(report))

    case = handover_case(vectors)
    if job.hand_over is not None and case is not None:
        send(doing=f"the first half of {case.name}")
        try:
            hand_over(model, case, Path(job.hand_over))
        except StateportError as error:
            send(not_handed_over=str(error))

    if job.locate is not None and not report.passed:
        _locate_fault(job, model, vectors, report, Path(job.locate), send)

    send(doing="ending")


def _locate_fault(
    job: Job, model: Model, vectors: Vectors, report: EngineReport, node_file: Path, send: Send
) -> None:
    send(doing=LOCATING)
    try:
        locate = locator()
        fault = locate(Path(job.model), model, dict(job.options), vectors, report, node_file)
    except StateportError as error:
        send(not_located=str(error))
    except Exception as error:  # a graph, or its engine, may make the search fail in any way
        send(not_located=f"The search failed: {in_words(error)}")
    else:
        send(located=vars(fault))


def _continue_streams(
    job: Job, model: Model, vectors: Vectors, wanted: RequestedBound | None, send: Send
) -> None:
    """Continues from the states that other engines wrote."""
    case = sure(handover_case(vectors))
    for folder, precision in (job.take_over or {}).items():
        send(doing=f"the second half of {case.name}")
        bound = bound_for(vectors, lowest(precision, model.precision), wanted)
        try:
            measurements = take_over(model, vectors, case, Path(folder), bound)
        except StateportError as error:
            send(carried=folder, problem=str(error))
        else:
            send(carried=folder, measurements=[*map(measurement_to_json, measurements)])

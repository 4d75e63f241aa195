# SPDX-License-Identifier: Apache-2.0
"""What engines are held against on recorded data: recorded answers, or one engine's whole run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...contract import ArraySpec, Contract, has_time
from ...model import Model
from ..pair import digest
from ..run_case import Answers, run_case
from ..vectors import Case, Vectors, most_steps, results, rows
from .cases import cases_of, cut_to_time, with_prefix
from .fitting import FittedRecording, fit, is_cut_along_time
from .reading import read_recordings

Array = NDArray[Any]

#: How long the reference may take over all recordings.
SECONDS: Final = 60.0
#: The whole runs that all cases of a recording are worth: whole, nine prefixes, single steps.
_RUNS: Final = 8


@dataclass(frozen=True)
class RecordedVectors:
    """Recorded data as vectors, and what the reader of a report has to know of them.

    Attributes:
        vectors: the cases with what engines are compared with.
        remarks: what is compared with what; what was cut or left out.
    """

    vectors: Vectors
    remarks: tuple[str, ...]


def expected_contract(contract: Contract) -> Contract:
    """The contract that recordings fit: that of a float16 model in float32, as vectors have it."""
    return Contract.from_json(contract.to_json().replace('"float16"', '"float32"'))


def answered(
    model: Model,
    path: Path,
    data: Path,
    *,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> RecordedVectors:
    """The recordings in a file or folder with the answers that engines are held against.

    An output that was recorded is its own answer. All else comes from the whole run: for every
    call of a case, the model runs once on all steps up to its end. So a model that loses its state
    between calls differs from it.

    Args:
        model: the model, on the engine that is the reference.
        path: its file.
        data: the recordings.
        seconds: how long all runs may take; long recordings are cut.
        progress: is called with a text before each run.

    Raises:
        FileError, InputError: a recording cannot be used.
        EngineError: the reference fails.
    """
    contract = expected_contract(model.contract)
    read = read_recordings(data, contract)
    recordings = [fit(recording, contract) for recording in read.recordings]

    progress(f"measuring {len(recordings)} recordings")
    recordings, was_cut = cut_to_time(
        recordings,
        contract,
        seconds,
        _RUNS,
        lambda recording: _run_whole(model, contract, recording),
    )

    cases = []
    for recording in recordings:
        for case in cases_of(recording, contract):
            progress(f"answers to {case.name}")
            cases.append(_with_answers(model, contract, case, recording))

    reference = f"{model.engine} ({model.engine_version})"
    vectors = Vectors(
        contract=contract,
        truth="float32",
        floor=_no_floor(contract, cases),
        cases=tuple(cases),
        made_with={"recordings": str(data), "reference": reference},
        models=(digest(path),),
    )
    compared = _what_is_compared(contract, recordings, str(data), reference)
    cut_sentence = None if was_cut is None else f"{was_cut}."
    return RecordedVectors(vectors, tuple(filter(None, (compared, cut_sentence, read.left_out))))


def _run_whole(model: Model, contract: Contract, recording: FittedRecording) -> Answers:
    case = next(iter(cases_of(recording, contract)))
    answers, _ = run_case(model, case)
    return answers


def _no_floor(contract: Contract, cases: Sequence[Case]) -> dict[str, Array]:
    """Zeros: what PyTorch itself loses on recorded data is not known."""
    steps = most_steps(cases)
    return {spec.name: np.zeros(steps) for spec in results(contract)}


def _with_answers(model: Model, contract: Contract, case: Case, recording: FittedRecording) -> Case:
    """The case with its truth: recorded answers, and those of the whole run."""
    whole = _whole_run(model, contract, case)
    truth = {}
    for spec in results(contract):
        computed = rows(spec, case, whole[spec.name]).table
        truth[spec.name] = _with_recorded(spec, contract, case, recording, computed)
    return replace(case, truth=truth)


def _with_recorded(
    spec: ArraySpec, contract: Contract, case: Case, recording: FittedRecording, computed: Array
) -> Array:
    """The rows of the whole run, in place of which recorded answers come as far as there are any.

    Args:
        spec: an output or state output.
        contract: the contract.
        case: a case of the recording.
        recording: the recording.
        computed: (rows, elements), the answers of the whole run.
    """
    recorded = recording.answers.get(spec.name)
    if recorded is None:
        return computed

    is_state = spec in contract.state_outputs
    if not is_state and not has_time(contract):
        return recorded.reshape(len(recorded), -1)

    if not is_state and is_cut_along_time(spec):
        assert spec.time_axis is not None
        table = np.moveaxis(recorded, spec.time_axis, 0)
        return table.reshape(len(table), -1)[: len(computed)]

    # An output without time, and a state, belong to the end of the recording.
    is_whole = sum(case.chunks) == recording.steps
    if is_whole and recorded.size == computed[-1:].size:
        last = recorded.reshape(1, -1)
        return np.concatenate([computed[:-1].astype(last.dtype), last])
    return computed


def _whole_run(model: Model, contract: Contract, case: Case) -> Answers:
    """What each call of a case gives, from runs on all steps up to its end."""
    if not has_time(contract) or len(case.chunks) == 1:
        answers, _ = run_case(model, case)
        return answers

    whole: dict[str, list[Array]] = {spec.name: [] for spec in results(contract)}
    start: dict[str, int] = dict.fromkeys(whole, 0)
    for call in range(len(case.chunks)):
        prefix = with_prefix(case, call, contract)
        answers, _ = run_case(model, prefix)
        for spec in results(contract):
            (array,) = answers[spec.name]
            whole[spec.name].append(_since(spec, array, start))
    return whole


def _since(spec: ArraySpec, array: Array, start: dict[str, int]) -> Array:
    """What an answer to a longer sequence has that the answer before it had not."""
    if spec.time_axis is None:
        return array

    rows_before = start[spec.name]
    start[spec.name] = array.shape[spec.time_axis]
    return array[(slice(None),) * spec.time_axis + (slice(rows_before, None),)]


def _what_is_compared(
    contract: Contract, recordings: Sequence[FittedRecording], data: str, reference: str
) -> str:
    """A sentence on the recordings, and on what their results are compared with."""
    steps = sum(recording.steps for recording in recordings)
    count = f"{len(recordings)} recording{'' if len(recordings) == 1 else 's'}"
    recorded: dict[str, None] = {}  # a set that keeps the order
    for recording in recordings:
        recorded |= dict.fromkeys(recording.answers)

    computed = []
    for spec in results(contract):
        if not all(spec.name in recording.answers for recording in recordings):
            computed.append(spec.name)

    way = "the whole run" if has_time(contract) else "the calls"
    parts = []
    if recorded:
        parts.append(f"{', '.join(recorded)} with the recorded answers")
    if computed:
        parts.append(f"{', '.join(computed)} with {way} of {reference}")
    return f"{count} in {data}, {steps:,} steps: compared {', and '.join(parts)}."

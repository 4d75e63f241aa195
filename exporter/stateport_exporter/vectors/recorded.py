# SPDX-License-Identifier: Apache-2.0
"""Recorded inputs as further cases, as long as PyTorch's answers to them take a bounded time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch

from stateport.contract import Contract
from stateport.parity.recordings.cases import cases_of, cut_to_time
from stateport.parity.recordings.fitting import FittedRecording, fit
from stateport.parity.recordings.reading import read_recordings
from stateport.parity.vectors import Case

from ..network.isolation import unchanged_globals
from .cases import short_case
from .torch_reference import Network, float64_reference, run_reference

#: How long PyTorch may take over all recordings.
SECONDS: Final = 60.0
#: The runs of the whole that the cases of a recording are worth, those of the copies that the floor
#: needs among them.
_RUNS: Final = 20


class RecordedCases(NamedTuple):
    """Recorded inputs as cases, and what was done to them, one sentence each."""

    cases: tuple[Case, ...]
    notes: tuple[str, ...]


NO_RECORDINGS: Final = RecordedCases((), ())


def recorded_cases(
    network: Network, contract: Contract, path: Path, seconds: float = SECONDS
) -> RecordedCases:
    """The recordings in a file or a folder as cases; long ones are cut.

    Args:
        network: the network that is exported.
        contract: its contract, in float32.
        path: the recordings.
        seconds: how long all runs may take.

    Raises:
        FileError, InputError: a recording cannot be used.
        ExportError: the network fails on one.
    """
    read = read_recordings(path, contract)
    recordings = [fit(recording, contract) for recording in read.recordings]

    with unchanged_globals(seed=0), torch.no_grad():
        torch.set_num_threads(1)
        truth = float64_reference(network, contract, short_case(network, contract))

        def run(recording: FittedRecording) -> None:
            run_reference(truth, contract, next(iter(cases_of(recording, contract))))

        recordings, was_cut = cut_to_time(recordings, contract, seconds, _RUNS, run)

    cases: list[Case] = []
    for recording in recordings:
        cases += cases_of(recording, contract)
    notes = (_what_was_recorded(path, recordings), was_cut, read.left_out, _unused(recordings))
    return RecordedCases(tuple(cases), tuple(note.rstrip(".") for note in notes if note))


def _what_was_recorded(path: Path, recordings: Sequence[FittedRecording]) -> str:
    steps = sum(recording.steps for recording in recordings)
    count = f"{len(recordings)} recording{'' if len(recordings) == 1 else 's'}"
    return f"the vectors hold {count} from {path}, {steps:,} steps"


def _unused(recordings: Sequence[FittedRecording]) -> str | None:
    """A sentence on recorded answers: PyTorch's own are recorded in their place."""
    names = dict.fromkeys(name for recording in recordings for name in recording.answers)
    if not names:
        return None
    return f"the recorded answers {', '.join(names)} were not used: PyTorch gives them"

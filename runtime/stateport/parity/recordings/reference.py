# SPDX-License-Identifier: Apache-2.0
"""The engine that other engines are held against on recorded data, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ...contract import Contract
from ...engines import status
from ...engines.choice import EngineChoice
from ...errors import EngineError
from ...picking import without
from ..workers.client import ask
from ..workers.protocol import Job
from .answers import expected_contract
from .fitting import fit
from .reading import read_recordings

#: The engines that give the answers, the first that can: onnx's reference shares no kernels with
#: any other engine.
_REFERENCES: Final = ("onnx-reference", "ort-cpu")


def check_data(data: Path, contract: Contract) -> None:
    """Checks that recorded data can be used, before any engine runs.

    Raises:
        FileError, InputError: a recording cannot be used.
    """
    contract = expected_contract(contract)
    for recording in read_recordings(data, contract).recordings:
        fit(recording, contract)


def record_answers(
    model: Path,
    data: Path,
    vectors: Path,
    engines: Sequence[EngineChoice],
    *,
    limit: float,
    progress: Callable[[str], None],
) -> tuple[str, ...]:
    """Writes recorded data as vectors, with the answers of the first reference that gives them.

    Args:
        model: the model's file.
        data: the recordings.
        vectors: the file to write.
        engines: the engines that are judged; the first is the reference where no other can be.
        limit: the seconds that the reference may be silent for.
        progress: is called with a text before each part of the work.

    Returns:
        What is compared with what, in sentences.

    Raises:
        EngineError: no engine gives answers.
    """
    candidates = []
    for name in _REFERENCES:
        if status(name).problem is None:
            candidates.append(EngineChoice(name))

    candidates += without(engines, candidates)[:1]

    problems = []
    for choice in candidates:
        job = Job(
            model=str(model.resolve()),
            vectors=str(vectors),
            engine=choice.name,
            options=choice.options,
            data=str(data),
        )
        messages = ask(job, python=choice.python, limit=limit, progress=_prefixed(choice, progress))
        for message in messages:
            if "remarks" in message:
                return tuple(message["remarks"])
        problems.append(f"{choice}: {_problem(messages)}")

    raise EngineError(
        f"No engine gives answers to the recorded data, which engines could be held against. "
        f"{' '.join(problems)}"
    )


def _prefixed(choice: EngineChoice, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda doing: progress(f"{choice}: {doing}")


def _problem(messages: Sequence[dict[str, object]]) -> str:
    """Why a reference gave no answers."""
    for message in messages:
        for key in ("unavailable", "error", "died"):
            if key in message:
                return str(message[key])
    return "It ended without an answer."

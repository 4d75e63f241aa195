# SPDX-License-Identifier: Apache-2.0
"""`stateport.verify`: a model's file compared with PyTorch's recorded answers."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Final

from ..arguments import path_of
from ..engines.choice import EngineChoice, choices
from ..errors import InputError
from ..model_file.onnx_outline import read
from ..model_file.read_contract import read_contract
from ..plan import Plan
from .bounds import requested_bound
from .matrix import TIME_LIMIT, Matrix, run_matrix
from .recordings.reference import check_data, record_answers
from .vectors import vectors_path

_DEFAULT: Final = "ort-cpu"


def verify(
    path: str | PathLike[str],
    *,
    engines: str | Sequence[str | EngineChoice] | None = None,
    plan: str | PathLike[str] | None = None,
    pythons: Sequence[str | PathLike[str]] = (),
    vectors: str | PathLike[str] | None = None,
    data: str | PathLike[str] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    snr: float | None = None,
    locate: bool = False,
    require: bool = False,
    time_limit: float = TIME_LIMIT,
    progress: Callable[[str], None] = lambda _: None,
) -> Matrix:
    """Compares a model's answers with those of PyTorch, which `stateport export` recorded.

    Neither PyTorch nor `onnx` is needed. Every output, every state and every step is compared, at
    sizes that were never traced. Each engine runs in a separate process, so that one that crashes
    fails alone. With several engines, each also continues the sequences of every other one from
    the saved state.

    Args:
        path: an ONNX file that `stateport export`, `lift` or `quantize` wrote.
        engines: the names of engines, or "all" for all that are known; by default "ort-cpu". A
            name may carry options: "openvino:precision=bfloat16".
        plan: a file that `stateport tune` wrote for this model. It names the engine.
        pythons: the interpreters of other environments, in which the engines are verified too.
        vectors: the file with the recorded answers; by default the one beside the model.
        data: inputs that people recorded, in place of the vectors: an .npz, .npy or .safetensors
            file, or a folder of them, with arrays by the names of the contract. Outputs that are
            recorded there are the answers; all else is compared with the whole run of
            onnx-reference, or of ort-cpu where that is not installed. The remarks of the verdict
            say what was compared with what (docs/parity.md).
        atol: an absolute bound on errors, in place of a multiple of PyTorch's own float32 error.
        rtol: a relative bound, likewise.
        snr: the least signal-to-noise ratio in decibels, likewise. A model of reduced precision has
            such a bound by default (docs/parity.md).
        locate: whether to find the first node whose values are wrong, where something is wrong, and
            to write it as a file beside the model. This needs the exporter.
        require: whether an engine that is not available here makes the verdict a failure.
        time_limit: how many seconds an engine may take for one recorded case.
        progress: is called with a text before each step of the work.

    Returns:
        The verdict, which is `passed` or not, and what was measured on each engine.

    Raises:
        FileError: the model or the vectors cannot be read.
        ContractError: the model has no contract, or one that its graph does not keep.
        InputError: there is no such engine, a bound is no number that bounds anything, both
            `engines` and a plan are given, or `data` cannot be used or is given together with
            `vectors` or `locate`.
        EngineError: no engine gives answers to `data`.
    """
    path = path_of(path)
    plan = None if plan is None else path_of(plan)
    here = list(_choose_engines(engines, plan))

    # A link is not resolved: an interpreter finds its environment by the name of its link.
    interpreters = [*map(os.path.abspath, pythons)]

    elsewhere = []
    for interpreter in interpreters:
        for choice in here:
            elsewhere.append(replace(choice, python=interpreter))

    bound = requested_bound(atol, rtol, snr)
    # A contract inferred from names promises nothing to verify.
    contract = read_contract(read(path))

    with contextlib.ExitStack() as stack:
        remarks: tuple[str, ...] = ()
        vectors_file = vectors_path(path) if vectors is None else path_of(vectors)
        if data is not None:
            _check_alone(vectors is not None, locate)
            data = path_of(data)
            check_data(data, contract)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stateport."))
            vectors_file = Path(folder) / "recorded.vectors.safetensors"
            remarks = record_answers(
                path, data, vectors_file, here, limit=time_limit, progress=progress
            )

        return run_matrix(
            path,
            vectors_file,
            [*here, *elsewhere],
            plan=plan,
            wanted=bound,
            locate=locate,
            require=require,
            limit=time_limit,
            more_remarks=remarks,
            progress=progress,
        )


def _check_alone(has_vectors: bool, locate: bool) -> None:
    """Refuses recorded data together with arguments that do not apply to it."""
    if has_vectors:
        raise InputError(
            "data and vectors are two sets of cases; one was expected. Verify the file twice."
        )
    if locate:
        raise InputError(
            "locate needs the values that an export recorded, and data has none. Leave out one of "
            "them; export(vectors_from=...) records the data with PyTorch's answers."
        )


def _choose_engines(
    engines: str | Sequence[str | EngineChoice] | None, plan: Path | None
) -> Iterator[EngineChoice]:
    """The engines that the caller names, or the plan's, or the default."""
    if plan is not None:
        if engines is not None:
            raise InputError("A plan names its engine; give either engines or a plan.")
        engines = [EngineChoice(Plan.load(plan).engine)]
    elif engines is None:
        engines = [_DEFAULT]
    elif isinstance(engines, str):
        engines = [engines]

    if not engines:
        raise InputError("No engine is named; at least one name was expected, or 'all'.")

    for engine in engines:
        if isinstance(engine, str):
            yield from choices(engine)
        elif isinstance(engine, EngineChoice):
            yield engine
        else:
            raise InputError(f"{engine!r} is no engine; a name was expected, such as 'ort-cpu'.")

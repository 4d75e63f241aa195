"""Vectors from PyTorch: the truth in float64, and what PyTorch itself loses in float32."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from stateport.contract import ArraySpec, Contract
from stateport.parity.soundness import MOST_ELEMENTS
from stateport.parity.vectors import Case, Rows, Vectors, results, row_errors

from ..errors import ExportError
from ..network.isolation import unchanged_globals, use_onednn
from .cases import all_cases, short_case
from .torch_reference import Answers, Array, Network, float64_reference, run_reference

#: Numbers beyond this count as too large for float32: on the way to them, sums are larger still.
_LARGEST: Final = 1e35
_NUDGES: Final = 8
#: Networks with more parameters are not copied for that.
_MOST_NUDGED: Final = 10_000_000


def record(network: Network, contract: Contract, beyond: Sequence[Case] = ()) -> Vectors:
    """Runs PyTorch on every case, and on those beyond the usual sizes.

    A network that cannot run in float64 gives the truth in float32, and no floor.

    Raises:
        ExportError: the network fails at a size that it was not traced at.
    """
    cases = list(all_cases(network, contract, beyond))
    with unchanged_globals(seed=0), torch.no_grad():
        # A step is too small to share out, and one thread sums in the same order everywhere.
        torch.set_num_threads(1)
        truth = float64_reference(network, contract, short_case(network, contract))
        answered = list(_answered(truth, contract, cases))
        floor = _floor(network, truth, contract, answered)
    return Vectors(
        contract=contract,
        truth=str(truth.dtype).removeprefix("torch."),
        floor=floor,
        cases=tuple(_with_truth(case, answers) for case, answers in answered),
        made_with={"torch": torch.__version__, "machine": platform.machine()},
    )


def _answered(
    truth: Network, contract: Contract, cases: Sequence[Case]
) -> Iterator[tuple[Case, Answers]]:
    """The cases with their answers, as far as these are numbers in float32.

    Sequences too short for the network itself are left out. Where a network grows without bound, a
    case ends before the call that would overflow.
    """
    traced = truth.example.sizes["time"]
    for case in cases:
        try:
            answers = run_reference(truth, contract, case)
        except ExportError:
            if len(case.chunks) > 1 or sum(case.chunks) >= traced:
                raise
            continue
        calls = _calls_in_range(case, answers)
        if 0 < calls < len(case.chunks):
            case = _first_calls(contract, case, calls)
            answers = run_reference(truth, contract, case)
        if calls or sum(case.chunks) <= traced:
            yield case, answers


def _calls_in_range(case: Case, answers: Answers) -> int:
    """How many calls are made before one in which a number is beyond the range of float32."""
    first = sum(case.chunks)
    for table, steps in answers.values():
        size = np.abs(table.astype(np.float64), where=np.isfinite(table), out=np.zeros(table.shape))
        beyond = (size > _LARGEST).any(axis=1)
        if table.dtype.kind == "f" and beyond.any():
            first = min(first, int(steps[beyond].min()))
    return sum(end <= first for end in case.ends)


def _first_calls(contract: Contract, case: Case, calls: int) -> Case:
    """The case without the calls behind the first ones."""
    before, time = sum(case.chunks), sum(case.chunks[:calls])
    inputs = {}
    for spec in contract.inputs:
        array = case.inputs[spec.name]
        axis, first = (spec.shape.index("time"), time) if "time" in spec.shape else (0, calls)
        inputs[spec.name] = np.take(array, range(first), axis)
    name = case.name.replace(f"x{before}", f"x{time}", 1)
    return replace(case, name=name, chunks=case.chunks[:calls], inputs=inputs)


def _floor(
    network: Network, truth: Network, contract: Contract, answered: Sequence[tuple[Case, Answers]]
) -> dict[str, Array]:
    """The largest error of PyTorch in float32 up to each step, over all cases.

    PyTorch has two implementations of an LSTM on the CPU, its own and oneDNN's, which round
    differently; the worse of the two counts. Where both happen to be exact, half a unit in the
    last place of the largest value so far is still owed to any other order of summation.

    Where a network amplifies differences on its way, how far float32 is off depends on the luck of
    single roundings. So the truth is also taken with every parameter off by one unit in its last
    place, at random, a few times: an engine that is exact for such a network is right.
    """
    small = sum(p.numel() for p in network.module.parameters()) <= _MOST_NUDGED
    nudges = _NUDGES if small and truth is not network else 0
    with_ulp_noise = [truth.with_ulp_noise(seed) for seed in range(nudges)]
    length = max(sum(case.chunks) for case, _ in answered)
    floor = {spec.name: np.zeros(length) for spec in results(contract)}
    for case, exact in answered:
        runs = [(network, True), (network, False)]
        if len(case.chunks) == 1:  # whole sequences are quick
            runs += [(other, True) for other in with_ulp_noise]
        for run, onednn in runs:
            use_onednn(onednn)
            answers = run_reference(run, contract, case)
            for spec in results(contract):
                _raise_floor(floor[spec.name], spec, answers[spec.name], exact[spec.name].table)
    return {name: _smooth(np.maximum.accumulate(steps)) for name, steps in floor.items()}


def _smooth(growing: Array) -> Array:
    """The floor with a look ahead of an eighth of the way.

    In a network that amplifies small differences, errors grow exponentially. How large they are at
    a given step depends on the very first roundings. An engine may be that much ahead of PyTorch.
    Where errors do not grow, this changes nothing.
    """
    steps = np.arange(len(growing))
    smooth: Array = growing[np.minimum(steps + steps // 8, len(growing) - 1)]
    return smooth


def _raise_floor(floor: Array, spec: ArraySpec, answer: Rows, truth: Array) -> None:
    errors = row_errors(answer.table, truth)
    sizes = np.abs(truth, where=np.isfinite(truth), out=np.zeros(truth.shape))
    largest = sizes.max(axis=1, initial=0.0)
    owed = largest * (np.finfo(np.float32).eps / 2) if spec.dtype.startswith("float") else 0.0
    worst = np.where(np.isfinite(errors), np.maximum(errors, owed), owed)
    np.maximum.at(floor, answer.steps, worst)


def _with_truth(case: Case, answers: Answers) -> Case:
    """The case with its truth; of very long rows, a random part."""
    kept: dict[str, Array] = {}
    truth = {name: table for name, (table, _) in answers.items()}
    for name, (table, _) in answers.items():
        most = max(MOST_ELEMENTS // max(len(table), 1), 1)
        if table.shape[1] > most:
            random = np.random.default_rng(table.shape[1])
            kept[name] = np.sort(random.choice(table.shape[1], most, replace=False))
            truth[name] = table[:, kept[name]]
    return replace(case, truth=truth, kept=kept)

# SPDX-License-Identifier: Apache-2.0
"""Vectors from PyTorch: the truth in float64, and what PyTorch itself loses in float32."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import starmap
from typing import Final, TypeVar

import numpy as np
import torch

from stateport.contract import Contract
from stateport.parity.soundness import MOST_ELEMENTS
from stateport.parity.vectors import Case, Vectors, most_steps, results

from ..errors import ExportError
from ..network.isolation import unchanged_globals, use_onednn
from ..network.trial import check_any_length
from .allowance import Allowance
from .cases import all_cases, short_case
from .floor import finite_sizes, looking_ahead, no_floor, raise_floor
from .running_sums import RunningSums
from .torch_reference import Answers, Array, Network, float64_reference, run_reference

#: Numbers beyond this count as too large for float32: the sums that lead to them may be larger.
_LARGEST: Final = 1e35
#: The number of copies of the network with parameters off by one unit in the last place, and the
#: most parameters that a network has for it to be copied.
_NOISY_COPIES: Final = 8
_MOST_COPIED: Final = 10_000_000
#: The number of calls in a row that PyTorch's second implementation makes of a chain. The first
#: one makes all.
_MOST_CALLS: Final = 512

_Item = TypeVar("_Item")


def record(
    network: Network,
    contract: Contract,
    beyond: Sequence[Case] = (),
    allowance: Allowance | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Vectors:
    """Runs PyTorch on every case, and on those beyond the usual sizes.

    A network that cannot run in float64 gives the truth in float32, and no floor. What does not
    fit into the allowance, by default the usual one, is shortened; it says what. Cases beyond the
    usual sizes never are. `progress` is called with a text before each case.

    Raises:
        ExportError: the network fails at a size that it was not traced at.
    """
    allowance = allowance or Allowance()
    cases = list(all_cases(network, contract, beyond))
    kept_whole = set(map(id, beyond))
    with unchanged_globals(seed=0), torch.no_grad():
        # One thread sums in the same order on every machine, and a step is too small for several.
        torch.set_num_threads(1)
        truth = float64_reference(network, contract, short_case(network, contract))
        counted = _counted(cases, "recording answers", lambda case: case.name, progress)
        answered = list(_answered_cases(network, truth, contract, counted, kept_whole, allowance))
        again = _counted(
            answered, "measuring PyTorch's errors", lambda pair: pair[0].name, progress
        )
        floor = _floor(network, truth, contract, answered, again, allowance)

    return Vectors(
        contract=contract,
        truth=str(truth.dtype).removeprefix("torch."),
        floor=floor,
        cases=tuple(starmap(_with_truth, answered)),
        made_with={"torch": torch.__version__, "machine": platform.machine()},
    )


def _counted(
    items: Sequence[_Item],
    doing: str,
    name_of: Callable[[_Item], str],
    progress: Callable[[str], None],
) -> Iterator[_Item]:
    """The items; before each one, a text says which of how many it is."""
    for number, item in enumerate(items, 1):
        progress(f"{doing}: {number} of {len(items)}, {name_of(item)}")
        yield item


def _answered_cases(
    network: Network,
    truth: Network,
    contract: Contract,
    cases: Iterable[Case],
    kept_whole: Collection[int],
    allowance: Allowance,
) -> Iterator[tuple[Case, Answers]]:
    """The cases with their answers, as far as these are numbers in float32.

    Sequences that are too short for the network are left out. Where a network grows without bound,
    a case ends before the call that would overflow. `kept_whole` are the ids of cases that are
    recorded at any cost.
    """
    traced = truth.example.sizes["time"]
    for case in cases:
        allowed = len(case.chunks) if id(case) in kept_whole else allowance.calls(case)

        if allowed == 0:
            continue

        case = first_calls(contract, case, allowed)
        answers = _answers_of(network, truth, contract, case, allowance)
        if answers is None:
            continue

        calls = _count_calls_in_range(case, answers)
        if 0 < calls < len(case.chunks):
            case = first_calls(contract, case, calls)
            answers = run_reference(truth, contract, case)
        if calls > 0 or sum(case.chunks) <= traced:
            yield case, answers


def _answers_of(
    network: Network, truth: Network, contract: Contract, case: Case, allowance: Allowance
) -> Answers | None:
    """The answers to a case; None where it is one sequence that is too short for the network."""
    try:
        with allowance.measured(case):
            return run_reference(truth, contract, case)
    except ExportError:
        is_short = sum(case.chunks) < truth.example.sizes["time"]
        if len(case.chunks) == 1 and is_short:
            return None
        check_any_length(network.module, network.example)
        raise


def _count_calls_in_range(case: Case, answers: Answers) -> int:
    """The number of calls before the first that gives a number beyond the range of float32."""
    first_beyond = sum(case.chunks)
    for table, steps in answers.values():
        absolute = finite_sizes(table.astype(np.float64))
        beyond = (absolute > _LARGEST).any(axis=1)
        if table.dtype.kind == "f" and beyond.any():
            first_beyond = min(first_beyond, int(steps[beyond].min()))
    return sum(end <= first_beyond for end in case.ends)


def first_calls(contract: Contract, case: Case, calls: int) -> Case:
    """The case cut off after its first calls, if it has more."""
    if calls >= len(case.chunks):
        return case

    all_steps = sum(case.chunks)
    steps = sum(case.chunks[:calls])
    inputs = {}
    for spec in contract.inputs:
        array = case.inputs[spec.name]
        if "time" in spec.shape:
            inputs[spec.name] = np.take(array, range(steps), spec.shape.index("time"))
        else:
            inputs[spec.name] = np.take(array, range(calls), 0)

    name = case.name.replace(f"x{all_steps}", f"x{steps}", 1)
    return replace(case, name=name, chunks=case.chunks[:calls], inputs=inputs)


def _floor(
    network: Network,
    truth: Network,
    contract: Contract,
    answered: Sequence[tuple[Case, Answers]],
    counted: Iterable[tuple[Case, Answers]],
    allowance: Allowance,
) -> dict[str, Array]:
    """The largest error of PyTorch in float32 up to each step, over all cases: (steps,) float64.

    PyTorch has two implementations of an LSTM on the CPU, its own and oneDNN's, which round
    differently. The larger error counts; of a long chain of calls, its own makes the first ones
    alone. Running sums are added up in float32 there, as engines do. Where both happen to be exact,
    the floor is half a unit in the last place of the largest value so far: any other order of
    summation may be off by that.

    Where a network amplifies differences, the error of float32 depends on the luck of single
    roundings. So a few copies of the network with every parameter off by one unit in its last place
    count too: an engine that is exact for such a copy is right. `counted` are the answered cases
    one by one, which tells of the progress.
    """
    copies = _noisy_copies(network, truth, allowance)
    sums = _running_sums(network, contract)
    length = most_steps(case for case, _ in answered)
    floor = no_floor(contract, length)

    for case, exact in counted:
        runs = [(network, case, True), (network, _beginning(contract, case), False)]
        if len(case.chunks) == 1:  # whole sequences run fast enough for all copies
            runs += [(noisy, case, True) for noisy in copies]
        for run, calls, onednn in runs:
            use_onednn(onednn)
            with contextlib.nullcontext() if onednn else sums:
                answers = run_reference(run, contract, calls)
            for spec in results(contract):
                answer = answers[spec.name]
                truth_there = exact[spec.name].table[: len(answer.table)]
                raise_floor(floor[spec.name], spec, answer, truth_there)

    return looking_ahead(floor)


def _running_sums(
    network: Network, contract: Contract
) -> contextlib.AbstractContextManager[object]:
    """What adds running sums up in float32; nothing if the network has none, as it takes time."""
    sums = RunningSums()
    with sums:
        run_reference(network, contract, short_case(network, contract))
    return sums if sums.has_run else contextlib.nullcontext()


def _beginning(contract: Contract, case: Case) -> Case:
    """The case, or the first calls of one that has very many."""
    return first_calls(contract, case, _MOST_CALLS)


def _noisy_copies(network: Network, truth: Network, allowance: Allowance) -> list[Network]:
    """Copies of the truth with every parameter off by one unit in its last place."""
    parameters = sum(parameter.numel() for parameter in network.module.parameters())
    if parameters > _MOST_COPIED or truth is network:
        return []
    return [*map(truth.with_ulp_noise, range(allowance.copies(_NOISY_COPIES)))]


def _with_truth(case: Case, answers: Answers) -> Case:
    """The case with its truth. Of very long rows, random elements are kept."""
    truth: dict[str, Array] = {}
    elements: dict[str, Array] = {}
    for name, (table, _) in answers.items():
        truth[name] = table

        size = table.shape[1]
        most = max(MOST_ELEMENTS // max(len(table), 1), 1)
        if size > most:
            random = np.random.default_rng(size)
            elements[name] = np.sort(random.choice(size, most, replace=False))
            truth[name] = table[:, elements[name]]
    return replace(case, truth=truth, kept=elements)

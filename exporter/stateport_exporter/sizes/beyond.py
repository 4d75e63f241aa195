# SPDX-License-Identifier: Apache-2.0
"""Sizes at which a network may behave differently: they are tried as well, or limits exclude them.

A graph takes the way that forward took at the sizes that it was traced at. Where a comparison turns
at another size, PyTorch's answers there are recorded too, and the file is checked against them.
Where PyTorch fails, or the sizes are too large to run, the contract gets a limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

import torch
from torch import nn

from stateport.axes import SIZE_LIMIT
from stateport.contract import Contract
from stateport.parity.soundness import check_case
from stateport.parity.vectors import Case

from ..errors import ExportError
from ..loops import results_in_float64, same_in_float64
from ..network.blame import Line, at_line
from ..network.example import Example
from ..network.isolation import float64_copy, unchanged_globals
from ..vectors.cases import BATCHES, case_at, usual_times
from ..vectors.torch_reference import Answers, Network, run_reference
from .comparisons import STEP, Comparison, Turn, compared, largest_mentioned, turns

Sizes = Mapping[str, int]

#: Parameters times steps that are run.
_WORK: Final = 20_000_000_000
#: The bounds of the number of steps that are run. What forward computes for every pair of steps
#: has to fit into memory.
_FEWEST_STEPS, _MOST_STEPS = 2049, 4097
#: The number of steps of a loop in which comparisons are looked for.
_ASKED_STEPS: Final = 3
#: The least number of steps that a loop is run over, and the factor of the largest number that its
#: code mentions.
_LONG, _TIMES = 256, 8
#: A network that turns at more sizes is refused.
_MOST_SIZES: Final = 64
#: Rows times steps that no call has. PyTorch compares with such numbers to choose its counters.
_HUGE: Final = 10**7


@dataclass
class Beyond:
    """The cases and limits at sizes beyond the usual ones.

    Attributes:
        cases: the cases that are recorded as well.
        lines: sizes at which the network turns, each with the author's line that decides it.
        limits: the largest sizes of axes in one call, for the contract.
        streams_end: why a stream, which no limit ends, would go wrong; None if it would not.
    """

    cases: list[Case] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    streams_end: str | None = None

    def limit(self, axis: str, most: int) -> None:
        """Limits an axis to `most`, or to a lower limit that it has already."""
        self.limits[axis] = min(most, self.limits.get(axis, most))

    def allows(self, case: Case) -> bool:
        """Whether a case is within the limits."""
        sizes = {**case.sizes, "time": sum(case.chunks)}
        return all(sizes.get(axis, 0) <= most for axis, most in self.limits.items())


def look_beyond(
    network: Network,
    contract: Contract,
    guards: Sequence[Comparison],
    ask: Callable[[Sizes], Iterable[Comparison]],
) -> Beyond:
    """Runs the network at the sizes at which its comparisons turn.

    Args:
        network: the network.
        contract: its contract.
        guards: comparisons that are known already.
        ask: gives the comparisons that the author's code makes at some sizes. It is called again
            at every size at which one turns, as the other branch may compare more.

    Raises:
        ExportError: too many sizes would have to be tried, or some depend on several axes and are
            too large to run.
    """
    return _Search(network, contract, ask).run(guards)


class _Search:
    """Follows comparisons to the sizes at which they turn, and runs the network there."""

    def __init__(
        self, network: Network, contract: Contract, ask: Callable[[Sizes], Iterable[Comparison]]
    ) -> None:
        self._network = network
        self._contract = contract
        self._ask = ask
        self._usual = network.example.sizes
        self._multiple = contract.step_multiple
        self._seen: set[tuple[tuple[str, int], ...]] = set()
        self._beyond = Beyond()

    def run(self, guards: Sequence[Comparison]) -> Beyond:
        tried: dict[str, tuple[int, ...]] = {axis: (size,) for axis, size in self._usual.items()}
        tried["batch"] += BATCHES
        tried["time"] = (self._usual["time"], *usual_times(self._contract))

        waiting = [*self._ask(self._usual), *guards]
        while waiting:
            comparison = waiting.pop(0)
            # A number that counts, as over a list of layers, is no size. The steps of a loop over
            # time are followed by `check_loops`.
            if not tried.keys() >= {*comparison.axes.values()}:
                continue
            around = [*_with_next(turns(comparison, tried, self._multiple), self._multiple)]
            is_crossed = any(map(self._is_in_reach, around))
            for turn in around:
                if self._is_new(turn):
                    waiting += self._try_sizes(turn, is_crossed=is_crossed)

        beyond = self._beyond
        # A limit may have been found after cases that exceed it.
        beyond.cases = [*filter(beyond.allows, beyond.cases)]
        return beyond

    def _is_new(self, turn: Turn) -> bool:
        """Whether the network has all axes of a turn, and was not run at its sizes yet."""
        key = tuple(sorted(turn.sizes.items()))
        if key in self._seen or not self._network.example.axes >= turn.sizes.keys():
            return False

        self._seen.add(key)
        if len(self._seen) > _MOST_SIZES:
            raise _too_many(self._network.module.network, turn.line)
        return True

    def _is_in_reach(self, turn: Turn) -> bool:
        return turn.size <= reach(self._network.module, turn.axis)

    def _try_sizes(self, turn: Turn, *, is_crossed: bool) -> Iterable[Comparison]:
        """Records a case or a limit; returns what the network compares at these sizes.

        `is_crossed` says that the same comparison turns at other sizes that can be run.
        """
        network, contract = self._network, self._contract
        if turn.sizes.get("time", SIZE_LIMIT) < contract.shortest_chunk:
            return []  # no call is as short
        if not self._is_in_reach(turn):
            # PyTorch itself compares the number of elements, as with a short sequence in a huge
            # batch. What it does behind that is tried with longer sequences.
            if is_crossed and not turn.direct and len(turn.sizes) > 1:
                return []
            _limit_untried(self._beyond, turn, network.module.network)
            return []

        answers = self._answers(turn.sizes)
        if answers is not None:
            problem = wrong_shape(network, contract, turn.sizes, answers)
            if problem is not None:
                raise _differs(network.module.network, turn, problem)
            self._beyond.cases.append(case_at(network, contract, turn.sizes))
            if turn.line is not None:
                self._beyond.lines.append(f"{_describe_sizes(turn.sizes)} ({turn.line})")
            return self._ask({**self._usual, **turn.sizes})

        usual_size = self._usual[turn.axis]
        if turn.size > usual_size:
            self._beyond.limit(turn.axis, _largest_size(turn, usual_size, self._runs))
        return []

    def _runs(self, sizes: Sizes) -> bool:
        return self._answers(sizes) is not None

    def _answers(self, sizes: Sizes) -> Answers | None:
        return answers_at(self._network, self._contract, sizes)


def answers_at(network: Network, contract: Contract, sizes: Sizes) -> Answers | None:
    """PyTorch's answers to a whole sequence of these sizes; None if it fails."""
    with unchanged_globals(seed=0), torch.no_grad(), contextlib.suppress(ExportError):
        return run_reference(network, contract, case_at(network, contract, sizes))

    return None


def wrong_shape(network: Network, contract: Contract, sizes: Sizes, answers: Answers) -> str | None:
    """Which answers to a whole sequence have other shapes than the contract's; None if none do."""
    case = case_at(network, contract, sizes)
    try:
        check_case(contract, replace(case, truth={n: rows.table for n, rows in answers.items()}))
    except ValueError as error:
        return str(error)
    return None


def _differs(network: nn.Module, turn: Turn, problem: str) -> ExportError:
    return ExportError(
        f"{type(network).__qualname__} behaves differently at {_describe_sizes(turn.sizes)}"
        f"{at_line(turn.line)}: {problem}. Let it do the same at every size."
    )


def _with_next(every_turn: Iterable[Turn], multiple: int) -> Iterator[Turn]:
    """Each turn, and the size after it.

    A slice of a fixed length, for example, ends at the turn and leaves steps out from the next size
    on.
    """
    for turn in every_turn:
        yield turn
        step = multiple if turn.axis == "time" else 1
        yield replace(turn, sizes={**turn.sizes, turn.axis: turn.size + step})


def check_loops(network: nn.Module, method: str, folded: nn.Module, example: Example) -> Beyond:
    """Compares a network whose loops are rolled up with its author's where comparisons turn.

    Comparisons of step numbers are followed as those of sizes are. Some numbers that count steps
    are not seen. So both networks also run over more steps than any number that the author's code
    mentions, if that is possible. All is computed in float64.

    Args:
        network: the author's network.
        method: the name of the method that is run.
        folded: the network with its loops rolled up.
        example: its example.

    Raises:
        ExportError: the results differ at a size that can be tried.
    """
    beyond, seen = Beyond(), set[int]()
    author = float64_copy(network).eval()
    rolled = float64_copy(folded).eval()

    def runs(sizes: Sizes) -> bool:
        try:
            results_in_float64(author, method, example, sizes)
        except Exception:  # the user's forward may raise anything
            return False
        return True

    for found in _turns_of_loops(network, method, example):
        turn = _in_steps(found, example.time_multiple)
        if turn.size in seen or not example.axes >= turn.sizes.keys():
            continue

        seen.add(turn.size)
        usual_size = example.sizes[turn.axis]
        if turn.size > _reach_of_loop(network, turn.axis, example.time_multiple):
            _limit_untried(beyond, turn, network)
            if found.axis == STEP:
                beyond.streams_end = _untried_steps(turn)
        elif not runs(turn.sizes):
            if turn.size > usual_size:
                beyond.limit(turn.axis, _largest_size(turn, usual_size, runs))
        elif not same_in_float64(author, method, rolled, example, turn.sizes):
            raise _unequal_steps(network, turn)

    return beyond


def _turns_of_loops(network: nn.Module, method: str, example: Example) -> list[Turn]:
    """Where comparisons of sizes and step numbers turn; last, a large number of steps."""
    tried: dict[str, Sequence[int]] = {axis: (size,) for axis, size in example.sizes.items()}
    multiple = example.time_multiple
    times = [multiple * time for time in (1, 2, 3, 8, 13)]
    tried |= {"batch": (1, 2, 3), "time": times, STEP: range(13)}
    short = {**example.sizes, "time": _ASKED_STEPS * multiple}
    # A loop may count its passes, of which each takes as many steps as the network takes at once.
    passes = max(_LONG, _TIMES * largest_mentioned(network)) + 1
    steps = min(multiple * passes, _reach_of_loop(network, "time", multiple))

    every_turn: list[Turn] = []
    for comparison in compared(network, method, example, short):
        every_turn += turns(comparison, tried, multiple)
    return [*every_turn, Turn("time", {"time": steps}, None, direct=False)]


def _in_steps(turn: Turn, multiple: int) -> Turn:
    """The turn with a number of steps in place of a step number: step 12 needs 13 steps.

    The number of steps is a multiple.
    """
    sizes = dict(turn.sizes)
    if turn.axis == STEP:
        del sizes[STEP]
        # What is counted may be steps, or as many at a time as the network takes.
        return replace(turn, axis="time", sizes={**sizes, "time": (turn.size + 1) * multiple})

    if "time" in sizes:
        sizes["time"] = -(-sizes["time"] // multiple) * multiple
    return replace(turn, sizes=sizes)


def reach(network: nn.Module, axis: str) -> int:
    """The largest size of an axis at which a network of this size is run."""
    most = max(_FEWEST_STEPS, min(_WORK // _count_parameters(network), _MOST_STEPS))
    return most if axis in ("time", STEP) else most // 4


def _reach_of_loop(network: nn.Module, axis: str, multiple: int) -> int:
    """The same for a network whose loops are run, in which each pass takes so many steps."""
    if axis != "time":
        return reach(network, axis)
    passes = min(_WORK // _count_parameters(network) // multiple, _MOST_STEPS)
    return max(_FEWEST_STEPS // multiple, passes, 1) * multiple


def _count_parameters(network: nn.Module) -> int:
    return max(sum(parameter.numel() for parameter in network.parameters()), 1)


def _limit_untried(beyond: Beyond, turn: Turn, network: nn.Module) -> None:
    """Limits an axis to the sizes below a turn that is too large to run.

    Raises:
        ExportError: the turn depends on several axes at once.
    """
    if prod(turn.sizes.values()) >= _HUGE and not turn.direct:
        return

    if len(turn.sizes) > 1:
        raise ExportError(
            f"{type(network).__qualname__} may behave differently at "
            f"{_describe_sizes(turn.sizes)}{at_line(turn.line)}, which is too large to be tried. "
            "Let it do the same at every size."
        )

    beyond.limit(turn.axis, turn.size - 1)


def _largest_size(turn: Turn, least: int, runs: Callable[[Sizes], bool]) -> int:
    """The largest size of an axis at which a network runs. It runs at `least`, not at the turn."""
    most, fails = least, turn.size
    while fails - most > 1:
        middle = (most + fails) // 2
        if runs({**turn.sizes, turn.axis: middle}):
            most = middle
        else:
            fails = middle
    return most


def _describe_sizes(sizes: Sizes) -> str:
    """Sizes for messages: "batch 33, time 7"."""
    return ", ".join(f"{axis} {size}" for axis, size in sorted(sizes.items()))


def _untried_steps(turn: Turn) -> str:
    """The reason of a network that counts its steps: a stream has no largest number of them."""
    return (
        f"its loop may do something else from step {turn.size} on{at_line(turn.line)}, and so many "
        "steps cannot be tried"
    )


def _unequal_steps(network: nn.Module, turn: Turn) -> ExportError:
    return ExportError(
        f"The loop over time in {type(network).__qualname__} does not do the same in every "
        f"step: at {_describe_sizes(turn.sizes)} the results differ from those of the step that "
        f"it was seen to repeat{at_line(turn.line)}. Let every step do the same, or export one "
        "step of it and loop outside."
    )


def _too_many(network: nn.Module, line: Line | None) -> ExportError:
    return ExportError(
        f"{type(network).__qualname__} compares sizes with too many others to try them all"
        f"{at_line(line)}. Let it do the same at every size."
    )

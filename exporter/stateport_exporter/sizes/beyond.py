"""The sizes at which a network may do otherwise: tried as well, or kept away by the contract.

A graph follows the way that forward took at the sizes that it was traced at. Where a comparison
turns at another size, PyTorch's answers there are recorded too, and the file is held against them.
Where PyTorch fails, or nobody can try it, the contract has a limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Final

import torch
from torch import nn

from stateport.contract import Contract
from stateport.parity.soundness import check_case
from stateport.parity.vectors import Case

from ..errors import ExportError
from ..loops import results_in_float64, same_in_float64
from ..network.blame import Line
from ..network.example import Example
from ..network.isolation import float64_copy, unchanged_globals
from ..vectors.cases import BATCHES, case_at, usual_times
from ..vectors.torch_reference import Answers, Network, run_reference
from .comparisons import STEP, Comparison, Turn, compared, largest_mentioned, turns

Sizes = Mapping[str, int]

#: Parameters times steps that are run; and the most steps, for what is computed for every pair of
#: steps has to fit into memory.
_WORK: Final = 20_000_000_000
_FEWEST_STEPS, _MOST_STEPS = 2049, 4097
#: So many steps of a loop are looked at.
_ASKED_STEPS: Final = 3
#: A loop is run over so many steps at least, and so many times the numbers that its code mentions.
_LONG, _TIMES = 256, 8
#: A network that compares so much is refused.
_MOST_SIZES: Final = 64
#: So many rows and steps together no call has: there PyTorch asks how it counts elements.
_HUGE: Final = 10**8


@dataclass
class Beyond:
    """What lies beyond the usual sizes.

    `cases` are to be recorded as well, `lines` are the author's that decide there; `limits` are the
    largest sizes of axes in one call.
    """

    cases: list[Case] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)

    def limit(self, axis: str, most: int) -> None:
        """Keeps an axis from becoming larger."""
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

    `guards` are comparisons that are known already; `ask` tells what the author's code compares at
    given sizes. It is asked again wherever one turns: behind it may stand others.

    Raises:
        ExportError: too many sizes would have to be tried, or one of two axes is out of reach.
    """
    usual, multiple = network.example.sizes, contract.streaming.chunk_multiple
    tried: dict[str, tuple[int, ...]] = {axis: (size,) for axis, size in usual.items()}
    tried["batch"] += BATCHES
    tried["time"] = (usual["time"], *usual_times(contract))
    beyond, seen = Beyond(), set[tuple[tuple[str, int], ...]]()

    def runs(sizes: Sizes) -> bool:
        return answers(sizes) is not None

    def answers(sizes: Sizes) -> Answers | None:
        with unchanged_globals(seed=0), torch.no_grad(), contextlib.suppress(ExportError):
            return run_reference(network, contract, case_at(network, contract, sizes))
        return None

    waiting = [*ask(usual), *guards]
    while waiting:
        found = turns(waiting.pop(0), tried, multiple)
        for turn in _with_next(found, multiple):
            key = tuple(sorted(turn.sizes.items()))
            if key in seen or not network.example.axes >= turn.sizes.keys():
                continue
            seen.add(key)
            if len(seen) > _MOST_SIZES:
                raise _too_many(network.module.network, turn.line)
            if turn.size > reach(network.module, turn.axis):
                leave(beyond, turn, network.module.network)
            elif (answer := answers(turn.sizes)) is not None:
                case = case_at(network, contract, turn.sizes)
                _check_shapes(network.module.network, contract, case, answer, turn)
                beyond.cases.append(case)
                if turn.line is not None:
                    beyond.lines.append(f"{described(turn.sizes)} ({turn.line})")
                waiting += ask({**usual, **turn.sizes})
            elif turn.size > usual[turn.axis]:
                beyond.limit(turn.axis, largest(turn, usual[turn.axis], runs))
    beyond.cases = [case for case in beyond.cases if beyond.allows(case)]
    return beyond


def _check_shapes(
    network: nn.Module, contract: Contract, case: Case, answers: Answers, turn: Turn
) -> None:
    """Refuses results that have not the shapes that the contract says."""
    try:
        check_case(contract, replace(case, truth={n: rows.table for n, rows in answers.items()}))
    except ValueError as error:
        where = f" ({turn.line})" if turn.line else ""
        raise ExportError(
            f"{type(network).__qualname__} does otherwise at {described(turn.sizes)}{where}: "
            f"{error}. Let it do the same at every size."
        ) from error


def _with_next(found: Iterable[Turn], multiple: int) -> Iterator[Turn]:
    """Each turn, and the next size behind it: a slice ends at a size, and cuts from the next on."""
    for turn in found:
        yield turn
        step = multiple if turn.axis == "time" else 1
        yield replace(turn, sizes={**turn.sizes, turn.axis: turn.size + step})


def check_loops(network: nn.Module, method: str, folded: nn.Module, example: Example) -> Beyond:
    """Holds a network with its loops rolled up against its author's where comparisons turn.

    The numbers of steps are compared as sizes are. Not every number that counts steps is seen, so
    that both are also run over more steps than any number that the author's code mentions, if that
    can be done. Computed is in float64.

    Raises:
        ExportError: the results differ at a size that can be tried.
    """
    tried: dict[str, Sequence[int]] = {axis: (size,) for axis, size in example.sizes.items()}
    tried |= {"batch": (1, 2, 3), "time": (1, 2, 3, 8, 13), STEP: range(13)}
    beyond, seen = Beyond(), set[int]()
    author, other = float64_copy(network).eval(), float64_copy(folded).eval()

    def runs(sizes: Sizes) -> bool:
        try:
            results_in_float64(author, method, example, sizes)
        except Exception:  # the user's forward may raise anything
            return False
        return True

    short = {**example.sizes, "time": _ASKED_STEPS}
    steps = min(max(_LONG, _TIMES * largest_mentioned(network)) + 1, reach(network, "time"))
    far = Turn("time", {"time": steps}, None, direct=False)
    every = [
        turn for one in compared(network, method, example, short) for turn in turns(one, tried)
    ]
    for turn in (*map(_in_steps, every), far):
        if turn.size in seen or not example.axes >= turn.sizes.keys():
            continue
        seen.add(turn.size)
        if turn.size > reach(network, turn.axis):
            leave(beyond, turn, network)
        elif not runs(turn.sizes):
            if turn.size > example.sizes[turn.axis]:
                beyond.limit(turn.axis, largest(turn, example.sizes[turn.axis], runs))
        elif not same_in_float64(author, method, other, example, turn.sizes):
            where = f" ({turn.line})" if turn.line else ""
            raise ExportError(
                f"The loop over time in {type(network).__qualname__} does not do the same in every "
                f"step: at {described(turn.sizes)} the results differ from those of the step that "
                f"it was seen to repeat{where}. Let every step do the same, or export one step of "
                "it and loop outside."
            )
    return beyond


def _in_steps(turn: Turn) -> Turn:
    """Where the number of a step turns, so many and one more steps are run."""
    if turn.axis != STEP:
        return turn
    others = {axis: size for axis, size in turn.sizes.items() if axis != STEP}
    return replace(turn, axis="time", sizes={**others, "time": turn.size + 1})


def reach(network: nn.Module, axis: str) -> int:
    """The largest size of an axis that a network of this size is run at."""
    parameters = max(sum(parameter.numel() for parameter in network.parameters()), 1)
    most = max(_FEWEST_STEPS, min(_WORK // parameters, _MOST_STEPS))
    return most if axis in ("time", STEP) else most // 4


def leave(beyond: Beyond, turn: Turn, network: nn.Module) -> None:
    """Leaves what cannot be tried to the contract, whose limits the runtime keeps.

    Raises:
        ExportError: it depends on several axes at once.
    """
    if prod(turn.sizes.values()) >= _HUGE and not turn.direct:
        return
    if len(turn.sizes) > 1:
        where = f" ({turn.line})" if turn.line else ""
        raise ExportError(
            f"{type(network).__qualname__} may do otherwise at {described(turn.sizes)}{where}, "
            "which is too large to be tried. Let it do the same at every size."
        )
    beyond.limit(turn.axis, turn.size - 1)


def largest(turn: Turn, least: int, runs: Callable[[Sizes], bool]) -> int:
    """The largest size of an axis that a network runs at, which it does at `least`."""
    most, fails = least, turn.size
    while fails - most > 1:
        middle = (most + fails) // 2
        most, fails = (middle, fails) if runs({**turn.sizes, turn.axis: middle}) else (most, middle)
    return most


def described(sizes: Sizes) -> str:
    """Sizes as people write them: "batch 33, time 7"."""
    return ", ".join(f"{axis} {size}" for axis, size in sorted(sizes.items()))


def _too_many(network: nn.Module, line: Line | None) -> ExportError:
    return ExportError(
        f"{type(network).__qualname__} compares sizes with too many others to try them all"
        f"{f' ({line})' if line else ''}. Let it do the same at every size."
    )

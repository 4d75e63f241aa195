# SPDX-License-Identifier: Apache-2.0
"""Whether a network with its loops rolled up is still the author's network."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.errors import first_line

from ..errors import ExportError
from ..network.example import USUAL_TIME, Arguments, Example
from ..network.explicit import Calls, Firsts, at_positions
from ..network.isolation import computing_in, evaluation_twin, float64_copy, unchanged_globals
from ..network.scan import NoStepError

#: (batch, time) that were not traced, odd and even; one step, because a loop may start differently;
#: the usual length, at which the other network is traced; and one longer than all that are traced.
_SIZES: Final = ((1, 1), (2, 2), (3, 3), (2, USUAL_TIME), (2, 8), (1, 13), (1, 23))
#: (batch, time) with more rounds than those that were traced.
FOR_ROUNDS: Final = ((2, 67), (1, 301))
#: The same for numbers of steps: a warm-up, or a floor, changes the law of a number late.
FOR_NUMBERS: Final = ((2, 67), (1, 4099))
_CALLS: Final = 3
#: The fewest steps at which loops are found.
_FEWEST_TRACED: Final = 5
#: The positions of states that are lifted, by the number of the call.
Lifted = Mapping[int, Sequence[int]]
#: Up to this number of states, every choice of remembered states is tried; above, all or none.
_MOST_STATES_CHOSEN: Final = 4


def check_folded(
    network: nn.Module,
    method: str,
    folded: nn.Module,
    example: Example,
    *,
    has_loops: bool,
    further: Sequence[tuple[int, int]] = (),
) -> None:
    """Compares both networks at sizes that were not traced.

    Usual sizes at which the author's network fails are left out. `has_loops` says whether a loop
    was found at all; `further` are more sizes.

    Raises:
        ExportError: the results differ, or the author's network fails at further sizes where the
            other one does not.
    """
    name = type(network).__qualname__
    for batch, count in (*_SIZES, *further):
        time = count * example.time_multiple
        arguments = example.make({**example.sizes, "batch": batch, "time": time}, seed=time)
        try:
            expected = _results(evaluation_twin(network), method, arguments)
        except Exception as error:
            if (batch, count) in further:
                _check_fails_too(folded, arguments, name, error)
            continue  # too short for it, perhaps; `record` runs all sizes again

        try:
            actual = _results(folded, "forward", arguments)
        except Exception as error:
            # The shortest length that the file takes may be greater, but not than the usual one.
            is_short = isinstance(error, NoStepError) and count < USUAL_TIME
            if is_short or (has_loops and count < _FEWEST_TRACED):
                continue
            problem = f"it fails: {first_line(error)}"
            raise _refusal(name, time, problem, has_loops=has_loops) from error

        if _all_close(expected, actual):
            continue
        # Long sums differ by their rounding.
        sizes = {"batch": batch, "time": time}
        if not _agree_in_float64(network, method, folded, example, sizes):
            raise _refusal(name, time, "the results differ", has_loops=has_loops)


def _agree_in_float64(
    network: nn.Module, method: str, folded: nn.Module, example: Example, sizes: Mapping[str, int]
) -> bool:
    """Whether both networks give the same in float64, or the author's gives no finite numbers.

    Products of decays over a long sequence overflow where they are computed all at once, and not
    step by step.
    """
    double = float64_copy(network)
    expected = results_in_float64(double, method, example, sizes)
    if not all(bool(result.isfinite().all()) for result in expected):
        return True
    return same_in_float64(double, method, float64_copy(folded), example, sizes)


def _check_fails_too(
    folded: nn.Module, arguments: Arguments, name: str, failure: Exception
) -> None:
    """Checks that a network with rolled-up loops ends where the author's does.

    Numbers in a list, as `self.scales[t]`, may follow a law as far as the list goes.

    Raises:
        ExportError: it goes on.
    """
    try:
        _results(folded, "forward", arguments)
    except Exception:  # as it should
        return
    raise ExportError(
        f"The loop over time in {name} fails in a long sequence: {first_line(failure)}. A file "
        "would go on there. Compute the numbers of the steps from t, or put all of them into a "
        "tensor and take it as a whole: x * scales[: x.shape[1], None]."
    ) from failure


def check_memory(
    network: nn.Module, method: str, folded: nn.Module, example: Example, lifted: Lifted
) -> None:
    """Checks that the author's network remembers lifted states from call to call, or nothing.

    The author's network may remember some of them, and start the others from their first values in
    every call.

    Raises:
        ExportError: it remembers something else.
    """
    twin = evaluation_twin(network)
    calls = [example.make(example.sizes, seed=number + 1) for number in range(_CALLS)]
    expected = [_results(twin, method, arguments) for arguments in calls]

    for remembered in _choices_of_states(lifted):
        positions = {call: lifted[call] for call in remembered}
        answers = _remembering(folded, calls, positions)
        pairs = zip(expected, answers, strict=True)
        if all(starmap(_all_close, pairs)):
            return

    raise ExportError(
        f"{type(network).__qualname__} remembers something from call to call, and does not simply "
        "go on from where its loop ended. Take the state as an argument and return the next one."
    )


def results_in_float64(
    network: nn.Module, method: str, example: Example, sizes: Mapping[str, int], nudge: float = 0.0
) -> list[Tensor]:
    """The results of a network in float64 at some sizes.

    `nudge` is a relative change of every number that goes in.

    Raises:
        Exception: whatever the network raises.
    """
    arguments = example.make({**example.sizes, **sizes}, seed=1)
    arguments = pytree.tree_map(lambda leaf: _nudge_float(leaf, nudge), arguments)
    with computing_in(torch.float64):
        return _results(evaluation_twin(network), method, arguments)


def same_in_float64(
    network: nn.Module, method: str, folded: nn.Module, example: Example, sizes: Mapping[str, int]
) -> bool:
    """Whether both networks give the same in float64, apart from rounding.

    A network that amplifies small differences counts as the same: its own results change as much
    when its input changes a little.
    """
    expected = results_in_float64(network, method, example, sizes)
    try:
        actual = results_in_float64(folded, "forward", example, sizes)
    except NoStepError:  # the shortest length that the file takes is greater
        return True
    except Exception:  # which the author's network does not raise
        return False

    if _all_close(expected, actual):
        return True
    nudged = results_in_float64(network, method, example, sizes, 1e-12)
    return not _all_close(expected, nudged)


def _choices_of_states(lifted: Collection[int]) -> Iterator[tuple[int, ...]]:
    """The sets of states that the network may remember, the smallest first."""
    counts: Iterable[int] = (0, len(lifted))
    if len(lifted) <= _MOST_STATES_CHOSEN:
        counts = range(len(lifted) + 1)
    for count in counts:
        yield from itertools.combinations(lifted, count)


def _nudge_float(leaf: Any, nudge: float) -> Any:
    is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.double() * (1 + nudge) if is_float else leaf


def _remembering(
    folded: nn.Module, calls: Iterable[Arguments], remembered: Lifted
) -> Iterator[list[Tensor]]:
    """The results of successive calls, where the states of some loops go on from call to call."""
    firsts: dict[int, Firsts] = {}
    for arguments in calls:
        with Calls(firsts) as recorded:
            results = _results(folded, "forward", arguments)

        firsts = {}
        for call, positions in remembered.items():
            lasts = [recorded.lasts[call][position] for position in positions]
            firsts[call] = at_positions(lasts, positions)
        yield results


def _results(module: nn.Module, method: str, arguments: Arguments) -> list[Tensor]:
    with unchanged_globals(seed=0), torch.no_grad():
        returned = getattr(module, method)(*arguments.args, **arguments.kwargs)
    return [leaf.clone() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]


def _all_close(expected: list[Tensor], actual: list[Tensor]) -> bool:
    if len(expected) != len(actual):
        return False
    return all(starmap(_is_close, zip(expected, actual, strict=True)))


def _is_close(expected: Tensor, actual: Tensor) -> bool:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    return torch.allclose(expected, actual, rtol=1e-4, atol=1e-5, equal_nan=True)


def _refusal(name: str, time: int, problem: str, *, has_loops: bool) -> ExportError:
    if not has_loops:
        return ExportError(
            f"{name} takes another way at another number of time steps, and it has no loop over "
            f"single steps: as at 5 steps, but run over {time}, {problem}. It may cut the sequence "
            "into as many chunks as fit, leave steps out, or branch on its length. Let every step "
            "do the same, over all that forward is given; the chunks of a stream may have any "
            "length."
        )
    return ExportError(
        f"The loop over time in {name} does not do the same in every step: seen at two lengths and "
        f"then run over {time} steps, {problem}. Let every step do the same, or export one step of "
        "it and loop outside."
    )

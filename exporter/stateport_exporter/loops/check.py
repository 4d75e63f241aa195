"""Whether a network with its loops rolled up is still the author's network."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stateport.errors import first_line

from ..errors import ExportError
from ..network.example import Arguments, Example
from ..network.explicit import Calls
from ..network.isolation import computing_in, evaluation_twin, unchanged_globals

#: Sizes other than those traced, odd and even; one step, because a loop may start in its own way.
_SIZES: Final = ((1, 1), (2, 2), (3, 3), (2, 8), (1, 13))
_CALLS: Final = 3
#: Of up to so many states is tried which ones are kept; of more, all or none.
_MOST_KEPT: Final = 4


def check_folded(network: nn.Module, method: str, folded: nn.Module, example: Example) -> None:
    """Runs both at sizes that were not traced. Sizes that the author's network fails on are left.

    Raises:
        ExportError: the results differ.
    """
    name = type(network).__qualname__
    for batch, time in _SIZES:
        arguments = example.make({**example.sizes, "batch": batch, "time": time}, seed=time)
        try:
            expected = _results(evaluation_twin(network), method, arguments)
        except Exception:  # noqa: S112  # too short for it, perhaps; `record` runs all sizes again
            continue
        try:
            answer = _results(folded, "forward", arguments)
        except Exception as error:
            raise _other(name, time, f"it fails: {first_line(error)}") from error
        if not _close(expected, answer):
            raise _other(name, time, "the results differ")


def check_memory(
    network: nn.Module, method: str, folded: nn.Module, example: Example, lifted: Collection[int]
) -> None:
    """Checks what the author's network remembers from call to call: lifted states, or nothing.

    `lifted` are the numbers of the calls whose states are lifted. The author's network may keep
    some of them, and start the others anew in every call.

    Raises:
        ExportError: it goes on from something else.
    """
    twin = evaluation_twin(network)
    calls = [example.make(example.sizes, seed=number + 1) for number in range(_CALLS)]
    expected = [_results(twin, method, arguments) for arguments in calls]
    counts = range(len(lifted) + 1) if len(lifted) <= _MOST_KEPT else (0, len(lifted))
    for kept in itertools.chain.from_iterable(itertools.combinations(lifted, n) for n in counts):
        answers = _remembering(folded, calls, kept)
        if all(_close(a, b) for a, b in zip(expected, answers, strict=True)):
            return
    raise ExportError(
        f"{type(network).__qualname__} remembers something from call to call, and does not simply "
        "go on from where its loop ended. Take the state as an argument and return the next one."
    )


def results_in_float64(
    network: nn.Module, method: str, example: Example, sizes: Mapping[str, int], nudge: float = 0.0
) -> list[Tensor]:
    """The results of a network in float64 at some sizes, with all numbers a little off by `nudge`.

    Raises:
        Exception: whatever the network raises.
    """
    arguments = example.make({**example.sizes, **sizes}, seed=1)
    arguments = pytree.tree_map(lambda leaf: _exact(leaf, nudge), arguments)
    with computing_in(torch.float64):
        return _results(evaluation_twin(network), method, arguments)


def same_in_float64(
    network: nn.Module, method: str, folded: nn.Module, example: Example, sizes: Mapping[str, int]
) -> bool:
    """Whether both give the same, as far as rounding can tell: they are computed in float64.

    A network that amplifies differences gives something else by itself, once all is a little off.
    """
    expected = results_in_float64(network, method, example, sizes)
    try:
        answer = results_in_float64(folded, "forward", example, sizes)
    except Exception:  # which the author's network does not raise
        return False
    if _close(expected, answer):
        return True
    return not _close(expected, results_in_float64(network, method, example, sizes, 1e-12))


def _exact(leaf: Any, nudge: float) -> Any:
    is_float = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.double() * (1 + nudge) if is_float else leaf


def _remembering(
    folded: nn.Module, calls: Iterable[Arguments], kept: Collection[int]
) -> Iterator[list[Tensor]]:
    """The results of one call after the other, where the states of some go on."""
    given: Mapping[int, tuple[Tensor, ...]] = {}
    for arguments in calls:
        with Calls(given) as recorded:
            answer = _results(folded, "forward", arguments)
        given = {call: recorded.lasts[call] for call in kept}
        yield answer


def _results(module: nn.Module, method: str, arguments: Arguments) -> list[Tensor]:
    with unchanged_globals(seed=0), torch.no_grad():
        returned = getattr(module, method)(*arguments.args, **arguments.kwargs)
    return [leaf.clone() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]


def _close(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape
        and x.dtype == y.dtype
        and torch.allclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


def _other(name: str, time: int, how: str) -> ExportError:
    return ExportError(
        f"The loop over time in {name} does not do the same in every step: seen at two lengths and "
        f"then run over {time} steps, {how}. Let every step do the same, or export one step of it "
        "and loop outside."
    )

"""Whether a network with its loops rolled up is still the author's network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..example import Arguments, Example
from ..explicit import Calls
from ..guard import evaluation_twin, unchanged_globals

#: Sizes other than those traced, odd and even; one step, because a loop may start in its own way.
_SIZES: Final = ((1, 1), (2, 2), (3, 3), (2, 8), (1, 13))
_CALLS: Final = 3


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
            raise _other(name, time, f"it fails: {error}") from error
        if not _close(expected, answer):
            raise _other(name, time, "the results differ")


def check_memory(
    network: nn.Module, method: str, folded: nn.Module, example: Example, lifted: Collection[int]
) -> None:
    """Checks what the author's network remembers from call to call: nothing, or the lifted states.

    `lifted` are the numbers of the calls whose states are lifted.

    Raises:
        ExportError: it goes on from something else.
    """
    twin = evaluation_twin(network)
    given: Mapping[int, tuple[Tensor, ...]] = {}
    forgets = remembers = True
    for number in range(_CALLS):
        arguments = example.make(example.sizes, seed=number + 1)
        expected = _results(twin, method, arguments)
        forgets = forgets and _close(expected, _results(folded, "forward", arguments))
        with Calls(given) as calls:
            answer = _results(folded, "forward", arguments)
        remembers = remembers and _close(expected, answer)
        given = {call: calls.lasts[call] for call in lifted}
    if not forgets and not remembers:
        raise ExportError(
            f"{type(network).__qualname__} remembers something from call to call, and does not "
            "simply go on from where its loop ended. Take the state as an argument and return the "
            "next one."
        )


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

"""Whether a network gives the same results again, once its recurrent states are in the open."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .errors import ExportError
from .example import Arguments, Example
from .explicit import Calls, Explicit
from .guard import evaluation_twin, unchanged_globals
from .lifting import Hidden

#: A memory may show only some calls later, as a delay line does.
_CALLS: Final = 8


def check_repeatable(explicit: Explicit, example: Example) -> None:
    """Runs the network again and again on the same arguments and states.

    Raises:
        ExportError: it keeps something else from call to call than the states of its recurrent
            layers, or it draws random numbers.
    """
    arguments = example.make(example.sizes)
    network = evaluation_twin(explicit.network)
    before = dict(_kept(network))
    first, *later = (_results(explicit, network, arguments, seed=1) for _ in range(_CALLS))
    if not all(_same(first, other) for other in later):
        changed = [name for name, value in _kept(network) if before.get(name) is not value]
        raise ExportError(
            "The network remembers something from call to call that is no state of a recurrent "
            f"layer ({', '.join(changed) or 'changed in place'}). In an ONNX file that would be "
            "lost: take it as an argument of forward and return the next one."
        )
    if not _same(first, _results(explicit, evaluation_twin(explicit.network), arguments, seed=2)):
        raise ExportError(
            "The network draws random numbers, in evaluation mode too, so its results cannot be "
            "checked. Leave them out, or take them as an argument of forward."
        )


def check_carried(explicit: Explicit, example: Example, hidden: Sequence[Hidden]) -> None:
    """Checks that a state which is lifted is what the network itself would go on from.

    The network runs three times on other inputs, as its author would run it. Each call of a layer
    must start as the first time, or from where it ended the last time.

    Raises:
        ExportError: the network changes its state between calls, or had one before it was exported.
    """
    network = evaluation_twin(explicit.network)
    runs = []
    for number in range(3):
        arguments = example.make(example.sizes, seed=number + 1)
        with unchanged_globals(number), torch.no_grad(), Calls({}) as calls:
            getattr(network, explicit.method)(*arguments.args, **arguments.kwargs)
        runs.append(calls)
    for one in hidden:
        starts = [list(run.firsts[one.call]) for run in runs]
        ends = [[end.clone() for end in run.lasts[one.call]] for run in runs]
        if all(_same(starts[0], start) for start in starts):
            continue
        if not all(_same(start, end) for start, end in zip(starts[1:], ends, strict=False)):
            raise ExportError(
                "The network changes the state that it keeps between calls (scales, masks or "
                "exchanges it). Take the state as an argument and return the next one."
            )
        if any(value is not None for value in one.initial):
            raise ExportError(
                "The network still holds the state of an earlier sequence. Reset it before it is "
                "exported."
            )


def check_default_start(explicit: Explicit, example: Example, states: Collection[str]) -> None:
    """Checks that states which may be left out start from zeros then, as the contract says.

    `states` are the parameters of forward that take a state.

    Raises:
        ExportError: forward starts from something else when a state is None.
    """
    optional = [name for name in states if example.defaults.get(name, ...) is None]
    if not optional:
        return
    arguments = example.named(example.make(example.sizes))
    given = {name: value for name, value in arguments.items() if name not in optional}
    network = evaluation_twin(explicit.network)
    with unchanged_globals(1), torch.no_grad(), Calls({}) as calls:
        getattr(network, explicit.method)(**given)
    if any(bool(state.any()) for call in calls.firsts for state in call):
        raise ExportError(
            f"Without {optional[0]!r}, forward starts from other values than zeros. Leave "
            f"{optional[0]!r} out of the example: the start is then lifted, and kept in the file."
        )


def _results(
    explicit: Explicit, network: nn.Module, arguments: Arguments, seed: int
) -> list[Tensor]:
    given = dict(zip(explicit.lifted, arguments.states, strict=True))
    with unchanged_globals(seed), torch.no_grad(), Calls(given):
        result = getattr(network, explicit.method)(*arguments.args, **arguments.kwargs)
    return [leaf.clone() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and bool(torch.isclose(x, y, rtol=0, atol=0, equal_nan=True).all())
        for x, y in zip(a, b, strict=True)
    )


def _kept(network: nn.Module) -> Iterator[tuple[str, object]]:
    """What a module may keep things in: attributes and buffers, by their paths."""
    for path, module in network.named_modules():
        for name, value in {**vars(module), **module._buffers}.items():
            if not name.startswith("_") or name in module._buffers:
                yield (f"{path}.{name}" if path else name), value

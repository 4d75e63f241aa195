"""Whether a network gives the same results again, once its recurrent states are in the open."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..network.example import Arguments, Example
from ..network.explicit import Calls, Explicit
from ..network.isolation import evaluation_twin, unchanged_globals
from .hidden import Hidden

#: A memory may show only some calls later, as a delay line does.
_CALLS: Final = 8
#: ONNX's operators that draw random numbers.
_CHANCE: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)


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
        changed = _no_states(explicit, network, arguments, changed) or changed
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


def check_chance(model: ir.Model) -> None:
    """Refuses a graph that draws random numbers, however seldom something depends on them.

    Raises:
        ExportError: with what draws them.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in _CHANCE:
            raise ExportError(
                f"The network draws random numbers ({node.op_type}), in evaluation mode too, so "
                "its results cannot be checked. Leave them out, or take them as an argument of "
                "forward."
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
        calls = Calls({})
        with unchanged_globals(number), torch.no_grad():
            calls.run(getattr(network, explicit.method), arguments.args, arguments.kwargs)
        runs.append(calls)
    for one in hidden:
        starts = [list(run.firsts[one.call]) for run in runs]
        ends = [[end.clone() for end in run.lasts[one.call]] for run in runs]
        if all(_same(starts[0], start) for start in starts):
            continue
        if not all(_same(start, end) for start, end in zip(starts[1:], ends, strict=False)):
            raise ExportError(
                f"The network changes the state that it keeps between calls for {one.name!r} "
                "(scales, masks or exchanges it). Take the state as an argument and return the "
                "next one."
            )
        if any(value is not None for value in one.initial):
            raise ExportError(
                f"The network still holds the state of an earlier sequence for {one.name!r}. Reset "
                "it before it is exported."
            )


def check_default_start(
    network: nn.Module, method: str, example: Example, states: Collection[str]
) -> None:
    """Checks that states which may be left out start from zeros then, as the contract says.

    `states` are the parameters of the method that take a state.

    Raises:
        ExportError: the method starts from something else when a state is None.
    """
    optional = [name for name in dict.fromkeys(states) if example.defaults.get(name, ...) is None]
    if not optional:
        return
    arguments = example.named(example.make(example.sizes))
    zeros = pytree.tree_map(torch.zeros_like, {name: arguments.pop(name) for name in optional})

    def results(given: dict[str, Any]) -> list[Tensor]:
        run = getattr(evaluation_twin(network), method)
        with unchanged_globals(1), torch.no_grad():
            returned = Calls({}).run(run, (), given)
        return [leaf for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]

    try:
        without = results(arguments)
    except Exception:  # it cannot be left out after all: h without c, for example
        return
    if not _same(without, results({**arguments, **zeros})):
        raise ExportError(
            f"Without {optional[0]!r}, forward starts from other values than zeros. Leave "
            f"{optional[0]!r} out of the example: the start is then lifted, and kept in the file."
        )


def check_padding(explicit: Explicit, example: Example, packed: Sequence[str]) -> None:
    """Checks that results do not depend on how far rows are padded, beyond those steps themselves.

    `packed` are the layers that run over packed sequences.

    PyTorch unpacks as far as the longest row, an ONNX file as far as its input. A network that
    cannot run where these differ needs no check.

    Raises:
        ExportError: forward computes with the padding.
    """
    if not example.lengths:
        return
    network, shapes = evaluation_twin(explicit.network), None
    for seed in range(_CALLS):
        arguments = example.make(example.sizes, seed, longest=2 + seed % 3)
        padded = _results(explicit, network, arguments, seed)
        before, shapes = shapes or [r.shape for r in padded], [r.shape for r in padded]
        if shapes != before:
            raise ExportError(
                f"Behind {', '.join(packed)}, forward returns something whose size depends on the "
                "lengths of rows, as the data of a packed sequence does. Return the packed "
                "sequence itself, or unpack it first (pad_packed_sequence)."
            )
        try:
            cut = _results(explicit, network, arguments, seed, cut=True)
        except Exception:  # noqa: S112  # the user's forward may raise anything
            continue
        for result, short in zip(padded, cut, strict=True):
            part = result[tuple(slice(size) for size in short.shape)]
            if not torch.allclose(part, short, rtol=1e-3, atol=1e-5, equal_nan=True):
                raise ExportError(
                    f"Behind {', '.join(packed)}, forward computes with the padding after the "
                    "longest row. PyTorch pads as far as that row, an ONNX file as far as its "
                    "input goes, so the results differ. Pass total_length=x.size(1) to "
                    "pad_packed_sequence, or leave the padding out with a mask."
                )


def _results(
    explicit: Explicit,
    network: nn.Module,
    arguments: Arguments,
    seed: int,
    *,
    cut: bool = False,
) -> list[Tensor]:
    given = _given(explicit, arguments)
    run = getattr(network, explicit.method)
    with unchanged_globals(seed), torch.no_grad():
        result = Calls(given, cut=cut).run(run, arguments.args, arguments.kwargs)
    return [leaf.clone() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _given(explicit: Explicit, arguments: Arguments) -> dict[int, tuple[Tensor, ...]]:
    """The lifted states by call, without those of contexts: the network puts zeros there itself."""
    return dict(zip(explicit.lifted, arguments.states, strict=False))


def _no_states(
    explicit: Explicit, network: nn.Module, arguments: Arguments, names: Sequence[str]
) -> list[str]:
    """Those of the things that a network keeps that are not the last states of its layers."""
    given = _given(explicit, arguments)
    with unchanged_globals(1), torch.no_grad(), Calls(given) as calls:
        getattr(network, explicit.method)(*arguments.args, **arguments.kwargs)
    lasts = [[state] for call in calls.lasts for state in call]
    kept = dict(_kept(network))
    return [
        name
        for name in names
        if not all(
            isinstance(leaf, Tensor) and any(_same([leaf], last) for last in lasts)
            for leaf in pytree.tree_leaves(kept[name])
        )
    ]


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

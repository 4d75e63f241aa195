# SPDX-License-Identifier: Apache-2.0
"""Whether a network gives the same results again, once its recurrent states are in the open."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import starmap
from typing import Any, Final

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..memory.kept import contents, shared_names, slots
from ..network.example import Arguments, Example
from ..network.explicit import Calls, Explicit, Firsts, States
from ..network.isolation import evaluation_twin, unchanged_globals
from ..network.trees import agree, tensors_in
from .hidden import Hidden

#: A memory may show only some calls later, as a delay line does.
_CALLS: Final = 8
#: A state that is carried shows from the second call on, and one that is changed from the third.
_RUNS: Final = 3
#: ONNX's operators that draw random numbers.
_RANDOM: Final = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)


def check_repeatable(explicit: Explicit, example: Example) -> None:
    """Runs the network several times on the same arguments and states.

    Raises:
        ExportError: it keeps something else from call to call than the states of its recurrent
            layers, or it draws random numbers.
    """
    arguments = example.make(example.sizes)
    network = evaluation_twin(explicit.network)
    before = contents(network)
    first, *later = (_results(explicit, network, arguments, seed=1) for _ in range(_CALLS))

    if not all(_same(first, results) for results in later):
        shared = shared_names(network)
        changed = []
        for name, content in contents(network).items():
            if name not in shared and before.get(name) != content:
                changed.append(name)

        changed = _not_last_states(explicit, network, arguments, changed) or changed
        raise ExportError(
            "The network remembers something from call to call that is no state of a recurrent "
            f"layer ({', '.join(changed) or 'changed in place'}). In an ONNX file that would be "
            "lost: take it as an argument of forward and return the next one."
        )

    reseeded = _results(explicit, evaluation_twin(explicit.network), arguments, seed=2)
    if not _same(first, reseeded):
        raise _draws_random_numbers()


def check_chance(model: ir.Model) -> None:
    """Refuses a graph that draws random numbers, however seldom a result depends on them.

    Raises:
        ExportError: with the operator that draws them.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in _RANDOM:
            raise _draws_random_numbers(f" ({node.op_type})")


def _draws_random_numbers(operator: str = "") -> ExportError:
    return ExportError(
        f"The network draws random numbers{operator}, in evaluation mode too, so its results "
        "cannot be checked. Leave them out, or take them as an argument of forward."
    )


def check_carried(explicit: Explicit, example: Example, hidden: Sequence[Hidden]) -> None:
    """Checks that a state which is lifted is the one from which the network itself goes on.

    The network runs three times on different inputs, as its author would run it. Each call of a
    layer must start as the first time, or from where it ended the last time.

    Raises:
        ExportError: the network changes its state between calls, or had one before it was exported.
    """
    network = evaluation_twin(explicit.network)
    runs = [_run_as_author(explicit, network, example, number) for number in range(_RUNS)]

    for layer in hidden:
        starts = [_states_of(layer, run.firsts) for run in runs]
        # Copies, because a network may change its states in place.
        ends = [[end.clone() for end in _states_of(layer, run.lasts)] for run in runs]
        starts_the_same = all(_same(starts[0], start) for start in starts)
        if not starts_the_same:
            _check_goes_on(layer, starts, ends)


def _states_of(layer: Hidden, calls: Sequence[States]) -> list[Tensor]:
    """The states of a layer that are lifted, of those of all calls."""
    return [calls[layer.call][position] for position in layer.positions]


def _run_as_author(explicit: Explicit, network: nn.Module, example: Example, number: int) -> Calls:
    """Runs the network without states from outside; the calls of its layers."""
    arguments = example.make(example.sizes, seed=number + 1)
    calls = Calls({})
    with unchanged_globals(number), torch.no_grad():
        calls.run(getattr(network, explicit.method), arguments.args, arguments.kwargs)
    return calls


def _check_goes_on(
    layer: Hidden, starts: Sequence[list[Tensor]], ends: Sequence[list[Tensor]]
) -> None:
    """Checks that a layer starts from where it ended in the run before, and first from zeros."""
    pairs = zip(starts[1:], ends, strict=False)
    if not all(starmap(_same, pairs)):
        raise ExportError(
            f"The network changes the state that it keeps between calls for {layer.name!r} "
            "(scales, masks or exchanges it). Take the state as an argument and return the "
            "next one."
        )
    if any(value is not None for value in layer.initial):
        raise ExportError(
            f"The network still holds the state of an earlier sequence for {layer.name!r}. Reset "
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
    optional = []
    for name in dict.fromkeys(states):
        if example.defaults.get(name, ...) is None:
            optional.append(name)

    if not optional:
        return

    arguments = example.named(example.make(example.sizes))
    first_states = {name: arguments.pop(name) for name in optional}
    zeros = pytree.tree_map(torch.zeros_like, first_states)

    def results(named: Mapping[str, Any]) -> list[Tensor]:
        run = getattr(evaluation_twin(network), method)
        with unchanged_globals(1), torch.no_grad():
            returned = Calls({}).run(run, (), named)
        return tensors_in(returned)

    try:
        without_states = results(arguments)
    except Exception:  # it cannot be left out after all: h without c, for example
        return

    if not _same(without_states, results({**arguments, **zeros})):
        raise ExportError(
            f"Without {optional[0]!r}, forward starts from other values than zeros. Leave "
            f"{optional[0]!r} out of the example: the start is then lifted, and kept in the file."
        )


def check_padding(explicit: Explicit, example: Example, packed: Sequence[str]) -> None:
    """Checks that only padding itself depends on how far rows are padded.

    `packed` are the layers that run over packed sequences.

    PyTorch unpacks as far as the longest row, an ONNX file as far as its input. A network that
    cannot run where these differ needs no check.

    Raises:
        ExportError: forward computes with the padding.
    """
    if not example.lengths:
        return
    network = evaluation_twin(explicit.network)
    layers = ", ".join(packed)
    shapes = None

    for seed in range(_CALLS):
        arguments = example.make(example.sizes, seed, longest=2 + seed % 3)
        padded = _results(explicit, network, arguments, seed)

        shapes_before, shapes = shapes, [result.shape for result in padded]
        if shapes_before and shapes_before != shapes:
            raise ExportError(
                f"Behind {layers}, forward returns something whose size depends on the "
                "lengths of rows, as the data of a packed sequence does. Return the packed "
                "sequence itself, or unpack it first (pad_packed_sequence)."
            )

        try:
            short = _results(explicit, network, arguments, seed, cut=True)
        except Exception:  # noqa: S112  # the user's forward may raise anything
            continue
        if not _same_without_padding(padded, short):
            raise ExportError(
                f"Behind {layers}, forward computes with the padding after the "
                "longest row. PyTorch pads as far as that row, an ONNX file as far as its "
                "input goes, so the results differ. Pass total_length=x.size(1) to "
                "pad_packed_sequence, or leave the padding out with a mask."
            )


def _same_without_padding(padded: Sequence[Tensor], short: Sequence[Tensor]) -> bool:
    """Whether results are the same as far as `short` goes, which ends with the longest row."""
    for result, reference in zip(padded, short, strict=True):
        part = result[tuple(map(slice, reference.shape))]
        if not torch.allclose(part, reference, rtol=1e-3, atol=1e-5, equal_nan=True):
            return False
    return True


def _results(
    explicit: Explicit,
    network: nn.Module,
    arguments: Arguments,
    seed: int,
    *,
    cut: bool = False,
) -> list[Tensor]:
    """Copies of the results; with `cut`, unpacking is only as long as the longest row."""
    calls = Calls(_first_states(explicit, arguments), cut=cut)
    run = getattr(network, explicit.method)
    with unchanged_globals(seed), torch.no_grad():
        returned = calls.run(run, arguments.args, arguments.kwargs)
    return [tensor.clone() for tensor in tensors_in(returned)]


def _first_states(explicit: Explicit, arguments: Arguments) -> dict[int, Firsts]:
    """The lifted states by call, without those of contexts: the network puts zeros there itself."""
    return explicit.first_states(arguments.states)


def _not_last_states(
    explicit: Explicit, network: nn.Module, arguments: Arguments, names: Sequence[str]
) -> list[str]:
    """The slots among `names` that hold something else than last states of layers."""
    with unchanged_globals(1), torch.no_grad(), Calls(_first_states(explicit, arguments)) as calls:
        getattr(network, explicit.method)(*arguments.args, **arguments.kwargs)
    last_states = [state for call in calls.lasts for state in call]

    def is_last_state(leaf: object) -> bool:
        if not isinstance(leaf, Tensor):
            return False
        return any(_same_values(leaf, state) for state in last_states)

    kept = slots(network)
    leaves = {name: pytree.tree_leaves(kept[name].value) for name in names}

    missing = []
    for name in names:
        if not all(map(is_last_state, leaves[name])):
            missing.append(name)
    return missing


def _same(results: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    """Whether all tensors are equal; NaN counts as equal to NaN."""
    return agree(_same_values, results, reference)


def _same_values(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())

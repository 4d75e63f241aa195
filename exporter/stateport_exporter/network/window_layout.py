# SPDX-License-Identifier: Apache-2.0
"""Where a network has steps: in its inputs, its recurrent layers and loops, and its results.

The network runs at three sizes. An axis that grows with the batch is the batch axis, and one that
grows with the number of steps is time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stateport.picking import present

from .example import Example
from .explicit import LAYERS, put_back
from .packing import is_packed
from .running_values import SUMS, values_of, with_dim
from .scan import scan
from .trees import tensors_in
from .windows import OVER_TIME, LayerSteps, Layout, Stretch, Window

#: The position of an argument of PyTorch's recurrent layers.
_BIDIRECTIONAL: Final = 7

_Shape = tuple[int, ...]


class UnclearError(Exception):
    """Windows cannot be put in front of a network's steps, or it is not clear where these are."""


def find_layout(network: nn.Module, method: str, example: Example, time: int) -> Layout:
    """Where the network has steps.

    Args:
        network: the author's network. It does not change.
        method: the method that is exported.
        example: what the method takes.
        time: the number of steps to run it with; twice as many are tried too.

    Raises:
        UnclearError: an input has an axis twice or no batch, a layer goes both ways or gets packed
            data, or something stretches over time in an unknown way.
    """
    taken = {leaf.path[0] for leaf in example.leaves}
    inputs = _windows_of_inputs(example, taken)

    batch = example.sizes["batch"]
    runs = []
    for sizes in ((batch, time), (batch + 1, time), (batch, 2 * time)):
        runs.append(_run_at(network, method, example, *sizes))
    other = _run_at(network, method, example, batch, time, seed=1)
    _check_alike([*runs, other])

    growth = _Growth(batch, time)
    names = (_free_name(name, taken) for name in _numbered("window_layer"))
    layers = []
    for *calls, with_others in zip(*(run.calls for run in (*runs, other)), strict=True):
        layer = _layer_steps(calls, names, growth)
        if layer is not None and _is_same_sum(calls[0], with_others):
            layer = replace(layer, is_fixed=True)
        layers.append(layer)
    outputs = growth.stretches([run.outputs for run in runs])
    return Layout(inputs, tuple(layers), tuple(outputs))


def _windows_of_inputs(example: Example, taken: set[str]) -> dict[int, Window]:
    """The windows of inputs over time, by their position; their names are none of those taken."""
    inputs = {}
    for number, leaf in enumerate(example.leaves):
        if "time" not in leaf.shape:
            continue
        if leaf.shape.count("time") != 1 or leaf.shape.count("batch") != 1:
            raise UnclearError(f"{leaf} has the axes {leaf.shape}")

        stretch = Stretch(leaf.shape.index("batch"), leaf.shape.index("time"))
        name = _free_name(f"window_{'_'.join(leaf.path)}", taken)
        inputs[number] = Window(name, stretch, leaf.shape, leaf.dtype)
    return inputs


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_state"
    return name


def _numbered(base: str) -> Iterator[str]:
    """base, base_1, base_2 and so on."""
    yield base
    for number in itertools.count(1):
        yield f"{base}_{number}"


class _Call(NamedTuple):
    """The shapes of what a layer or loop takes steps from, and of what it gives.

    `axis` is the one along which a running value runs; None for others, which run over time. `sums`
    are the values of a running sum.
    """

    takes: tuple[_Shape, ...]
    gives: tuple[_Shape, ...]
    dtypes: tuple[str, ...]
    axis: int | None = None
    sums: Tensor | None = None


class _Run(TorchFunctionMode):
    """What one run shows: the calls of recurrent layers and loops, and the shapes of results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.outputs: tuple[_Shape, ...] = ()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is scan:
            states, sequences = args[1:3]
            self._record(sequences, result[len(states) :])
        elif func in LAYERS:
            if is_packed(args) or args[_BIDIRECTIONAL]:
                raise UnclearError("a layer goes both ways, or gets packed data")
            self._record(args[:1], result[:1])
        elif func in OVER_TIME:
            values = values_of(result)
            axis = with_dim(kwargs).get("dim", args[1] if len(args) > 1 else 0)
            sums = values if func in SUMS else None
            self._record(args[:1], [values], axis % max(values.ndim, 1), sums)
        return result

    def _record(
        self,
        takes: Sequence[Tensor],
        gives: Sequence[Tensor],
        axis: int | None = None,
        sums: Tensor | None = None,
    ) -> None:
        dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in gives)
        self.calls.append(_Call(_shapes(takes), _shapes(gives), dtypes, axis, sums))


def _run_at(
    network: nn.Module, method: str, example: Example, batch: int, time: int, seed: int = 0
) -> _Run:
    arguments = example.make({"batch": batch, "time": time}, seed=seed)
    run = _Run()
    with put_back(network), torch.no_grad(), run:
        result = getattr(network, method)(*arguments.args, **arguments.kwargs)
    run.outputs = _shapes(tensors_in(result))
    return run


def _shapes(tensors: Sequence[Tensor]) -> tuple[_Shape, ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _check_alike(runs: Sequence[_Run]) -> None:
    """Refuses a network that has other layers or results at another size."""
    first = runs[0]
    for run in runs:
        if len(run.calls) != len(first.calls):
            raise UnclearError("the number of layers depends on sizes")
        if list(map(len, run.outputs)) != list(map(len, first.outputs)):
            raise UnclearError("the results depend on sizes")


@dataclass(frozen=True)
class _Growth:
    """The sizes of three runs: the usual ones, a batch larger by one, and twice the steps."""

    batch: int
    time: int

    def stretches(self, tensors: Sequence[Sequence[_Shape]]) -> list[Stretch | None]:
        """How each tensor stretches over time; `tensors` are their shapes in each run."""
        return list(map(self._stretch, *tensors))

    def _stretch(self, usual: _Shape, wider: _Shape, longer: _Shape) -> Stretch | None:
        """How a tensor stretches over time; None if it does not, or not in proportion."""
        batch_axes = [axis for axis, size in enumerate(usual) if wider[axis] != size]
        time_axes = [axis for axis, size in enumerate(usual) if longer[axis] != size]
        if len(batch_axes) != 1 or len(time_axes) != 1 or usual[batch_axes[0]] != self.batch:
            return None

        steps = usual[time_axes[0]]
        if longer[time_axes[0]] != 2 * steps:
            return None
        common = gcd(steps, self.time)
        return Stretch(batch_axes[0], time_axes[0], steps // common, self.time // common)


def _is_same_sum(call: _Call, with_others: _Call) -> bool:
    """Whether a running sum is the same for other inputs."""
    if call.sums is None or with_others.sums is None:
        return False
    return torch.equal(call.sums, with_others.sums)


def _layer_steps(
    calls: Sequence[_Call], names: Iterator[str], growth: _Growth
) -> LayerSteps | None:
    """Where a layer has steps, by its shapes in three runs; None if it does not run over time."""
    takes = growth.stretches([call.takes for call in calls])
    gives = growth.stretches([call.gives for call in calls])
    axis = calls[0].axis
    runs_along_another_axis = axis is not None and takes[0] is not None and takes[0].time != axis
    if runs_along_another_axis or not any([*takes, *gives]):
        return None

    taken, given = present(takes), present(gives)
    if len(taken) + len(given) < len(takes) + len(gives):
        raise UnclearError("a layer has steps in a part of what it takes and gives")

    results = zip(given, calls[0].gives, calls[0].dtypes, strict=True)
    windows = [Window(next(names), *result) for result in results]
    return LayerSteps(tuple(taken), tuple(windows))

"""Whether what a network keeps from call to call can ever matter.

A few calls that give the same say nothing of the thousandth. But a network can do otherwise there
only by what has changed until then. So everything is looked at that it may keep something in; where
something changes, it is asked whether results hang on it: by the graph for tensors, for numbers by
what they are compared with, and by what the network gives when they are as they will be.
"""

from __future__ import annotations

import contextlib
import itertools
import numbers
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import GeneratorType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..example import Arguments, Example
from ..guard import evaluation_twin, unchanged_globals
from ..sizes.foreseen import Watch
from .chance import foreseen_chance, standing
from .clocks import read_clocks
from .contents import Numbers
from .later import CONTAINERS, Later, Places, call, run, turning_calls
from .outside import Asked, asked_outside
from .slots import ENVIRONMENT, Slot, contents, put_back_shared, slots

#: So many calls later it is tried in any case.
_CALLS: Final = (1, 2, 3, 10, 100, 1000, 10_000, 1_000_000)
#: And after no more than so many others, of those that decide and of those that are mentioned.
_MOST_CALLS: Final = 24
#: So many calls are made where nothing else tells.
_FURTHER: Final = 128

#: Generators of random numbers that a network holds itself; of PyTorch's the graph tells.
_MOVING: Final = (random.Random, np.random.Generator, np.random.RandomState)

_Look = dict[str, Any]


def check_kept(network: nn.Module, method: str, example: Example, held: Sequence[Tensor]) -> None:
    """Runs a network as its author would, and looks at what it keeps.

    `held` are the tensors of the network that its graph reads.

    Raises:
        ExportError: results hang, or will hang, on something that changes from call to call.
    """
    twin = evaluation_twin(network)
    arguments = example.make(example.sizes)
    with put_back_shared(network):
        looks, drawn, asked = _looks(twin, method, example, arguments)
        for what, line in asked.lines.items():
            raise ExportError(
                f"The network asks for {what} in every call ({line}), which an ONNX file cannot. "
                "Take it as an argument of forward, or read it once, when the network is made."
            )
        _check_generators(twin, asked)
        if drawn:
            _check_chance(twin, method, arguments)
        _check_held(network, held, _changed(looks))
        clocks = read_clocks(twin)
        if _changed(looks[1:3]) or clocks:
            _check_changing(twin, method, arguments, clocks)


def _check_changing(twin: nn.Module, method: str, arguments: Arguments, clocks: Places) -> None:
    """Asks of what changes in calls that are all alike whether results hang on it."""
    looks = []
    for _ in range(3):
        run(twin, method, arguments)
        looks.append(contents(twin))
    always, named = _changed(looks), slots(twin)
    steps = _steps(looks, always, named)
    later = Later(twin, method, arguments, steps, clocks)
    _check_later(later)
    if any(not isinstance(named[name].value, Tensor) for name in always & named.keys() - steps):
        _check_on(later, always)


def _check_on(later: Later, always: Collection[str]) -> None:
    """Runs a network on where what it keeps is of a kind whose growth nobody can foresee."""
    twin = evaluation_twin(later.network)
    usual = run(twin, later.method, later.arguments)
    for number in range(_FURTHER):
        if not _are_same(usual, run(twin, later.method, later.arguments)):
            raise ExportError(
                f"The network changes {', '.join(map(repr, sorted(always)[:3]))} in every call: "
                f"after {number + 1} further calls the same arguments give something else. In an "
                "ONNX file that would be lost: take it as an argument of forward and return the "
                "next one."
            )


def _looks(
    twin: nn.Module, method: str, example: Example, arguments: Arguments
) -> tuple[list[_Look], bool, Asked]:
    """What is kept before the first call, behind two alike, and behind one of other arguments.

    And whether random numbers were drawn in the second call, and what it asked the world outside.
    """
    looks, drawn = [contents(twin)], False
    for _ in range(2):
        with unchanged_globals(seed=1), asked_outside() as asked:
            before = standing()
            call(twin, method, arguments)
            drawn = standing() != before
        looks.append(contents(twin))
    sizes = {**example.sizes, "time": example.sizes["time"] + 2}
    other = example.make(sizes, seed=1)
    with contextlib.suppress(Exception):  # too long for it, perhaps
        run(twin, method, other)
        looks.append(contents(twin))
    return looks, drawn, asked


def _changed(looks: Sequence[_Look]) -> set[str]:
    """The names of the slots in which something changes from look to look."""
    changed: set[str] = set()
    for before, after in itertools.pairwise(looks):
        names = before.keys() | after.keys()
        changed |= {name for name in names if before.get(name) != after.get(name)}
    return changed


def _check_held(network: nn.Module, held: Sequence[Tensor], changed: Collection[str]) -> None:
    """Refuses a graph that holds as a constant what forward writes to."""
    places = {tensor.untyped_storage().data_ptr() for tensor in held if tensor.numel()}
    for name, slot in slots(network).items():
        value = slot.value
        if name not in changed or not isinstance(value, Tensor) or not value.numel():
            continue
        if value.untyped_storage().data_ptr() in places:
            raise ExportError(
                f"The network computes with {name!r} and gives it another value in every call; "
                "it is no state of a recurrent layer, and in an ONNX file it would stay as it "
                "is. Take it as an argument of forward and return the next one."
            )


def _check_generators(twin: nn.Module, asked: Asked) -> None:
    for name, slot in slots(twin).items():
        value = slot.value
        if isinstance(value, GeneratorType) and asked.moved(value):
            raise _moved(name)


def _moved(name: str) -> ExportError:
    return ExportError(
        f"The network moves {name!r} on in every call. In an ONNX file that would be lost: take "
        "what it gives as an argument of forward."
    )


def _check_chance(twin: nn.Module, method: str, arguments: Arguments) -> None:
    """Refuses random numbers that Python draws, unless nothing is decided by them."""
    watch = Watch()
    with unchanged_globals(seed=1), put_back_shared(twin), foreseen_chance(watch):
        before = standing()
        call(evaluation_twin(twin), method, arguments)
        elsewhere = standing() != before
    if watch.decisions or elsewhere:
        lines = [decision.line for decision in watch.decisions if decision.line is not None]
        raise ExportError(
            f"The network draws random numbers{f' ({lines[0]})' if lines else ''}, in evaluation "
            "mode too, so its results cannot be checked. Leave them out, or take them as an "
            "argument of forward."
        )


def _steps(
    looks: Sequence[_Look], names: Collection[str], named: Mapping[str, Slot]
) -> dict[str, Any]:
    """By how much numbers and containers grow with each call; None where unevenly.

    What changes and does not grow, as a text or a chain does, is left out.

    Raises:
        ExportError: something moves on by being used, as an iterator does.
    """
    steps: dict[str, Any] = {}
    for name in sorted(names & named.keys()):
        value = named[name].value
        if isinstance(value, bool | Tensor):
            continue
        if isinstance(value, (numbers.Number, np.generic, np.ndarray, *CONTAINERS)):
            step = _step([look.get(name) for look in looks])
            if step is None or np.any(step):
                steps[name] = step
        elif hasattr(type(value), "__next__") or isinstance(value, _MOVING) or name == ENVIRONMENT:
            raise _moved(name)
    return steps


def _step(seen: Sequence[Any]) -> Any:
    """The difference from one to the next, if it is always the same."""
    values = [_number(content) for content in seen]
    if any(value is None for value in values):
        return None
    try:
        first, *others = (after - before for before, after in itertools.pairwise(values))
        return first if all(np.all(other == first) for other in others) else None
    except (TypeError, ValueError):  # of one kind now, and of another then
        return None


def _number(content: Any) -> Any:
    """The number, the array or the length that the content of a slot is."""
    if isinstance(content, Numbers):
        return content.array
    if not isinstance(content, tuple):
        return None
    kind, value, *_ = content
    if issubclass(kind, str | bytes):
        return len(value)
    return None if isinstance(value, str) else value


def _check_later(later: Later) -> None:
    """Refuses what gives something else once what it counts has grown.

    Raises:
        ExportError: with what counts, and the line that asks for it.
    """
    decisions = later.decisions()
    for decision in decisions:
        if not decision.known:
            raise ExportError(
                f"The network decides something by a number that changes from call to call "
                f"({decision.line}), so nobody can say what it gives later. Leave that out, or "
                "take the number as an argument of forward."
            )
    usual = later.results(0)
    turning = turning_calls(decisions)[:_MOST_CALLS]
    for calls in dict.fromkeys((*_CALLS, *turning, *_counted_up_to(later))):
        if _same(usual, later, calls):
            continue
        names = [
            name
            for name, step in later.steps.items()
            if not _same(usual, replace(later, steps={name: step}, clocks=[]), calls)
        ]
        lines = [decision.line for decision in decisions if decision.line is not None]
        what = f"counts in {', '.join(map(repr, names))}" if names else "reads a clock"
        raise ExportError(
            f"The network {what}{f' ({lines[0]})' if lines else ''}: after {calls} further "
            f"{'calls' if names else 'seconds'} the same arguments give something else. In an ONNX "
            "file that would be lost. Leave it out, or take it as an argument of forward and "
            "return the next one."
        )


def _counted_up_to(later: Later) -> list[int]:
    """After how many calls a number becomes one that the code mentions."""
    calls: set[int] = set()
    named = slots(later.network)
    for name, step in later.steps.items():
        value = named[name].value if name in named else None
        last = np.ravel(np.asarray(len(value) if isinstance(value, CONTAINERS) else value))
        if step is not None and np.any(step) and len(last) and last.dtype.kind in "iuf":
            each = float(np.ravel(step)[np.argmax(np.ravel(step) != 0)])
            base = float(last[np.argmax(np.ravel(step) != 0)])
            calls |= {round((one - base) / each) - 1 for one in later.constants()}
    return sorted(n for n in calls if 0 < n < _CALLS[-1])[:_MOST_CALLS]


def _same(usual: Sequence[Tensor], later: Later, calls: int) -> bool:
    """Whether a network gives after so many calls what it gives now."""
    try:
        return _are_same(usual, later.results(calls))
    except Exception:  # the user's forward may raise anything
        return False


def _are_same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in zip(some, others, strict=True)
    )

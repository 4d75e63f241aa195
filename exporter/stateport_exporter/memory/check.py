"""Whether anything that a network keeps from call to call can ever matter.

A few calls that give the same say nothing of the thousandth. But a network can do otherwise there
only by what has changed until then. So what changes is taken for unknown, and the network is run on
that once more, and again with the other answer to each question that it asks.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..network.blame import Line, raised_line
from ..network.example import Arguments, Example
from ..network.explicit import Calls, States
from ..network.isolation import evaluation_twin, unchanged_globals
from .kept import authored, contents, names_in, slots, unchanged_shared
from .unknown import Copies, Questions, Unknown, for_unknown, name_of, unknown

#: A network that asks so many questions is refused.
_MOST_RUNS: Final = 256
_CLOCKS: Final = (time, datetime)
#: Python's own functions that ask a value for all its items.
_BUILT_IN: Final = {f.__name__: for_unknown(f) for f in (len, sum, sorted, any, all, max, min)}
_RANDOM: Final = "random numbers"


def check_kept(
    network: nn.Module,
    method: str,
    example: Example,
    given: Mapping[int, States],
    states: Sequence[Tensor] = (),
) -> None:
    """Runs a network as its author would, and refuses results that depend on what changes.

    `given` are the first states of the calls of recurrent layers that are lifted. `states` are last
    states, which are lifted too: what the network keeps of them changes, and is looked after.

    Raises:
        ExportError: results hang, or in a later call may hang, on what changes.
    """
    with unchanged_shared(network):
        _Memory(network, method, example, given).check(states)


class _Memory:
    def __init__(
        self, network: nn.Module, method: str, example: Example, given: Mapping[int, States]
    ) -> None:
        self.network, self.method, self.given = network, method, given
        self.arguments = example.make(example.sizes)
        self.others = example.make(example.sizes, seed=1)
        time = example.sizes.get("time", 1) * 2 + 1
        self.longer = example.make({**example.sizes, "time": time})

    def check(self, states: Sequence[Tensor]) -> None:
        twin = evaluation_twin(self.network)
        usual = self._run(twin, self.arguments)
        looks = [contents(twin)]
        kept = _equal_slots(twin, states)
        drawn = False
        for arguments in (self.arguments, self.others, self.arguments):
            python, numpy = self._draws(twin, arguments)
            if numpy:
                raise _random(None)
            drawn |= python
            looks.append(contents(twin))
        changed = _changed(looks)
        changed = {name: changed[name] for name in changed.keys() - kept}
        outside = [*_named_outside(twin, drawn=drawn)]
        if drawn and not any(value is random or _of_random(value) for _, _, value in outside):
            raise _random(None)
        if changed or outside:
            self._check_unknown(twin, changed, outside)
        if not states:
            self._check_after_longer(twin, usual)

    def _check_after_longer(self, twin: nn.Module, usual: Sequence[Any]) -> None:
        """A network may remember the sizes of arguments, as the longest that it has seen."""
        before = contents(twin)
        with contextlib.suppress(Exception):  # too long for it, perhaps
            self._run(twin, self.longer)
        if not _are_same(usual, self._run(twin, self.arguments)):
            names = sorted(_changed([before, contents(twin)]))
            raise _depends_on(", ".join(map(repr, names)) or None, None)

    def _check_unknown(
        self,
        twin: nn.Module,
        changed: Mapping[str, bool],
        outside: Sequence[tuple[dict[str, Any], str, Any]],
    ) -> None:
        """Runs the network with every answer to its questions."""
        usual = self._run(evaluation_twin(twin), self.arguments)
        waiting: list[tuple[bool, ...]] = [()]
        tried: set[tuple[str, Line | None, bool]] = set()
        for count in itertools.count():
            if not waiting:
                return
            questions = Questions(waiting.pop())
            with unchanged_shared(twin), questions, _in_place(outside):
                copied = evaluation_twin(twin)
                _put_unknown(copied, changed)
                with _built_in(copied):
                    self._judge(copied, questions, usual)
            asked = questions.asked
            tried.update(asked)
            if count == _MOST_RUNS:
                raise _depends_on(asked[-1][0], asked[-1][1])
            for number in range(len(questions.answers), len(asked)):
                name, line, answer = asked[number]
                if (name, line, not answer) not in tried:
                    tried.add((name, line, not answer))
                    before = [each for *_, each in asked[:number]]
                    waiting.append((*before, not answer))

    def _judge(self, network: nn.Module, questions: Questions, usual: Sequence[Any]) -> None:
        """One run; refuses a network whose results are unknown, or others than usual."""
        error, results = None, list[Any]()
        try:
            with Copies():
                results = self._run(network, self.arguments)
        except (Exception, SystemExit) as raised:  # the user's forward may raise anything
            error = raised
        if questions.refused is not None:
            raise _depends_on(*questions.refused) from error
        name, line = next(((name, line) for name, line, _ in questions.asked[::-1]), (None, None))
        if questions.answers:
            name, line, _ = questions.asked[len(questions.answers) - 1]
        if error is not None:
            raise _depends_on(name, line or raised_line(error)) from error
        for result in results:
            if name_of(result) is not None:
                raise _depends_on(name_of(result), None)
        if not _are_same(usual, results):
            raise _depends_on(name, line)

    def _draws(self, network: nn.Module, arguments: Arguments) -> tuple[bool, bool]:
        """Runs the network; whether it draws random numbers in Python, and in NumPy."""
        with unchanged_globals(seed=1):
            python, numpy = random.getstate(), repr(np.random.get_state(legacy=False))
            self._call(network, arguments)
            moved = numpy != repr(np.random.get_state(legacy=False))
            return python != random.getstate(), moved

    def _run(self, network: nn.Module, arguments: Arguments) -> list[Any]:
        with unchanged_globals(seed=1):
            return self._call(network, arguments)

    def _call(self, network: nn.Module, arguments: Arguments) -> list[Any]:
        run: Callable[..., Any] = getattr(network, self.method)
        with torch.no_grad():
            result = Calls(self.given).run(run, arguments.args, arguments.kwargs)
        leaves = pytree.tree_leaves(result)
        return [leaf.detach().clone() if type(leaf) is Tensor else leaf for leaf in leaves]


def _changed(looks: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """The names of the slots in which something changes, and whether a tensor keeps its shape."""
    changed: dict[str, bool] = {}
    for before, after in itertools.pairwise(looks):
        for name in before.keys() | after.keys():
            one, other = before.get(name), after.get(name)
            if one != other:
                keeps = one is not None and other is not None and one[:2] == other[:2]
                changed[name] = keeps and changed.get(name, True)
    return changed


def _equal_slots(network: nn.Module, states: Sequence[Tensor]) -> set[str]:
    """The slots that hold one of these states."""

    def is_state(value: Any) -> bool:
        return isinstance(value, Tensor) and any(
            value.numel() == state.numel()
            and torch.allclose(value.flatten().to(state), state.flatten(), rtol=1e-4, atol=1e-5)
            for state in states
        )

    return {name for name, slot in slots(network).items() if is_state(slot.value)}


def _put_unknown(network: nn.Module, changed: Mapping[str, bool]) -> None:
    """Takes what is in these slots for unknown."""
    put: list[str] = []
    for name, slot in slots(network).items():
        if name in changed and not any(name.startswith((f"{p}[", f"{p}.")) for p in put):
            put.append(name)
            slot.put(unknown(slot.value, repr(name), sized=changed[name]))
    for module in network.modules():
        for holder in (module._buffers, module._parameters):
            for key in [key for key, value in holder.items() if name_of(value) is not None]:
                vars(module)[key] = holder.pop(key)  # where anything may be assigned


@contextlib.contextmanager
def _built_in(network: nn.Module) -> Iterator[None]:
    """`len` and its like take unknown values too, wherever the network's author calls them."""
    changed = []
    try:
        for function in authored(network).functions:
            names = function.__globals__
            for name in _BUILT_IN.keys() & names_in(function.__code__) - names.keys():
                names[name] = _BUILT_IN[name]
                changed.append((names, name))
        yield
    finally:
        for names, name in changed:
            del names[name]


@contextlib.contextmanager
def _in_place(outside: Sequence[tuple[dict[str, Any], str, Any]]) -> Iterator[None]:
    """Puts unknown values in place of clocks and random numbers."""
    try:
        for holder, name, value in outside:
            is_random = value is random or _of_random(value)
            holder[name] = Unknown(value, _RANDOM if is_random else f"the clock {name!r}")
        yield
    finally:
        for holder, name, value in outside:
            holder[name] = value


def _named_outside(network: nn.Module, *, drawn: bool) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Where the author's code names a clock, or random numbers if any are drawn."""
    for function in authored(network).functions:
        for name in names_in(function.__code__) & function.__globals__.keys():
            value = function.__globals__[name]
            module = getattr(value, "__module__", None)
            is_clock = value in _CLOCKS if isinstance(value, type(time)) else module == "time"
            is_clock |= isinstance(value, type) and module == "datetime"
            if is_clock or (drawn and (value is random or _of_random(value))):
                yield function.__globals__, name, value


def _of_random(value: Any) -> bool:
    """Whether something is a function of Python's own random generator."""
    owner = getattr(value, "__self__", None)
    return owner is not None and owner is getattr(random.random, "__self__", None)


def _are_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(
        _is_same(one, other) for one, other in zip(some, others, strict=True)
    )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())
    return type(one) is type(other) and (not isinstance(one, Tensor))


def _random(line: Line | None) -> ExportError:
    return ExportError(
        f"The network draws random numbers{f' ({line})' if line else ''}, in evaluation mode too, "
        "so its results cannot be checked. Leave them out, or take them as an argument of forward."
    )


def _depends_on(name: str | None, line: Line | None) -> ExportError:
    if name == _RANDOM:
        return _random(line)
    what = f"{name}, which changes" if name else "something that changes"
    return ExportError(
        f"The results depend on {what} from call to call{f' ({line})' if line else ''}, so a "
        "later call may give something else. An ONNX file would lose that: take it as an argument "
        "of forward and return the next one, or leave it out."
    )

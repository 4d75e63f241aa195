# SPDX-License-Identifier: Apache-2.0
"""Checks whether anything that a network keeps from call to call can ever change its results.

That a few calls give the same results says nothing about the thousandth. But a later call can only
differ by what has changed until then. So the network runs once more with unknown values in place of
all that changes, and again with the opposite answer to each question that it asks about them.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from ..network.blame import Line, at_line, raised_line
from ..network.example import Arguments, Example
from ..network.explicit import Calls, Firsts
from ..network.isolation import evaluation_twin, unchanged_globals
from ..network.trees import agree, are_close
from .kept import authored, contents, names_in, replaced_builtins, slots, unchanged_shared
from .unknown import Copies, Questions, Unknown, for_unknown, name_of, unknown

#: A network that needs more runs, to try all answers to its questions, is refused.
_MOST_RUNS: Final = 256
_CLOCKS: Final = (time, datetime)
#: Python's functions that would ask a value for all its items.
_BUILT_IN: Final = {f.__name__: for_unknown(f) for f in (len, sum, sorted, any, all, max, min)}
_RANDOM: Final = "random numbers"

#: The name of a value, the author's line that asks about it, and the answer.
_Question = tuple[str, Line | None, bool]


@dataclass(frozen=True)
class _Global:
    """A global variable of the author's that holds a clock, or a source of random numbers."""

    names: dict[str, Any]
    name: str
    value: Any

    @property
    def is_random(self) -> bool:
        """Whether it gives random numbers."""
        return _is_random(self.value)


def check_kept(
    network: nn.Module,
    method: str,
    example: Example,
    firsts: Mapping[int, Firsts],
    states: Sequence[Tensor] = (),
) -> None:
    """Runs a network as its author would, and refuses results that depend on what changes.

    Args:
        network: the author's network.
        method: the name of the method that is run.
        example: its example.
        firsts: the first states of lifted recurrent layers, by the number of the call.
        states: last states that are lifted too. What the network keeps of them may change, as the
            file carries it.

    Raises:
        ExportError: results depend on what changes, or a later call's may.
    """
    with unchanged_shared(network):
        _Memory(network, method, example, firsts).check(states)


class _Memory:
    """Runs one network with several arguments and with unknown values."""

    def __init__(
        self, network: nn.Module, method: str, example: Example, firsts: Mapping[int, Firsts]
    ) -> None:
        self.network, self.method, self.firsts = network, method, firsts
        self.arguments = example.make(example.sizes)
        self.other_arguments = example.make(example.sizes, seed=1)
        time = example.sizes.get("time", 1) * 2 + example.time_multiple
        self.longer = example.make({**example.sizes, "time": time})

    def check(self, states: Sequence[Tensor]) -> None:
        """Refuses results that depend on what changes, except for slots that hold `states`."""
        twin = evaluation_twin(self.network)
        usual = self._run(twin, self.arguments)
        snapshots = [contents(twin)]
        state_slots = _equal_slots(twin, states)

        draws = False
        for arguments in (self.arguments, self.other_arguments, self.arguments):
            draws |= self._run_and_see_draws(twin, arguments)
            snapshots.append(contents(twin))
        changed = _changed(snapshots)
        for name in state_slots:
            changed.pop(name, None)

        outside = list(_globals_outside(twin, draws=draws))
        is_explained = any(variable.is_random for variable in outside)
        if draws and not is_explained:
            raise _random(None)
        if changed or outside:
            self._check_unknown(twin, changed, outside)
        if not states:
            self._check_after_first()
            self._check_after_longer(twin, usual)

    def _check_after_first(self) -> None:
        """Refuses a network that keeps something of its first call alone, as the mean of that."""
        twin = evaluation_twin(self.network)
        before = contents(twin)
        self._run(twin, self.arguments)
        names = sorted(_changed([before, contents(twin)]))

        alone = self._run(evaluation_twin(self.network), self.other_arguments)
        if not are_same(alone, self._run(twin, self.other_arguments)):
            raise _depends_on(", ".join(map(repr, names)) or None, None)

    def _check_after_longer(self, twin: nn.Module, usual: Sequence[Any]) -> None:
        """Refuses a network that remembers sizes of arguments, as the longest that it has seen."""
        before = contents(twin)
        with contextlib.suppress(Exception):  # the network may not take this length
            self._run(twin, self.longer)

        if not are_same(usual, self._run(twin, self.arguments)):
            names = sorted(_changed([before, contents(twin)]))
            raise _depends_on(", ".join(map(repr, names)) or None, None)

    def _check_unknown(
        self, twin: nn.Module, changed: Mapping[str, bool], outside: Sequence[_Global]
    ) -> None:
        """Runs the network with unknown values in place of what changes, with all answers."""
        usual = self._run(evaluation_twin(twin), self.arguments)
        waiting: list[tuple[bool, ...]] = [()]
        tried: set[_Question] = set()
        runs = 0
        while waiting:
            questions = Questions(waiting.pop())
            with unchanged_shared(twin), questions, _unknown_in_place(outside):
                copied = evaluation_twin(twin)
                _put_unknown(copied, changed)
                with replaced_builtins(copied, _BUILT_IN):
                    self._judge(copied, questions, usual)

            tried.update(questions.asked)
            if runs == _MOST_RUNS:
                name, line, _ = questions.asked[-1]
                raise _depends_on(name, line)
            waiting += _opposite_answers(questions, tried)
            runs += 1

    def _judge(self, network: nn.Module, questions: Questions, usual: Sequence[Any]) -> None:
        """Runs a network; refuses it if its results are unknown, or not the usual ones."""
        error, results = None, list[Any]()
        try:
            with Copies():
                results = self._run(network, self.arguments)
        except (Exception, SystemExit) as raised:  # the user's forward may raise anything
            error = raised

        if questions.refused is not None:
            raise _depends_on(*questions.refused) from error

        name, line = _question_to_blame(questions)
        if error is not None:
            raise _depends_on(name, line or raised_line(error)) from error

        for result in results:
            if name_of(result) is not None:
                raise _depends_on(name_of(result), None)
        if not are_same(usual, results):
            raise _depends_on(name, line)

    def _run_and_see_draws(self, network: nn.Module, arguments: Arguments) -> bool:
        """Runs the network; whether it draws random numbers in Python.

        Raises:
            ExportError: it draws some in NumPy.
        """
        with unchanged_globals(seed=1):
            python = random.getstate()
            numpy = repr(np.random.get_state(legacy=False))
            self._call(network, arguments)
            draws_in_numpy = numpy != repr(np.random.get_state(legacy=False))
            draws_in_python = python != random.getstate()

        if draws_in_numpy:
            raise _random(None)
        return draws_in_python

    def _run(self, network: nn.Module, arguments: Arguments) -> list[Any]:
        with unchanged_globals(seed=1):
            return self._call(network, arguments)

    def _call(self, network: nn.Module, arguments: Arguments) -> list[Any]:
        """The leaves of the results; tensors are copied."""
        run: Callable[..., Any] = getattr(network, self.method)
        with torch.no_grad():
            result = Calls(self.firsts).run(run, arguments.args, arguments.kwargs)

        leaves = pytree.tree_leaves(result)
        return [leaf.detach().clone() if type(leaf) is Tensor else leaf for leaf in leaves]


def _opposite_answers(questions: Questions, tried: set[_Question]) -> Iterator[tuple[bool, ...]]:
    """Answers for further runs: those of this run up to some question, and the opposite to that.

    There is a run for each question behind the answers that this run began with, unless `tried` has
    the opposite answer, which is then added.
    """
    asked = questions.asked
    for number in range(len(questions.answers), len(asked)):
        name, line, answer = asked[number]
        opposite = (name, line, not answer)
        if opposite not in tried:
            tried.add(opposite)
            answers_before = [earlier for *_, earlier in asked[:number]]
            yield (*answers_before, not answer)


def _question_to_blame(questions: Questions) -> tuple[str | None, Line | None]:
    """The name and line of the question with the opposite answer; else of the last question."""
    if questions.answers:
        name, line, _ = questions.asked[len(questions.answers) - 1]
        return name, line
    if questions.asked:
        name, line, _ = questions.asked[-1]
        return name, line

    return None, None


def _changed(snapshots: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """The names of slots whose content changes, and whether it keeps its dtype and shape."""
    changed: dict[str, bool] = {}

    for before, after in itertools.pairwise(snapshots):
        for name in before.keys() | after.keys():
            old, new = before.get(name), after.get(name)
            if old != new:
                keeps_shape = old is not None and new is not None and old[:2] == new[:2]
                changed[name] = keeps_shape and changed.get(name, True)
    return changed


def _equal_slots(network: nn.Module, states: Sequence[Tensor]) -> set[str]:
    """The names of slots that hold one of these states."""
    names = set()
    for name, slot in slots(network).items():
        value = slot.value
        if isinstance(value, Tensor) and any(_holds_state(value, state) for state in states):
            names.add(name)
    return names


def _holds_state(value: Tensor, state: Tensor) -> bool:
    """Whether a tensor has the values of a state, in any shape."""
    if value.numel() != state.numel():
        return False

    return torch.allclose(value.flatten().to(state), state.flatten(), rtol=1e-4, atol=1e-5)


def _put_unknown(network: nn.Module, changed: Mapping[str, bool]) -> None:
    """Puts unknown values into these slots; True means that the shape of a tensor is known."""
    outer: list[str] = []
    for name, slot in slots(network).items():
        if name in changed and not _is_inside(name, outer):
            outer.append(name)
            slot.put(unknown(slot.value, repr(name), sized=changed[name]))

    for module in network.modules():
        for holder in (module._buffers, module._parameters):
            _move_unknown(holder, vars(module))


def _is_inside(name: str, outer: Sequence[str]) -> bool:
    """Whether a slot is inside one of others, by its name."""
    return any(name.startswith((f"{slot}[", f"{slot}.")) for slot in outer)


def _move_unknown(holder: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Moves unknown values of a module to its attributes, to which anything may be assigned."""
    names = []
    for name, value in holder.items():
        if name_of(value) is not None:
            names.append(name)

    for name in names:
        attributes[name] = holder.pop(name)


@contextlib.contextmanager
def _unknown_in_place(outside: Sequence[_Global]) -> Iterator[None]:
    """Puts unknown values in place of clocks and random numbers."""
    try:
        for variable in outside:
            name = _RANDOM if variable.is_random else f"the clock {variable.name!r}"
            variable.names[variable.name] = Unknown(variable.value, name)
        yield
    finally:
        for variable in outside:
            variable.names[variable.name] = variable.value


def _globals_outside(network: nn.Module, *, draws: bool) -> Iterator[_Global]:
    """The globals in the author's code that are clocks, or if any are drawn, random numbers."""
    for function in authored(network).functions:
        names = function.__globals__
        for name in names_in(function.__code__) & names.keys():
            value = names[name]
            if _is_clock(value) or (draws and _is_random(value)):
                yield _Global(names, name, value)


def _is_clock(value: Any) -> bool:
    """Whether something is Python's module `time` or `datetime`, or a part of these."""
    module = getattr(value, "__module__", None)
    if isinstance(value, type) and module == "datetime":
        return True

    if isinstance(value, ModuleType):
        return value in _CLOCKS
    return module == "time"


def _is_random(value: Any) -> bool:
    """Whether something is Python's module `random`, or a function of its generator."""
    if value is random:
        return True

    owner = getattr(value, "__self__", None)
    return owner is not None and owner is getattr(random.random, "__self__", None)


def are_same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether the leaves of two results are equal, tensors bit by bit."""
    return agree(_is_same, first, second)


def _is_same(first: Any, second: Any) -> bool:
    """Whether two results are equal; besides tensors, only their types are compared."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return are_close(first, second)

    return type(first) is type(second) and not isinstance(first, Tensor)


def _random(line: Line | None) -> ExportError:
    return ExportError(
        f"The network draws random numbers{at_line(line)}, in evaluation mode too, so its results "
        "cannot be checked. Leave them out, or take them as an argument of forward."
    )


def _depends_on(name: str | None, line: Line | None) -> ExportError:
    if name == _RANDOM:
        return _random(line)

    cause = f"{name}, which changes" if name else "something that changes"
    return ExportError(
        f"The results depend on {cause} from call to call{at_line(line)}, so a later call may "
        "give something else. An ONNX file would lose that: take it as an argument of forward and "
        "return the next one, or leave it out."
    )

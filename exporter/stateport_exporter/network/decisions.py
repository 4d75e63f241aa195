# SPDX-License-Identifier: Apache-2.0
"""Questions that forward asks about the values of tensors: `if mask.any():`, `assert x.min() >= 0`.

A graph cannot branch on a value. But many such questions are there for speed, or to refuse wrong
arguments: one answer is right for all arguments. Here forward is run with that answer at arguments
at which the other one is true, also right at the border between the two.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .blame import Line, author_line
from .example import Arguments, Example
from .isolation import quiet, unchanged_globals
from .trees import agree, are_close, tensor_positions, tensors_in

#: Questions of one network that are tried.
_MOST_LINES: Final = 8
#: The number of ways between two arguments on which the border is looked for.
_WAYS: Final = 4
#: The number of halvings until the border is found on a way.
_HALVINGS: Final = 26
#: How many more questions a run may ask than the first one does, as a factor and beyond it. With a
#: forced answer, or with huge arguments, a loop that asks may never end.
_MORE_QUESTIONS: Final = (16, 256)
#: By what floating-point arguments are multiplied.
_SCALES: Final = (0.0, 1e-6, 1e-3, 0.1, 0.5, 2.0, 10.0, 1e3, 1e6, 1e9, -1.0)

#: The answers that forward gets, by the author's line that asks.
Answers = Mapping[Line, bool]


@dataclass(frozen=True)
class Decisions:
    """Answers that are right for all arguments.

    Attributes:
        answers: the answers by line.
        notes: for each check of arguments that is left out, one sentence.
    """

    answers: Answers
    notes: tuple[str, ...]


class _TooManyQuestions(BaseException):
    """Ends a run. Forward may catch any `Exception`, so that this is none."""


class Answering(TorchFunctionMode):
    """Answers forward's questions about the values of tensors.

    Args:
        answers: the answers by line. Other questions get what is true.
        traced_only: whether only tensors without values get them, as while a graph is captured.
        most: the number of questions that are answered; by default any number.

    Attributes:
        asked: the true answers to all questions about tensors that have values, by line.
        questions: the number of questions so far.
    """

    def __init__(
        self, answers: Answers, *, traced_only: bool = False, most: int | None = None
    ) -> None:
        super().__init__()
        self.answers = answers
        self.traced_only = traced_only
        self.most = most
        self.questions = 0
        self.asked: dict[Line, list[bool]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        if getattr(func, "__name__", "") != "__bool__":
            return func(*args, **(kwargs or {}))

        self.questions += 1
        if self.most is not None and self.questions > self.most:
            raise _TooManyQuestions

        line = author_line()
        is_traced = isinstance(args[0], FakeTensor | FunctionalTensor)
        applies_here = is_traced or not self.traced_only
        if line is not None and line in self.answers and applies_here:
            return self.answers[line]
        answer = bool(func(*args))
        if line is not None:
            self.asked.setdefault(line, []).append(answer)
        return answer


def find_decisions(network: nn.Module, example: Example) -> Decisions | None:
    """Answers to all questions that forward asks about the values of its arguments.

    None where it asks none, or where no answer is right for all arguments.

    Args:
        network: an `Explicit` network. It is run many times.
        example: what it takes.
    """
    with quiet(), torch.no_grad():
        return _Search(network, example).run()


@dataclass
class _Run:
    """One run: the leaves of the results, None where it failed; and the questions."""

    results: list[Any] | None
    asked: Mapping[Line, Sequence[bool]]
    questions: int


class _Search:
    """Looks for answers, one line after the other."""

    def __init__(self, network: nn.Module, example: Example) -> None:
        self.network, self.example = network, example
        self.structure: Any = None
        self.most_questions: int | None = None

    def run(self) -> Decisions | None:
        answers: dict[Line, bool] = {}
        notes: list[str] = []
        tried = [*map(self._leaves, range(3))]
        usual = self._run(tried[0], {})
        if not usual.asked:
            return None

        factor, more = _MORE_QUESTIONS
        self.most_questions = factor * usual.questions + more
        samples = [*tried, *self._variations(tried[0])]
        while (line := self._next_line(samples, answers)) is not None:
            if len(answers) == _MOST_LINES:
                return None
            answer = self._answer_to(line, samples, answers)
            if answer is None:
                return None
            answers[line] = answer
            if _is_check(line):
                notes.append(
                    f"the check of values at {line} is not in the file: call it with arguments "
                    "that pass"
                )
        if answers:
            return Decisions(answers, tuple(notes))
        return None

    def _leaves(self, seed: int) -> list[Any]:
        arguments = self.example.make(self.example.sizes, seed=seed)
        leaves, self.structure = pytree.tree_flatten(arguments)
        return leaves

    def _run(self, leaves: Sequence[Any], answers: Answers) -> _Run:
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        arguments: Arguments = pytree.tree_unflatten(copies, self.structure)
        results: list[Any] | None = None
        mode = Answering(answers, most=self.most_questions)
        # The user's forward may raise anything.
        expected = contextlib.suppress(Exception, SystemExit, _TooManyQuestions)
        with unchanged_globals(seed=0), expected, mode:
            returned, states = self.network(*arguments)
            results = pytree.tree_leaves((returned, states))
        return _Run(results, mode.asked, mode.questions)

    def _next_line(self, samples: Sequence[list[Any]], answers: Answers) -> Line | None:
        """The first line that asks a question which has no answer yet."""
        for leaves in samples:
            for line in self._run(leaves, answers).asked:
                return line
        return None

    def _answer_to(self, line: Line, samples: Sequence[list[Any]], answers: Answers) -> bool | None:
        """The answer that is right whatever is true; None where neither is."""
        sides: dict[bool, list[list[Any]]] = {True: [], False: []}
        for leaves in samples:
            asked = self._run(leaves, answers).asked.get(line, ())
            for side in set(asked):
                sides[side].append(leaves)

        usual = any(leaves is samples[0] for leaves in sides[True])
        for answer in (usual, not usual):
            others = [*sides[not answer], *self._at_border(line, sides, not answer, answers)]
            if sides[answer] and self._is_right(line, answer, others, answers):
                return answer
        return None

    def _is_right(
        self, line: Line, answer: bool, others: Sequence[list[Any]], answers: Answers
    ) -> bool:
        """Whether an answer gives the right results where the other one is true.

        Arguments that the network itself refuses count neither for nor against it.
        """
        compared = 0
        for leaves in sorted(others, key=_is_odd):
            # What a network makes of NaN counts only where nothing else has the other answer.
            if compared and _is_odd(leaves):
                break
            usual = self._run(leaves, answers)
            if usual.results is None:
                continue
            forced = self._run(leaves, {**answers, line: answer})
            if forced.results is None or not agree(_is_close, usual.results, forced.results):
                return False
            compared += 1
        return compared > 0 or (_is_check(line) and self._passes(line, answer))

    def _passes(self, line: Line, answer: bool) -> bool:
        """Whether forward goes on behind a check that gets this answer."""
        return self._run(self._leaves(0), {line: answer}).results is not None

    def _variations(self, leaves: Sequence[Any]) -> Iterator[list[Any]]:
        """Other arguments: one or all of the tensors scaled, emptied, filled or made NaN."""
        positions = tensor_positions(leaves)
        groups = [[position] for position in positions]
        if len(positions) > 1:
            groups.append(positions)
        for group in groups:
            for change in _CHANGES:
                changed = list(leaves)
                for position in group:
                    changed[position] = change(leaves[position])
                if any(changed[i] is not leaves[i] for i in group):
                    yield changed

    def _at_border(
        self,
        line: Line,
        sides: Mapping[bool, Sequence[list[Any]]],
        side: bool,
        answers: Answers,
    ) -> Iterator[list[Any]]:
        """Arguments with one answer that are next to such with the other one."""
        for number in range(_WAYS):
            if not sides[True] or not sides[False]:
                return
            start = sides[side][number % len(sides[side])]
            end = sides[not side][number * 7 % len(sides[not side])]
            for mix in (_mixed, _blended):
                yield from self._on_way(line, side, mix, start, end, number, answers)

    def _on_way(
        self,
        line: Line,
        side: bool,
        mix: Callable[..., list[Any]],
        start: list[Any],
        end: list[Any],
        seed: int,
        answers: Answers,
    ) -> Iterator[list[Any]]:
        """The last arguments on the way from `start` with its answer, and some before."""
        near, far = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (near + far) / 2
            leaves = mix(start, end, middle, seed)
            asked = set(self._run(leaves, answers).asked.get(line, ()))
            if asked == {side}:
                near = middle
            else:
                far = middle
        for share in (1.0, 0.999, 0.9, 0.5):
            leaves = mix(start, end, near * share, seed)
            if side in self._run(leaves, answers).asked.get(line, ()):
                yield leaves


def _is_odd(leaves: Sequence[Any]) -> bool:
    """Whether some argument is NaN or infinite somewhere."""
    return not all(bool(tensor.isfinite().all()) for tensor in tensors_in(leaves))


def _scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor * factor if tensor.is_floating_point() else tensor


def _filled(value: float, dtypes: Sequence[str]) -> Callable[[Tensor], Tensor]:
    def fill(tensor: Tensor) -> Tensor:
        kind = "float" if tensor.is_floating_point() else str(tensor.dtype)
        is_meant = any(name in kind for name in dtypes)
        if is_meant:
            return torch.full_like(tensor, value)
        return tensor

    return fill


def _with_one(value: float) -> Callable[[Tensor], Tensor]:
    """One element is another number."""

    def change(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or not tensor.numel():
            return tensor
        changed = tensor.clone()
        changed.view(-1)[tensor.numel() // 2] = value
        return changed

    return change


def _with_one_inverted(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.bool or not tensor.numel():
        return tensor
    changed = torch.zeros_like(tensor)
    changed.view(-1)[0] = True
    return changed


_CHANGES: Final[tuple[Callable[[Tensor], Tensor], ...]] = (
    *map(_scaled, _SCALES),
    _filled(0, ("bool", "int")),
    _filled(1, ("bool", "int", "float")),
    _filled(-1, ("int",)),
    _filled(1000, ("int",)),
    _with_one(float("nan")),
    _with_one(float("inf")),
    lambda tensor: tensor if tensor.dtype == torch.bool else tensor.abs(),
    lambda tensor: ~tensor if tensor.dtype == torch.bool else -tensor.abs(),
    _with_one_inverted,
)


def _mixed(start: list[Any], end: list[Any], share: float, seed: int) -> list[Any]:
    """A share of the elements, in random order, is that of `end`."""
    mixed = []
    for one, other in zip(start, end, strict=True):
        if not isinstance(one, Tensor):
            mixed.append(one)
            continue
        order = torch.rand(one.shape, generator=torch.Generator().manual_seed(seed))
        mixed.append(torch.where(order < share, other, one))
    return mixed


def _blended(start: list[Any], end: list[Any], share: float, _: int) -> list[Any]:
    """Floating-point elements on the straight line to those of `end`."""
    blended = []
    for one, other in zip(start, end, strict=True):
        is_float = isinstance(one, Tensor) and one.is_floating_point()
        blended.append(torch.lerp(one, other, share) if is_float else one)
    return blended


def _is_close(first: Any, second: Any) -> bool:
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return type(first) is type(second)
    return are_close(first, second, rtol=1e-5, atol=1e-6)


def _is_check(line: Line) -> bool:
    """Whether a line asks only to refuse arguments: an assert, `if ...: raise`, `torch._check`."""
    try:
        tree = ast.parse("".join(linecache.getlines(line.file)))
    except (SyntaxError, ValueError, RecursionError):
        return False

    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and _is_checking(node) and _asks_at(node, line.number):
            return True
    return False


def _is_checking(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If):
        only_raises = all(isinstance(each, ast.Raise) for each in node.body)
        return not node.orelse and only_raises
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func) in ("torch._check", "torch._assert")
    return False


def _asks_at(node: ast.stmt, number: int) -> bool:
    """Whether the question of a statement is on a line."""
    asking: ast.AST = node.test if isinstance(node, ast.Assert | ast.If) else node
    first = getattr(asking, "lineno", 0)
    last = getattr(asking, "end_lineno", 0) or 0
    return first <= number <= last

"""Which arguments and results are one state, where no recurrent layer says so.

An argument may be a state where a result has its axes and dtype and is computed from it. That a
result holds a part of the argument itself, as a window that moves on does, shows that it is the
next value. Otherwise nothing in the data tells a state from a second signal that goes through the
network: the names of the author decide, and where these say nothing either, the caller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import onnx_ir as ir

from ..graph.dataflow import axes, behind, origin, parts
from .names import are_one, is_like_a_signal, is_like_a_state, is_surely_a_state

Path = tuple[str, ...]
#: The position of an argument, and that of the result which gives its next value.
Pair = tuple[int, int]

#: How sure a pair is: by its data flow or both its names; by the argument's name; by shape alone.
SURE: Final = "sure"
NAMED: Final = "named"
SHAPED: Final = "shaped"


@dataclass(frozen=True)
class Port:
    """An argument or a result: its position, what the author calls it, and its value.

    `leads` says of an argument that it is (in) the first parameter of forward.
    """

    position: int
    path: Path
    value: ir.Value
    leads: bool = False

    def __str__(self) -> str:
        return repr(".".join(self.path))

    @property
    def called(self) -> str:
        """What the caller calls a result: its name, or its number, from 1."""
        named = any(not key.isdigit() for key in self.path)
        return ".".join(self.path) if named else str(self.position + 1)

    @property
    def kind(self) -> tuple[object, ...]:
        """The axes and the dtype."""
        return (*axes(self.value), self.value.dtype)

    @cached_property
    def sources(self) -> frozenset[ir.Value]:
        """All that a result is computed from."""
        return frozenset(behind(self.value))

    @cached_property
    def parts(self) -> frozenset[ir.Value]:
        """What a result is put together from, without computing."""
        return frozenset(parts(self.value))


@dataclass
class Matches:
    """Pairs by how sure they are, and in words what could not be told."""

    pairs: dict[str, list[Pair]] = field(default_factory=lambda: {SURE: [], NAMED: [], SHAPED: []})
    unclear: list[str] = field(default_factory=list)

    def of(self, levels: Collection[str]) -> list[Pair]:
        """The pairs of these levels, in the order of the arguments."""
        return sorted(pair for level in levels for pair in self.pairs[level])


def match(arguments: Sequence[Port], results: Sequence[Port], *, alone: bool) -> Matches:
    """Pairs arguments with results of the same axes and dtype.

    `alone` says that forward gives nothing but one result, which is what the network is for: names
    that only agree do not make it a state.
    """
    matches = Matches()
    distinct = _distinct(results)
    options = {a.position: _options(a, distinct, arguments) for a in arguments}
    if alone:
        unlike = [a for a in arguments if not is_like_a_state(a.path)]
        options |= {a.position: _moved(options[a.position], a) for a in unlike}
    sure = matches.pairs[SURE] = _sure(arguments, options)

    arguments = [a for a in arguments if a.position not in dict(sure)]
    leading = {a.path[0] for a in arguments if a.leads} or {a.path[0] for a in arguments[:1]}
    arguments = [a for a in arguments if a.path[0] not in leading]
    taken = {result for _, result in sure}
    first = min((r.position for r in results if r.position not in taken), default=0)
    for kind in dict.fromkeys(argument.kind for argument in arguments):
        of_kind = [a for a in arguments if a.kind == kind]
        left = {
            a.position: [r for r in options[a.position] if r.position not in taken] for a in of_kind
        }
        _match_kind(of_kind, left, first, matches)
    _check_first(first, arguments, results, matches)
    return matches


def _distinct(results: Iterable[Port]) -> list[Port]:
    """Of results that are the same value the last one: `return h, h` gives output and state."""
    return sorted(
        {origin(result.value): result for result in results}.values(), key=lambda r: r.position
    )


def _match_kind(
    arguments: Sequence[Port], options: Mapping[int, Sequence[Port]], first: int, matches: Matches
) -> None:
    """Pairs arguments of one kind in their order: those that have names of states, and the rest."""
    named = [a for a in arguments if is_like_a_state(a.path)]
    pairs, problem = _in_order(named, options, first)
    matches.pairs[NAMED] += pairs
    matches.unclear += [] if problem is None else [problem]

    # The first result is what the network is for.
    taken = {first, *(result for _, result in pairs)}
    left = {i: [r for r in fits if r.position not in taken] for i, fits in options.items()}
    rest = [a for a in arguments if a not in named and left[a.position]]
    pairs, _ = _in_order(rest, left, first)
    matches.pairs[SHAPED] += pairs
    matches.unclear += [_doubtful(a, left[a.position]) for a in rest]


def _options(argument: Port, results: Iterable[Port], arguments: Iterable[Port]) -> list[Port]:
    """The results that may give an argument's next value.

    They are computed from it, or have its name, or are another argument unchanged, as in a line of
    delays; but they are not the argument itself again.
    """
    if "time" in argument.kind:
        return []
    others = [{other.value} for other in arguments if other is not argument]
    return [
        result
        for result in results
        if result.kind == argument.kind
        and result.parts != {argument.value}
        and (agree(argument, result) or result.parts in others)
    ]


def agree(argument: Port, result: Port) -> bool:
    """Whether a result depends on an argument, or has its name."""
    return argument.value in result.sources or are_one(argument.path, result.path)


def _sure(arguments: Iterable[Port], options: Mapping[int, Sequence[Port]]) -> list[Pair]:
    """The pairs that flow, or both names, tell; each result for one argument alone."""
    claims: dict[int, list[int]] = {}
    for argument in arguments:
        result = _certain(argument, options[argument.position])
        if result is not None:
            claims.setdefault(result.position, []).append(argument.position)
    return sorted((of[0], result) for result, of in claims.items() if len(of) == 1)


def _moved(results: Iterable[Port], argument: Port) -> list[Port]:
    """The results that hold a part of an argument."""
    return [result for result in results if argument.value in result.parts]


def _certain(argument: Port, options: Sequence[Port]) -> Port | None:
    named = [result for result in options if are_one(argument.path, result.path)]
    named = [result for result in named if argument.path == result.path] or named
    moved = _moved(options, argument)
    if len(moved) > 1:
        moved = [result for result in moved if result in named]
    certain = moved or ([] if is_like_a_signal(argument.path) else named)
    if argument.leads and not (is_surely_a_state(argument.path) and certain):
        return None
    return certain[0] if len(certain) == 1 else None


def _in_order(
    arguments: Sequence[Port], options: Mapping[int, Sequence[Port]], first: int
) -> tuple[list[Pair], str | None]:
    """Pairs arguments with results in their order; or says why it cannot.

    Where there are more results than arguments, the first of all results, at the position `first`,
    is the output, as in `return output, state`.
    """
    fits = sorted({r.position: r for a in arguments for r in options[a.position]}.items())
    if len(fits) > len(arguments) and fits[0][0] == first:
        fits = fits[1:]
    results = [result for _, result in fits]
    if not results:
        return [], None
    in_order = len(results) == len(arguments) and all(
        result in options[argument.position]
        for argument, result in zip(arguments, results, strict=True)
    )
    if in_order:
        return [(a.position, r.position) for a, r in zip(arguments, results, strict=True)], None
    return [], _unclear(arguments, results)


def _check_first(
    first: int, arguments: Sequence[Port], results: Sequence[Port], matches: Matches
) -> None:
    """Takes back a pair with the first result, where only the argument's name speaks for it.

    Where all results are states, as a cell's are, it is one of them.
    """
    taken = {result for _, result in matches.of((SURE, NAMED))}
    if taken >= {result.position for result in results}:
        return
    for pair in [pair for pair in matches.pairs[NAMED] if pair[1] == first]:
        matches.pairs[NAMED].remove(pair)
        argument = next(a for a in arguments if a.position == pair[0])
        result = next(r for r in results if r.position == first)
        matches.unclear.append(_unclear([argument], [result]))


def _unclear(arguments: Sequence[Port], results: Sequence[Port]) -> str:
    names = ", ".join(map(str, arguments))
    called = f"argument {names} looks like a state"
    if len(arguments) > 1:
        called = f"arguments {names} look like states"
    if len(results) < len(arguments):
        return (
            f"The {called}, and only {len(results)} of the results could be the next ones "
            f"({_listed(results)}). {_advice(arguments, results)}"
        )
    return (
        f"The {called}, and which result gives the next one is not clear: {_listed(results)}. "
        f"{_advice(arguments, results)}"
    )


def _doubtful(argument: Port, results: Sequence[Port]) -> str:
    have = "has" if len(results) == 1 else "have"
    return (
        f"Whether the argument {argument} is a state is not clear: {_listed(results)} {have} its "
        f"shape and dtype. {_advice([argument], results)}"
    )


def _listed(results: Sequence[Port]) -> str:
    return ", ".join(
        f"result {r.position + 1}" + ("" if r.called.isdigit() else f" ({r.called})")
        for r in results
    )


def _advice(arguments: Sequence[Port], results: Sequence[Port]) -> str:
    name, result = ".".join(arguments[0].path), results[0].called
    return (
        f"Say which: states={{{name!r}: {result!r}}} makes it a state, states={{{name!r}: None}} "
        f"does not (--state {name}={result}, --no-state {name})."
    )

# SPDX-License-Identifier: Apache-2.0
"""Which arguments and results are one state, where no recurrent layer shows it.

An argument may be a state where a result has its axes and dtype and is computed from it. A result
that holds a part of the argument itself, as a window that moves on does, is its next value.
Otherwise nothing in the data tells a state from a second signal that goes through the network: the
author's names decide, and where they show nothing either, the caller does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import onnx_ir as ir

from stateport.picking import among, only

from ..graph.dataflow import axes, behind, origin, parts
from .names import (
    Path,
    are_one,
    has_name,
    is_like_a_signal,
    is_like_a_state,
    is_surely_a_state,
)

#: The position of an argument, and that of the result which gives its next value.
Pair = tuple[int, int]

#: How sure a pair is: by its data flow or by both names; by the argument's name; by shape alone.
SURE: Final = "sure"
NAMED: Final = "named"
SHAPED: Final = "shaped"


@dataclass(frozen=True)
class Port:
    """An argument or a result.

    Attributes:
        position: its position among all arguments, or among all results.
        path: what the author calls it.
        value: its value in the graph.
        leads: of an argument, whether it is (in) the first parameter of forward.
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
        if has_name(self.path):
            return ".".join(self.path)
        return str(self.position + 1)

    @property
    def kind(self) -> tuple[object, ...]:
        """The axes and the dtype."""
        return (*axes(self.value), self.value.dtype)

    @cached_property
    def sources(self) -> frozenset[ir.Value]:
        """Everything that a result is computed from."""
        return frozenset(behind(self.value))

    @cached_property
    def parts(self) -> frozenset[ir.Value]:
        """The values that a result consists of, moved or joined but not computed from."""
        return frozenset(parts(self.value))


#: The results that may give the next value of each argument, by the argument's position.
Options = Mapping[int, Sequence[Port]]


@dataclass
class Matches:
    """Pairs by how sure they are, and in words what is not clear."""

    pairs: dict[str, list[Pair]] = field(default_factory=lambda: {SURE: [], NAMED: [], SHAPED: []})
    unclear: list[str] = field(default_factory=list)

    def of(self, levels: Collection[str]) -> list[Pair]:
        """The pairs of these levels, in the order of the arguments."""
        return sorted(pair for level in levels for pair in self.pairs[level])


def match(arguments: Sequence[Port], results: Sequence[Port], *, alone: bool) -> Matches:
    """Pairs arguments with results of the same axes and dtype.

    `alone` says that forward gives a single result, which is the purpose of the network: it is no
    state because its name is that of an argument.
    """
    matches = Matches()
    options: Options = _all_options(arguments, results, alone=alone)
    matches.pairs[SURE] = _sure_pairs(arguments, options)

    # The first parameter that is no state is what the network is fed.
    paired = {argument for argument, _ in matches.pairs[SURE]}
    candidates = _behind_leading(not_at(arguments, paired))
    taken = {result for _, result in matches.pairs[SURE]}
    first = min((result.position for result in not_at(results, taken)), default=0)
    options = _options_without(options, taken)

    for of_kind in _by_kind(candidates):
        _match_kind(of_kind, options, first, matches)

    _take_back_first_result(first, candidates, results, matches)
    return matches


def agree(argument: Port, result: Port) -> bool:
    """Whether a result depends on an argument, or has its name."""
    return argument.value in result.sources or are_one(argument.path, result.path)


def _all_options(
    arguments: Sequence[Port], results: Sequence[Port], *, alone: bool
) -> dict[int, list[Port]]:
    """For each argument, the results that may give its next value."""
    distinct = _distinct_results(results)

    all_options = {}
    for argument in arguments:
        options = _options(argument, distinct, arguments)
        if alone and not is_like_a_state(argument.path):
            options = _holding_a_part(argument, options)
        all_options[argument.position] = options
    return all_options


def _distinct_results(results: Iterable[Port]) -> list[Port]:
    """Of results that are the same value the last one: `return h, h` gives output and state."""
    by_value = {origin(result.value): result for result in results}
    return sorted(by_value.values(), key=lambda result: result.position)


def _options(argument: Port, results: Iterable[Port], arguments: Iterable[Port]) -> list[Port]:
    """The results that may give an argument's next value."""
    if "time" in argument.kind:
        return []

    other_arguments = []
    for port in arguments:
        if port is not argument:
            other_arguments.append({port.value})

    options = []
    for result in results:
        # The argument itself, unchanged, is no next value.
        is_of_other_kind = result.kind != argument.kind
        is_unchanged = result.parts == {argument.value}
        if is_of_other_kind or is_unchanged:
            continue

        # In a line of delays, the next value of an argument is another argument, unchanged.
        is_another_argument = result.parts in other_arguments
        if agree(argument, result) or is_another_argument:
            options.append(result)
    return options


def _holding_a_part(argument: Port, results: Iterable[Port]) -> list[Port]:
    """The results that hold a part of an argument."""
    return [result for result in results if argument.value in result.parts]


def _sure_pairs(arguments: Iterable[Port], options: Options) -> list[Pair]:
    """The pairs that data flow or both names show; no result that two arguments claim."""
    claims: dict[int, list[int]] = {}
    for argument in arguments:
        result = _sure_result(argument, options[argument.position])
        if result is not None:
            claims.setdefault(result.position, []).append(argument.position)

    pairs = []
    for result_position, argument_positions in claims.items():
        if len(argument_positions) == 1:
            pairs.append((argument_positions[0], result_position))
    return sorted(pairs)


def _sure_result(argument: Port, options: Sequence[Port]) -> Port | None:
    """The one result that surely gives an argument's next value; None where there is none."""
    is_fed = argument.leads and not is_surely_a_state(argument.path)
    if is_fed:
        return None

    named = _of_same_name(argument, options)
    moved = _holding_a_part(argument, options)
    if len(moved) > 1:
        moved = among(moved, named)

    sure = moved
    if not moved and not is_like_a_signal(argument.path):
        sure = named
    return only(sure)


def _of_same_name(argument: Port, results: Iterable[Port]) -> list[Port]:
    """The results with an argument's name: with exactly that, or else with one that agrees."""
    agreeing = []
    for result in results:
        if are_one(argument.path, result.path):
            agreeing.append(result)

    exact = [result for result in agreeing if argument.path == result.path]
    return exact or agreeing


def not_at(ports: Iterable[Port], positions: Collection[int]) -> list[Port]:
    """The arguments or results that are not at these positions."""
    return [port for port in ports if port.position not in positions]


def _options_without(options: Options, positions: Collection[int]) -> Options:
    """The options without the results at these positions."""
    return {argument: not_at(results, positions) for argument, results in options.items()}


def _by_kind(arguments: Iterable[Port]) -> list[list[Port]]:
    """The arguments in groups of the same axes and dtype."""
    groups: dict[tuple[object, ...], list[Port]] = {}
    for argument in arguments:
        groups.setdefault(argument.kind, []).append(argument)
    return [*groups.values()]


def _behind_leading(arguments: Sequence[Port]) -> list[Port]:
    """The arguments without the leading parameter: the marked one, or else the first."""
    leading = set()
    for argument in arguments:
        if argument.leads:
            leading.add(argument.path[0])

    if not leading:
        leading = {argument.path[0] for argument in arguments[:1]}

    behind = []
    for argument in arguments:
        if argument.path[0] not in leading:
            behind.append(argument)
    return behind


def _match_kind(arguments: Sequence[Port], options: Options, first: int, matches: Matches) -> None:
    """Pairs arguments of one kind in their order: those that have names of states, and the rest.

    `first` is the position of the first result that is in no sure pair.
    """
    named, unnamed = [], []
    for argument in arguments:
        if is_like_a_state(argument.path):
            named.append(argument)
        else:
            unnamed.append(argument)

    pairs, problem = _pair_in_order(named, options, first)
    matches.pairs[NAMED] += pairs
    if problem is not None:
        matches.unclear.append(problem)

    # The first result is the purpose of the network.
    taken = {first, *(result for _, result in pairs)}
    remaining = _options_without(options, taken)
    rest = [argument for argument in unnamed if remaining[argument.position]]

    pairs, _ = _pair_in_order(rest, remaining, first)
    matches.pairs[SHAPED] += pairs
    matches.unclear += [_doubtful(each, remaining[each.position]) for each in rest]


def _pair_in_order(
    arguments: Sequence[Port], options: Options, first: int
) -> tuple[list[Pair], str | None]:
    """Pairs arguments with results in their order; or says in words why it cannot.

    Where there are more results than arguments, the first of all results, at the position `first`,
    is the output, as in `return output, state`.
    """
    results = _all_results(arguments, options)
    has_output = len(results) > len(arguments) and results[0].position == first
    if has_output:
        results = results[1:]
    if not results:
        return [], None

    if not _fit_in_order(arguments, results, options):
        return [], _unclear(arguments, results)
    pairs = zip(arguments, results, strict=True)
    positions = [(argument.position, result.position) for argument, result in pairs]
    return positions, None


def _all_results(arguments: Iterable[Port], options: Options) -> list[Port]:
    """The results that may give the next value of any of the arguments, in their order."""
    results: dict[int, Port] = {}
    for argument in arguments:
        for result in options[argument.position]:
            results[result.position] = result
    return [results[position] for position in sorted(results)]


def _fit_in_order(arguments: Sequence[Port], results: Sequence[Port], options: Options) -> bool:
    """Whether each result may give the next value of the argument at the same position."""
    if len(results) != len(arguments):
        return False
    pairs = zip(arguments, results, strict=True)
    return all(result in options[argument.position] for argument, result in pairs)


def _take_back_first_result(
    first: int, arguments: Sequence[Port], results: Sequence[Port], matches: Matches
) -> None:
    """Takes back a pair with the first result, where only the argument's name speaks for it.

    Where all results are states, as a cell's are, it is one of them.
    """
    taken = {result for _, result in matches.of((SURE, NAMED))}
    if taken.issuperset(result.position for result in results):
        return

    for pair in list(matches.pairs[NAMED]):
        argument_position, result_position = pair
        if result_position == first:
            matches.pairs[NAMED].remove(pair)
            argument = _at(argument_position, arguments)
            matches.unclear.append(_unclear([argument], [_at(first, results)]))


def _at(position: int, ports: Iterable[Port]) -> Port:
    return next(port for port in ports if port.position == position)


def _unclear(arguments: Sequence[Port], results: Sequence[Port]) -> str:
    """Why arguments that look like states are in no pair, and what to do."""
    names = ", ".join(map(str, arguments))
    subject = f"argument {names} looks like a state"
    if len(arguments) > 1:
        subject = f"arguments {names} look like states"

    if len(results) < len(arguments):
        return (
            f"The {subject}, and only {len(results)} of the results could be the next ones "
            f"({_listed(results)}). {_advice(arguments, results)}"
        )
    return (
        f"The {subject}, and which result gives the next one is not clear: {_listed(results)}. "
        f"{_advice(arguments, results)}"
    )


def _doubtful(argument: Port, results: Sequence[Port]) -> str:
    """Why it is not clear that an argument is a state, and what to do."""
    have = "has" if len(results) == 1 else "have"
    return (
        f"Whether the argument {argument} is a state is not clear: {_listed(results)} {have} its "
        f"shape and dtype. {_advice([argument], results)}"
    )


def _listed(results: Iterable[Port]) -> str:
    return ", ".join(map(_described, results))


def _described(result: Port) -> str:
    name = f" ({result.called})" if has_name(result.path) else ""
    return f"result {result.position + 1}{name}"


def _advice(arguments: Sequence[Port], results: Sequence[Port]) -> str:
    name = ".".join(arguments[0].path)
    result = results[0].called
    return (
        f"Declare it: states={{{name!r}: {result!r}}} makes it a state, states={{{name!r}: None}} "
        f"does not (on the command line, --state {name}={result} or --no-state {name})."
    )

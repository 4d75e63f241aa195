# SPDX-License-Identifier: Apache-2.0
"""Linear attention in parallel form, found by what it computes.

(Q K^T * D) V, with a matrix D of decays, is linear attention over a whole sequence at once, and so
are the chunks of Mamba-2 and its relatives. There are many ways to write them, so nobody reads
them here. The operations between values that keep steps apart and a value that mixes them are run
on random numbers (`attention_trial`). If they follow a rule of `attention`, one call of
`scan` takes their place.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from ..network.program import Op, Ref, operands, refs
from ..network.scan import scan
from .attention import GATES, KEYS, ORDERS, Attention, MeanRule, Rule, Start, SumRule, run_rule
from .attention_trial import Trial, is_close
from .attention_writer import write_attention
from .recurrences import numbers_of_all_kinds
from .regions import Region, region, values_of
from .time_flow import Place, places_of
from .trace import Unrolled

#: What goes from step to step already.
_RUNNING: Final = (scan, torch.ops.aten.cumsum.default)
#: The most values that the operations of one attention start from.
_MOST_STARTS: Final = 7
#: The roles of the values that a later step depends on, by their count.
_CARRIED_ROLES: Final[Mapping[int, Sequence[tuple[str, ...]]]] = {
    1: [("value",)],
    2: [("key", "value"), ("decay", "value")],
    3: [("key", "value", "decay"), ("key", "value", "strength")],
    4: [("key", "value", "strength", "decay")],
}
#: What is added to sums of weights, lest they are zero.
_EPSILONS: Final = (0.0, 1e-6, 1e-8, 1e-5, 1e-12)
#: The magnitudes of numbers, and of decays, with which the operations have to follow the rule.
_SCALES: Final = ((1.0, 1.0), (0.01, 0.1), (30.0, 3.0), (3000.0, 0.01))


def replace_parallel_attention(
    trace: Unrolled, inputs: Sequence[Tensor], axes: Sequence[int | None], time: int
) -> bool:
    """Writes the first linear attention in parallel form as a call of `scan`, in place.

    Args:
        trace: a trace at a fixed number of steps.
        inputs: values of its inputs, at these sizes.
        axes: the axis of time of each argument, None where it has none.
        time: the number of steps.

    Returns:
        Whether it has any.
    """
    values = values_of(trace, inputs)
    places = places_of(trace, values, axes, time)
    part_of_another = None
    for result, axis in _candidates(trace, values, places, time):
        for starts in _starts_of(trace, values, places, result, time):
            part = region(trace, starts, result)
            if not _may_be_attention(trace, part):
                continue
            try:
                found = _attention(Trial(part, inputs, values, places, axis))
            except (RuntimeError, IndexError, ValueError):  # operations may refuse random numbers
                continue
            if found is None:
                continue
            if "key" not in found.starts:
                # It may be a part of another: the logarithm of decays, the sum of weights.
                part_of_another = part_of_another or found
                continue
            write_attention(trace, found)
            return True

    if part_of_another is None:
        return False
    write_attention(trace, part_of_another)
    return True


def _candidates(
    trace: Unrolled, values: Mapping[Ref, Any], places: Mapping[Ref, Place], time: int
) -> Iterator[tuple[Ref, int]]:
    """The values that linear attention may compute, with an axis of time."""
    for op in trace.ops:
        result = Ref(op.result)
        if op.target in _RUNNING or result not in places or not _mixes(op, places):
            continue
        value, axis_of_time = values[result], places[result].axis
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        for axis, size in enumerate(value.shape):
            if size == time and axis_of_time in (axis, None):
                yield result, axis


def _mixes(op: Op, places: Mapping[Ref, Place]) -> bool:
    """Whether an operation mixes steps, or joins values in which they are mixed."""
    if places[Ref(op.result)].mixes:
        return True
    return sum(places[ref].level > 0 for ref in refs(operands(op))) > 1


def _starts_of(
    trace: Unrolled,
    values: Mapping[Ref, Any],
    places: Mapping[Ref, Place],
    result: Ref,
    time: int,
) -> Iterator[tuple[Ref, ...]]:
    """The sets of values from which a value may be computed, the furthest ones first.

    All of a set keep steps apart, and are on one level or before it. Decays may be computed from
    running sums: these are no place to start from, since they grow and grow. What has an axis for
    steps twice, as decays that are spread and masked before they are added up, is one only where
    that is the size of another axis.
    """
    twice = {ref for ref in places if _has_time_twice(values.get(ref), time)}
    seen: set[tuple[Ref, ...]] = set()
    for level, without in itertools.product(range(places[result].level + 1), (twice, set[Ref]())):
        allowed = set()
        for ref, place in places.items():
            if place.axis is not None and place.level <= level:
                allowed.add(ref)

        starts = _first_met(trace, result, allowed - without - {result})
        if starts not in seen and 0 < len(starts) <= _MOST_STARTS:
            seen.add(starts)
            yield starts


def _first_met(trace: Unrolled, result: Ref, allowed: Collection[Ref]) -> tuple[Ref, ...]:
    """The first of the allowed values on all ways back from a result, in order."""
    operation = {op.result: op for op in trace.ops}
    met, waiting, done = set[Ref](), [result], set[int]()
    while waiting:
        ref = waiting.pop()
        if ref in allowed:
            met.add(ref)
        elif ref.value in operation and ref.value not in done:
            done.add(ref.value)
            waiting += refs(operands(operation[ref.value]))
    return tuple(sorted(met, key=lambda ref: (ref.value, ref.part or 0)))


def _has_time_twice(value: Any, time: int) -> bool:
    return isinstance(value, Tensor) and value.shape.count(time) > 1


def _may_be_attention(trace: Unrolled, part: Region) -> bool:
    """Whether operations need no other arguments than the starts, and have no loop in them."""
    if any(number < trace.arguments for number in part.used):
        return False
    return all(op.target is not scan for op in part.program.ops)


def _attention(trial: Trial) -> Attention | None:
    """What the operations compute as linear attention; None where they compute something else."""
    starts = trial.starts()
    if starts is None:
        return None
    direct = [start for start in starts if start.is_direct]
    carried = [start for start in starts if not start.is_direct]
    added = trial.added(starts)
    if added is None:
        return None
    numbers = [start.number for start, _ in added]
    queries = [start for start in direct if start.number not in numbers]
    if len(queries) > 1:
        return None

    for roles in _assignments(queries, carried):
        for rule, decay, bonus in _rules(trial, roles):
            result, axis = trial.part.result, trial.axis
            found = Attention(result, axis, rule, roles, decay, bonus, 1.0, added)
            scale = _scale(trial, found)
            if scale is None:
                continue
            found = replace(found, scale=scale)
            if _follows(trial, found):
                return found
    return None


def _assignments(queries: Sequence[Start], carried: Sequence[Start]) -> Iterator[dict[str, Start]]:
    """The roles that values may have."""
    query = {"query": queries[0]} if queries else {}
    for names in _CARRIED_ROLES.get(len(carried), ()):
        for chosen in itertools.permutations(carried):
            roles = {**query, **dict(zip(names, chosen, strict=True))}
            of_keys = roles.get("key", roles["value"])
            if KEYS in of_keys.axes or not any(KEYS in start.axes for start in roles.values()):
                yield roles


def _rules(
    trial: Trial, roles: Mapping[str, Start]
) -> Iterator[tuple[Rule, Tensor | None, Tensor | None]]:
    """The rules for values in these roles, each with a fixed decay and a bonus, or None."""
    decay = None if "decay" in roles else trial.fixed_decay(roles)
    gates: Sequence[str | None] = [None] if decay is None else ["itself"]
    if "decay" in roles:
        gates = [*GATES]
    orders = ORDERS if gates != [None] else ORDERS[:2]
    for gate, order in itertools.product(gates, orders):
        rule = SumRule(order, gate, "query" in roles, "key" in roles, "strength" in roles)
        bonus = trial.bonus(roles) if rule.reads_before and not rule.is_delta else None
        yield rule, decay, bonus

    if {"query", "key"} <= {*roles} and trial.may_be_mean(roles["value"]):
        for mean in _means(trial, roles):
            yield mean, None, None


def _means(trial: Trial, roles: Mapping[str, Start]) -> Iterator[MeanRule]:
    """The rules that divide by the sum of the weights."""
    keys = roles["key"]
    sizes = [trial.given[keys.number].shape[keys.axes.index(KEYS)]] if KEYS in keys.axes else []
    scales = [1.0, *(size**-0.5 for size in sizes)]
    has_strength = "strength" in roles
    gates: Sequence[str | None] = [*GATES] if "decay" in roles else [None]
    if has_strength:
        gates = ["exp"] if "decay" in roles else []
    for gate, bound, epsilon, scale in itertools.product(gates, (False, True), _EPSILONS, scales):
        yield MeanRule(gate, has_strength, bound, epsilon, scale)


def _arranged(trial: Trial, attention: Attention, given: Sequence[Tensor]) -> dict[str, Tensor]:
    """The values of the starts by their roles, with the axes of the state and steps first."""
    arranged = {}
    for role, start in attention.starts.items():
        value = given[start.number]
        arranged[role] = start.arranged(value, trial.rank, has_keys=attention.has_matrix)
    return arranged


def _by_rule(trial: Trial, attention: Attention, given: Sequence[Tensor]) -> Tensor:
    """What the rule gives for values of the starts, without a scale and what is added."""
    arranged, has_matrix = _arranged(trial, attention, given), attention.has_matrix
    if attention.decay is not None:
        arranged["decay"] = attention.decay.expand(trial.time, *attention.decay.shape)
    return run_rule(attention.rule, arranged, has_matrix=has_matrix)


def _added(trial: Trial, attention: Attention, given: Sequence[Tensor]) -> Tensor:
    """What is added in the same step."""
    total = torch.zeros_like(trial.base)
    if attention.bonus is not None:
        arranged, product = _arranged(trial, attention, given), attention.bonus
        for role in {"query", "key", "value"} & {*arranged}:
            product = product * arranged[role]
        total += product.sum(-1) if attention.has_matrix else product
    for start, factor in attention.added:
        total += factor * start.arranged(given[start.number], trial.rank, has_keys=False)
    return total


def _scale(trial: Trial, attention: Attention) -> float | None:
    """The factor between the rule and the operations; None if they do not follow the rule."""
    ruled = _by_rule(trial, attention, trial.given)
    if ruled.shape != trial.base.shape:
        return None
    result = trial.base - _added(trial, attention, trial.given)
    scale = float((result * ruled).sum() / (ruled * ruled).sum())
    if not is_close(scale * ruled, result):
        return None
    # Two traces have to agree on it, whatever the rounding of their sums.
    return float(f"{scale:.12g}")


def _follows(trial: Trial, attention: Attention) -> bool:
    """Whether the operations follow the rule for numbers of all kinds."""
    random = torch.Generator().manual_seed(0)
    for scale, small in _SCALES:
        given = [numbers_of_all_kinds(value, scale, random) for value in trial.given]
        for role in {"decay", "strength"} & {*attention.starts}:
            number = attention.starts[role].number
            given[number] = numbers_of_all_kinds(trial.given[number], small, random)
        if "strength" in attention.starts:
            number = attention.starts["key"].number
            given[number] = numbers_of_all_kinds(trial.given[number], small, random)

        if isinstance(attention.rule, MeanRule):  # whose sum of weights may not be zero
            given = [value.where(value != 0, 1.0) for value in given]

        ruled = attention.scale * _by_rule(trial, attention, given)
        expected = ruled + _added(trial, attention, given)
        error = float((trial.run(given) - expected).abs().max())
        if not error <= 1e-9 * float(expected.abs().max()):
            return False
    return True

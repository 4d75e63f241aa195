# SPDX-License-Identifier: Apache-2.0
"""A contract for fewer sizes, for a file that is right at those alone that it was made for.

PyTorch's exporter may make a graph for some sizes of an axis, as those from 5 on that a branch of
forward leaves. The graph often holds at the other sizes as well. Only where it does not, the
contract says at which sizes it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from torch.utils._sympy.functions import BitwiseFn_bitwise_and, FloorDiv, Mod

from stateport import Contract
from stateport.contract import Streaming
from stateport.parity.vectors import Vectors

from ..capture.capture import Captured, Range
from ..network.example import Example
from ..vectors.cases import is_within_limits

#: The largest number of steps of which a file takes multiples alone where forward takes others.
_LARGEST_MULTIPLE: Final = 32


def narrowed_contract(contract: Contract, ranges: Mapping[str, Range]) -> Contract | None:
    """The contract with the smallest and largest sizes of axes; None where it has these already.

    Args:
        contract: the contract.
        ranges: the smallest and the largest size of axes; None where there is no largest one.
    """
    minimums = dict(contract.minimums)
    limits = dict(contract.limits)
    for axis, (smallest, largest) in ranges.items():
        if smallest > minimums.get(axis, 1):
            minimums[axis] = smallest
        if largest is not None and largest < limits.get(axis, largest + 1):
            limits[axis] = largest

    narrowed = replace(
        contract, minimums=tuple(sorted(minimums.items())), limits=tuple(sorted(limits.items()))
    )
    if narrowed == contract:
        return None

    shortest = minimums.get("time", 1)
    if contract.streaming.ok and shortest > contract.step_multiple:
        reason = f"in calls of less than {shortest} steps, forward does something else"
        return replace(narrowed, streaming=Streaming(False, reason))
    return narrowed


def at_multiples_asked_for(example: Example, captured: Captured) -> Example | None:
    """The example for lengths that are multiples of what forward divides a length by.

    Forward may leave out the last step of an odd number of them (`if x.shape[1] % 2`), or pad it.
    None where it does no such thing, or the example has these multiples already.
    """
    multiple = example.time_multiple
    for expression, axes in captured.guards:
        if set(axes.values()) == {"time"}:
            multiple = math.lcm(multiple, *_divisors_of_a_size(expression))
    if multiple == example.time_multiple > 1:
        multiple *= 2  # as layers one behind the other halve a sequence
    if multiple == example.time_multiple or multiple > _LARGEST_MULTIPLE:
        return None
    return example.with_multiple(multiple)


def _divisors_of_a_size(expression: Any) -> list[int]:
    """The numbers by which an expression divides a size, or asks for the rest."""
    divisors = []
    for division in expression.atoms(Mod, FloorDiv, BitwiseFn_bitwise_and):
        size, number = division.args
        # `T & 1` asks for the last bit, as `T % 2` does.
        divisor = number + 1 if isinstance(division, BitwiseFn_bitwise_and) else number
        if isinstance(size, FloorDiv):
            size, divisor = size.args[0], size.args[1] * divisor
        if size.is_Symbol and divisor.is_Integer:
            divisors.append(int(divisor))
    return divisors


def narrowed_vectors(vectors: Vectors, contract: Contract) -> Vectors | None:
    """The vectors without cases of sizes that a narrowed contract excludes; None if none is left.

    Args:
        vectors: the vectors, of a contract for more sizes.
        contract: has the smallest and largest sizes.
    """
    narrowed = replace(vectors.contract, minimums=contract.minimums, limits=contract.limits)

    cases = []
    for case in vectors.cases:
        if is_within_limits(case, narrowed):
            cases.append(case)

    if not cases:
        return None
    return replace(vectors, contract=narrowed, cases=tuple(cases))


def differences(narrowed: Contract, contract: Contract) -> str:
    """A sentence on the sizes that a narrowed contract excludes."""
    parts = [
        *(f"{axis} below {size}" for axis, size in {*narrowed.minimums} - {*contract.minimums}),
        *(f"{axis} beyond {size}" for axis, size in {*narrowed.limits} - {*contract.limits}),
    ]
    return (
        f"At sizes of {' and '.join(sorted(parts))}, forward does something that is not in the "
        "file, which refuses them."
    )

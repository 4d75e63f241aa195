# SPDX-License-Identifier: Apache-2.0
"""Where each array of a step is: an argument, a constant, or local memory that arrays share.

An operator that only gives elements another shape needs no code: its result is where its operand
is. The result of a `Split` along the first axis is a part of its operand. Local arrays whose lives
do not overlap share memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final, NamedTuple

from .program import Call, CArray, Program

#: Operators that leave all elements in their order.
_RESHAPES: Final = frozenset(["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"])


class Place(NamedTuple):
    """An array, and the number of elements before the first one."""

    array: str
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.array} + {self.offset}" if self.offset else self.array


@dataclass(frozen=True)
class Placed:
    """The calls that are left, and the place of every array that they read and write.

    Attributes:
        calls: the calls that need code. A `Reshape` among them copies.
        places: by name, where an array is.
        locals: the local arrays.
    """

    calls: tuple[Call, ...]
    places: Mapping[str, Place]
    locals: tuple[CArray, ...]

    def place(self, name: str) -> Place:
        """Where an array is; constants and arguments have their own names."""
        return self.places.get(name, Place(name))


def placed(program: Program, taken: set[str]) -> Placed:
    """Places all arrays of a step.

    Args:
        program: the step.
        taken: names in C that local arrays must not have.
    """
    aliases = _Aliases(program)
    calls = [call for call in program.calls if not aliases.absorb(call)]
    lives = _lives(calls, aliases)

    slots = _Slots(taken)
    sizes = {array.name: array for array in program.temporaries}
    for number, call in enumerate(calls):
        for name, _ in call.writes:
            root = aliases.place(name).array
            if root in sizes and lives[root].first == number:
                slots.take(sizes[root])
        slots.release(root for root, life in lives.items() if life.last == number)

    places = {}
    for name in (*sizes, *aliases.names):
        place = aliases.place(name)
        places[name] = Place(slots.of.get(place.array, place.array), place.offset)
    return Placed(tuple(calls), places, tuple(slots.arrays))


class _Aliases:
    """Arrays that are a part of another one."""

    def __init__(self, program: Program) -> None:
        self._temporaries = {array.name: array for array in program.temporaries}
        self._places: dict[str, Place] = {}

    @property
    def names(self) -> Iterable[str]:
        """The arrays that have another one's place."""
        return self._places.keys()

    def place(self, name: str) -> Place:
        """The array that holds an array, and where."""
        offset = 0
        while name in self._places:
            name, before = self._places[name]
            offset += before
        return Place(name, offset)

    def absorb(self, call: Call) -> bool:
        """Makes the results of a call parts of its operand; returns whether no code is needed."""
        offsets = _offsets(call)
        if offsets is None:
            return False

        source = call.reads[0][0]
        results = [name for name, _ in call.writes]
        size = call.writes[0][1].size
        if all(name in self._temporaries for name in results):
            for name, offset in zip(results, offsets, strict=True):
                self._places[name] = Place(source, offset)
            return True
        return len(results) == 1 and self._write_directly(source, results[0], size)

    def _write_directly(self, source: str, output: str, size: int) -> bool:
        """Lets the source be written into an output of the step, where it is all of it.

        `size` is the number of elements of the output. The source may be the first part of a
        larger array, for which the output has no room.
        """
        root, offset = self.place(source)
        if offset or root not in self._temporaries or self._temporaries[root].size != size:
            return False
        if self.place(output).array != output:
            return False
        self._places[root] = Place(output)
        return True


def _offsets(call: Call) -> list[int] | None:
    """Where each result begins in the first operand; None if they are not parts of it."""
    function = call.function
    (_, source), results = call.reads[0], [array for _, array in call.writes]

    if function.operator in _RESHAPES and len(results) == 1:
        return [0]
    if function.operator == "Transpose" and _keeps_order(source.dims, function.attributes):
        return [0]
    if (
        function.operator == "Gather"
        and call.reads[1][1].size == 1
        and results[0].size == source.size
    ):
        return [0]

    if function.operator == "Split":
        axis = int(function.attributes.get("axis", "0")) % len(source.dims)
        if prod(source.dims[:axis]) == 1:
            starts, start = [], 0
            for array in results:
                starts.append(start)
                start += array.size
            return starts
    return None


def _keeps_order(dims: Sequence[int], attributes: Mapping[str, str]) -> bool:
    """Whether a `Transpose` moves axes of size 1 only."""
    text = attributes.get("perm", "")
    axes = [int(axis) for axis in text.strip("[]").split(",")] if text else []
    moved = [axis for axis in axes if dims[axis] != 1]
    return bool(axes) and moved == sorted(moved)


class _Life(NamedTuple):
    """The first and the last call that needs an array."""

    first: int
    last: int


def _lives(calls: Sequence[Call], aliases: _Aliases) -> dict[str, _Life]:
    lives: dict[str, _Life] = {}
    for number, call in enumerate(calls):
        for name in call.arguments:
            root = aliases.place(name).array
            first = lives[root].first if root in lives else number
            lives[root] = _Life(first, number)
    return lives


@dataclass
class _Slots:
    """Local arrays that are used again once nothing needs what they hold."""

    taken: set[str]
    arrays: list[CArray] = field(default_factory=list)
    of: dict[str, str] = field(default_factory=dict)
    _free: set[str] = field(default_factory=set)

    def take(self, array: CArray) -> None:
        """Gives an array the smallest free slot that has its type and is large enough."""
        fitting = []
        for slot in self.arrays:
            if slot.name in self._free and slot.ctype == array.ctype and slot.size >= array.size:
                fitting.append(slot)
        if fitting:
            slot = min(fitting, key=lambda each: each.size)
            self._free.remove(slot.name)
        else:
            slot = CArray(self._new_name(), array.ctype, (array.size,))
            self.arrays.append(slot)
        self.of[array.name] = slot.name

    def release(self, names: Iterable[str]) -> None:
        """Frees the slots of these arrays."""
        for name in names:
            if name in self.of:
                self._free.add(self.of[name])

    def _new_name(self) -> str:
        number = len(self.arrays)
        name = f"t{number}"
        while name in self.taken:
            name += "_"
        return name

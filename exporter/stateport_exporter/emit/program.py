# SPDX-License-Identifier: Apache-2.0
"""A step as C: constants, functions, and the calls of these in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Final

#: The bytes of each type that is written.
BYTES: Final = {
    "float": 4,
    "double": 8,
    "bool": 1,
    "int8_t": 1,
    "uint8_t": 1,
    "int16_t": 2,
    "uint16_t": 2,
    "int32_t": 4,
    "uint32_t": 4,
    "int64_t": 8,
    "uint64_t": 8,
}


@dataclass(frozen=True)
class CArray:
    """An array with its type in C, such as `float x[2][5]`, which is stored flat."""

    name: str
    ctype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements; of a single number 1."""
        return prod(self.dims)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.size * BYTES[self.ctype]


@dataclass(frozen=True)
class Constant:
    """A constant array: its elements as C writes them."""

    array: CArray
    elements: tuple[str, ...]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function: an array that it reads, or one that it writes."""

    array: CArray
    is_output: bool


@dataclass(frozen=True)
class Function:
    """A function for one node of the graph.

    Attributes:
        name: its name in C.
        operator: the operator of the node, "Gemm".
        attributes: the node's attributes that are set, as text.
        parameters: the parameters in order.
        source: its definition, whose parameters are arrays with all their dimensions.
    """

    name: str
    operator: str
    attributes: dict[str, str]
    parameters: tuple[Parameter, ...]
    source: str


@dataclass(frozen=True)
class Call:
    """A call of a function with the names of arrays."""

    function: Function
    arguments: tuple[str, ...]

    @property
    def reads(self) -> list[tuple[str, CArray]]:
        """The names of the arrays that it reads, with what the function takes them for."""
        return self._arguments(outputs=False)

    @property
    def writes(self) -> list[tuple[str, CArray]]:
        """The names of the arrays that it writes, with what the function takes them for."""
        return self._arguments(outputs=True)

    def _arguments(self, *, outputs: bool) -> list[tuple[str, CArray]]:
        chosen = []
        for name, parameter in zip(self.arguments, self.function.parameters, strict=True):
            if parameter.is_output == outputs:
                chosen.append((name, parameter.array))
        return chosen


@dataclass(frozen=True)
class Program:
    """One step.

    Attributes:
        inputs: what it reads: the network's inputs and states.
        outputs: what it writes: the network's outputs and next states.
        constants: the weights.
        helpers: small functions, each with its name, that the others call.
        temporaries: arrays that live during a step.
        calls: the calls, in order.
    """

    inputs: tuple[CArray, ...]
    outputs: tuple[CArray, ...]
    constants: tuple[Constant, ...]
    helpers: dict[str, str] = field(default_factory=dict)
    temporaries: tuple[CArray, ...] = ()
    calls: tuple[Call, ...] = ()

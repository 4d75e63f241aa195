# SPDX-License-Identifier: Apache-2.0
"""A number that computes as a tensor without axes does, and may be a size that is unknown yet."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

#: The dtypes of integers.
INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_OPERATORS: Final = ("add", "sub", "mul", "truediv", "floordiv", "mod")
#: Conversions that leave a size unknown where it is.
_to_int: Callable[[Any], Any] = torch.sym_int
_to_float: Callable[[Any], Any] = torch.sym_float
_COMPARISONS: Final = ("lt", "le", "gt", "ge", "eq", "ne")


class Number:
    """A number in place of a tensor without axes. It may be a size that is unknown yet."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Number({self.value})"

    # As with tensors, two that are equal are not the same.
    __hash__ = object.__hash__

    def to(self, dtype: Any = None, *_: Any, **__: Any) -> Number:
        """The number in another dtype."""
        if dtype in INTEGERS:
            return Number(_to_int(self.value))
        return Number(_to_float(self.value))

    def long(self) -> Number:
        """The number as an int64."""
        return self.to(torch.int64)

    def float(self) -> Number:
        """The number as a float32."""
        return self.to(torch.float32)

    def item(self) -> Any:
        """The number itself."""
        return self.value

    def ceil(self) -> Number:
        """The next integer above, as a float."""
        return Number(_ceil(self.value))

    def floor(self) -> Number:
        """The next integer below, as a float."""
        return Number(-_ceil(-self.value))

    def __neg__(self) -> Number:
        return Number(-self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return operator.index(self.value)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """PyTorch's protocol for what takes the place of a tensor."""
        function = _FUNCTIONS.get(func)
        if function is not None and not kwargs:
            return function(*args)
        args, kwargs = with_values((args, dict(kwargs or {})))
        return func(*args, **kwargs)


def _ceil(value: Any) -> Any:
    """The next integer, as a float, which is what `torch.ceil` gives of a float."""
    return _to_float(math.ceil(value))


_FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    torch.ceil: Number.ceil,
    torch.floor: Number.floor,
    torch.neg: operator.neg,
    torch.add: operator.add,
    torch.sub: operator.sub,
    torch.mul: operator.mul,
    torch.div: operator.truediv,
    torch.floor_divide: operator.floordiv,
    torch.remainder: operator.mod,
    torch.maximum: max,
    torch.minimum: min,
}


def _between(operation: Callable[[Any, Any], Any], *, is_swapped: bool) -> Callable[..., Any]:
    """An operator between a number and another number, or a tensor."""

    def run(self: Number, other: Any) -> Any:
        if isinstance(other, Number):
            other = other.value
        first, second = (other, self.value) if is_swapped else (self.value, other)
        result = operation(first, second)
        return result if isinstance(result, Tensor | bool | torch.SymBool) else Number(result)

    return run


for _name in _OPERATORS:
    _operation = getattr(operator, _name)
    setattr(Number, f"__{_name}__", _between(_operation, is_swapped=False))
    setattr(Number, f"__r{_name}__", _between(_operation, is_swapped=True))
for _name in _COMPARISONS:
    setattr(Number, f"__{_name}__", _between(getattr(operator, _name), is_swapped=False))


def with_values(tree: Any) -> Any:
    """A container with the values of numbers in their place."""
    return pytree.tree_map(lambda leaf: leaf.value if isinstance(leaf, Number) else leaf, tree)


def pad_by_numbers(input: Tensor, pad: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: A002
    """`F.pad` with numbers in its list, which PyTorch would fix while it traces."""
    return functional.pad(input, with_values(pad), *args, **kwargs)

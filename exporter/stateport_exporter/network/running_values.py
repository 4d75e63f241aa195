# SPDX-License-Identifier: Apache-2.0
"""Running sums, products, largest and smallest values, and the numbers of steps.

`torch.cumsum` over time gives at each step the sum of all steps so far. What a call needs of the
calls before is one value: the sum at their last step. The same holds for its relatives, and for
`torch.arange`, by which a network numbers its steps: a call goes on from the number of the last
step.

PyTorch's exporter cannot write `cumprod`, `cummax` and `cummin`, and what it writes for
`logcumsumexp` overflows. They become loops over time, whose state is the value so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from .program import Body, Op, Program, Ref

SUMS: Final = (torch.cumsum, Tensor.cumsum)
#: The kinds of places where sums are computed, and where steps are numbered.
SUM: Final = "sum"
COUNT: Final = "count"


def with_dim(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, with PyTorch's name for what NumPy calls `axis`; PyTorch takes both."""
    return {"dim" if name == "axis" else name: value for name, value in kwargs.items()}


def step_of_numbers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The distance of two numbers of `torch.arange(*args, **kwargs)`; None if it is no integer."""
    step = kwargs.get("step", args[2] if len(args) > 2 else 1)
    return step if isinstance(step, int) and step != 0 else None


_ATEN: Final = torch.ops.aten


def _body(*ops: Op) -> Body:
    """A step that computes the next value from the value so far (0) and this step's (1)."""
    last = Ref(ops[-1].result)
    return Body(Program(2, ops, (last, last)), states=1, sequences=1, path="")


def _loop(target: Callable[..., Tensor]) -> Body:
    return _body(Op(2, target, (Ref(0), Ref(1))))


#: log(exp(a) + exp(b)) as max(a, b) + log(1 + exp(-|a - b|)), which does not overflow.
_LOG_SUM_STEP: Final = _body(
    Op(2, _ATEN.maximum.default, (Ref(0), Ref(1))),
    Op(3, _ATEN.sub.Tensor, (Ref(0), Ref(1))),
    Op(4, _ATEN.abs.default, (Ref(3),)),
    Op(5, _ATEN.neg.default, (Ref(4),)),
    Op(6, _ATEN.exp.default, (Ref(5),)),
    Op(7, _ATEN.log1p.default, (Ref(6),)),
    Op(8, _ATEN.add.Tensor, (Ref(2), Ref(7))),
)
_SUM: Final = (_loop(_ATEN.add.Tensor), 0.0)
_PRODUCT: Final = (_loop(_ATEN.mul.Tensor), 1.0)
_LARGEST: Final = (_loop(_ATEN.maximum.default), -math.inf)
_SMALLEST: Final = (_loop(_ATEN.minimum.default), math.inf)
#: As small as makes no difference: two infinities would have no difference that is a number.
_LOG_SUM: Final = (_LOG_SUM_STEP, -1e30)

#: Functions that become loops: the step of each, and the value before the first step.
LOOPS: Final[dict[Callable[..., Any], tuple[Body, float]]] = {
    torch.cumprod: _PRODUCT,
    Tensor.cumprod: _PRODUCT,
    torch.cummax: _LARGEST,
    Tensor.cummax: _LARGEST,
    torch.cummin: _SMALLEST,
    Tensor.cummin: _SMALLEST,
    torch.logcumsumexp: _LOG_SUM,
    Tensor.logcumsumexp: _LOG_SUM,
}


#: Runs a step, from the value before the first step, along the first axis of a tensor; returns the
#: values of all steps.
Runner = Callable[[Body, Tensor, Tensor], Tensor]


def run_as_loop(
    func: Callable[..., Any],
    runner: Runner,
    input: Tensor,  # noqa: A002  # PyTorch's name
    dim: int,
    **rest: Any,
) -> Any:
    """The result of a running sum or one of its relatives, computed as a loop over its axis."""
    with torch._C.DisableTorchFunction():  # modes see the loop alone
        result = func(input, dim, **rest)
    if input.ndim == 0:
        return result

    slices = input.to(values_of(result).dtype).movedim(dim, 0)
    body, first = _loop_of(func, slices[0])
    return with_values(result, runner(body, first, slices).movedim(0, dim))


def _loop_of(func: Callable[..., Any], like: Tensor) -> tuple[Body, Tensor]:
    """The step of a function, and the value before the first step, like one step."""
    body, start = LOOPS.get(func, _SUM)
    if math.isinf(start) and not like.is_floating_point():
        range_of_dtype = torch.iinfo(like.dtype)
        start = range_of_dtype.min if start < 0 else range_of_dtype.max
    return body, torch.full_like(like, start)


def values_of(result: Any) -> Tensor:
    """The values in the result of a function; `cummax` and `cummin` give indices as well."""
    values: Tensor = result if isinstance(result, Tensor) else result[0]
    return values


def with_values(result: Any, values: Tensor) -> Any:
    """The result of a function with other values."""
    return values if isinstance(result, Tensor) else type(result)((values, *result[1:]))

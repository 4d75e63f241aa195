# SPDX-License-Identifier: Apache-2.0
"""Functions as engines compute them in float32, where PyTorch takes more care.

PyTorch on the CPU adds running sums up in float64 (`cumsum_cpu_kernel` in ReduceOpsKernel.cpp), and
its sigmoid is as exact for -16 as for 0. ONNX Runtime's CumSum keeps float32, and its Sigmoid has
the error of numbers near 0.5 everywhere. What float32 loses is measured with these functions too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..evaluation import quotients


class EngineFunctions(TorchFunctionMode):
    """While it is on, functions of float32 are computed as engines compute them.

    Those inside recurrent layers are PyTorch's: it computes a layer as a whole.

    Attributes:
        has_run: whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.has_run = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Computes a function as engines do, if it is one of them; all else is PyTorch's."""
        named = kwargs or {}
        function = _FUNCTIONS.get(func)
        if function is None or "out" in named or "dtype" in named or not _is_float32(args):
            return func(*args, **named)

        self.has_run = True
        return function(*args, **named)


def _is_float32(args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].dtype == torch.float32


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function of float32 numbers of any shape, as engines compute it."""
    return torch.from_numpy(quotients.sigmoid(x.numpy(force=True)))


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent of float32 numbers of any shape, as engines compute it."""
    return torch.from_numpy(quotients.tanh(x.numpy(force=True)))


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    result = x * sigmoid(x)
    return x.copy_(result) if inplace else result


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    values, gates = x.chunk(2, dim)
    return values * sigmoid(gates)


def _in_place(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: x.copy_(function(x))


def _accumulated(accumulate: Callable[..., Any]) -> Callable[..., Tensor]:
    """A running sum or product along a dimension, rounded to float32 after each step."""

    def function(x: Tensor, dim: int = 0, *, axis: int | None = None) -> Tensor:
        if x.ndim == 0:
            return x.clone()

        along = dim if axis is None else axis  # PyTorch takes NumPy's name too
        return torch.from_numpy(accumulate(x.numpy(force=True), axis=along, dtype=np.float32))

    return function


_FUNCTIONS: Final[Mapping[Callable[..., Any], Callable[..., Tensor]]] = {
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, torch.special.expit), sigmoid),
    **dict.fromkeys((torch.sigmoid_, Tensor.sigmoid_), _in_place(sigmoid)),
    **dict.fromkeys((torch.tanh, Tensor.tanh), tanh),
    **dict.fromkeys((torch.tanh_, Tensor.tanh_), _in_place(tanh)),
    **dict.fromkeys((F.silu, torch._C._nn.silu), _silu),
    **dict.fromkeys((F.glu, torch._C._nn.glu), _glu),
    **dict.fromkeys((torch.cumsum, Tensor.cumsum), _accumulated(np.cumsum)),
    **dict.fromkeys((torch.cumprod, Tensor.cumprod), _accumulated(np.cumprod)),
}

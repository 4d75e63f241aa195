# SPDX-License-Identifier: Apache-2.0
"""Running sums and products as engines compute them: in float32, one step after the other.

On the CPU, PyTorch adds float32 up in float64 and rounds each result (`cumsum_cpu_kernel` in
aten/src/ATen/native/cpu/ReduceOpsKernel.cpp). ONNX Runtime's CumSum keeps float32, and so does
PyTorch on a GPU. What float32 loses is therefore measured with sums of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: PyTorch's operator -> NumPy's function that computes it in the dtype that it is asked for.
_ACCUMULATE: Final[Mapping[object, Callable[..., Any]]] = {
    torch.ops.aten.cumsum.default: np.cumsum,
    torch.ops.aten.cumprod.default: np.cumprod,
}


class RunningSums(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, running sums and products of float32 are computed in float32.

    Attributes:
        has_run: whether there was one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.has_run = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Computes a running sum or product of float32; all else is PyTorch's."""
        accumulate = _ACCUMULATE.get(func)
        if accumulate is None or kwargs or args[0].dtype != torch.float32 or args[0].ndim == 0:
            return func(*args, **(kwargs or {}))

        self.has_run = True
        values: Tensor
        values, dim = args
        return torch.from_numpy(accumulate(values.numpy(force=True), axis=dim, dtype=np.float32))

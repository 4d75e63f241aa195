# SPDX-License-Identifier: Apache-2.0
"""The author's own network, out of what training wraps around it."""

from __future__ import annotations

from torch import nn
from torch._dynamo.eval_frame import OptimizedModule


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, `nn.DataParallel` and `DistributedDataParallel`.

    Neither changes what the network computes. The module itself is returned where nothing is
    wrapped around it.
    """
    while True:
        if isinstance(module, OptimizedModule):
            module = module._orig_mod
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        else:
            return module


def unwrap_parts(network: nn.Module) -> None:
    """Puts parts of the network in place of their compiled forms, in place.

    Only a copy of the author's network may be given: `module.compile()` is undone too.
    """
    for part in list(network.modules()):
        part._compiled_call_impl = None  # what module.compile() sets
        for name, child in list(part.named_children()):
            inner = unwrapped(child)
            if inner is not child:
                setattr(part, name, inner)

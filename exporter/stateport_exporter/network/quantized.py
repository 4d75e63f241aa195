# SPDX-License-Identifier: Apache-2.0
"""Networks that PyTorch quantised, or is about to: they are refused with what to export instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import nn

from ..errors import ExportError

#: Packages of PyTorch whose modules compute in integers.
_INTEGER: Final = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
#: Packages whose modules watch values, or round them as integers would.
_WATCHING: Final = ("torch.ao.quantization", "torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat")
#: What marks the ends of a quantised part, and does nothing before that part is quantised.
_STUBS: Final = ("QuantStub", "DeQuantStub", "QuantWrapper")


def check_not_quantized(network: nn.Module) -> None:
    """Refuses a network with a quantised part, or with fake quantisation left in.

    Raises:
        ExportError: with the part, and what to do.
    """
    for name, kind in _quantized_parts(network):
        raise ExportError(
            f"{name!r} is quantised by PyTorch ({kind}), which no ONNX file takes over. Export the "
            "float network, and make its weights 8 bits wide with `stateport quantize`."
        )
    for name, kind in _watching_parts(network):
        raise ExportError(
            f"{name!r} has fake quantisation or an observer left in ({kind}). Export the float "
            "network that it was prepared from, with its weights, and make the file's weights "
            "8 bits wide with `stateport quantize`."
        )


def _quantized_parts(network: nn.Module) -> Iterator[tuple[str, str]]:
    for name, part in network.named_modules():
        if type(part).__module__.startswith(_INTEGER):
            yield name or type(network).__qualname__, _kind(part)
    for name, parameter in network.named_parameters():
        # torchao and others put subclasses of tensors in place of the weights.
        if parameter.is_quantized or type(parameter.data) is not torch.Tensor:
            yield name, type(parameter.data).__qualname__


def _watching_parts(network: nn.Module) -> Iterator[tuple[str, str]]:
    for name, part in network.named_modules():
        if type(part).__module__.startswith(_WATCHING) and type(part).__name__ not in _STUBS:
            yield name or type(network).__qualname__, _kind(part)


def _kind(part: nn.Module) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"

# SPDX-License-Identifier: Apache-2.0
"""Programs with complex numbers, written with their real and imaginary parts.

ONNX has complex numbers for Fourier transforms alone, and engines have no states of them. So a
program that PyTorch traced is run once more, step by step: a complex tensor is a pair of real ones,
and each operator computes both. What is traced then has real numbers alone. A Fourier transform
stays as it is, between pairs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from .complex_operators import (
    DTYPE_OF_PARTS,
    MAKERS,
    RULES,
    Pair,
    Rule,
    is_power_of_two,
    native,
    put_together,
    taken_apart,
)

_aten: Final = torch.ops.aten


class _Parts(nn.Module):
    """A complex parameter as two real ones."""

    def forward(self, real: Tensor, imag: Tensor) -> Tensor:
        """The complex numbers."""
        return torch.complex(real, imag)

    def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts."""
        return value.real.contiguous(), value.imag.contiguous()


def split_parameters(network: nn.Module) -> None:
    """Keeps each complex parameter and buffer of a network as two real ones, in place."""
    for module in list(network.modules()):
        held = {**module._parameters, **module._buffers}
        for name, value in held.items():
            if value is None or not value.is_complex():
                continue
            kind = type(module)
            parametrize.register_parametrization(module, name, _Parts(), unsafe=True)
            # In messages it is called what its author called it.
            type(module).__name__, type(module).__qualname__ = kind.__name__, kind.__qualname__


def has_fixed_transforms(program: ExportedProgram) -> bool:
    """Whether a program has Fourier transforms, each of a fixed power of two of values.

    PyTorch's exporter writes them well. Of other numbers ONNX Runtime loses half of the digits, and
    where the number is not fixed, it mistakes shapes.
    """
    sizes: list[Any] = []
    for node in program.graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if packet in (_aten.stft, _aten.istft):
            sizes.append(1)
        elif "fft" in str(packet):
            sizes.append(_size_of(node))
    return bool(sizes) and all(map(is_power_of_two, sizes))


def _size_of(node: fx.Node) -> Any:
    """The number of values of a Fourier transform: that of the real ones, or of all of them."""
    axis: Any = node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else -1)
    axis = axis if isinstance(axis, int) else -1
    is_inverse = "irfft" in str(node.target)
    tensor: Any = node if is_inverse else node.args[0]
    size: Any = node.kwargs.get("n", node.args[1] if len(node.args) > 1 else None)
    return tensor.meta["val"].shape[axis] if size is None else size


def has_complex_numbers(program: ExportedProgram) -> bool:
    """Whether any value in a program is complex."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_complex():
            return True
    return False


class RealParts(nn.Module):
    """Computes what a program does, with real numbers alone; its parameters have their names."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        graph_module: Any = program.module(check_guards=False)
        self._modules = graph_module._modules
        self._parameters = graph_module._parameters
        self._buffers = graph_module._buffers
        constants = _split_constants(graph_module)
        # No submodule, whose parameters would have other names.
        self.__dict__["run"] = partial(_run, graph_module, constants)

    def forward(self, *args: Any) -> Any:
        """What the program returns."""
        return vars(self)["run"](*args)


def _split_constants(graph_module: fx.GraphModule) -> dict[str, Pair]:
    """The complex constants of a program as pairs; under a trace they could not be taken apart."""
    constants = {}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value: Any = graph_module
        for name in str(node.target).split("."):
            value = getattr(value, name)
        if isinstance(value, Tensor) and value.is_complex():
            parts = value.detach()
            constants[str(node.target)] = Pair(
                parts.real.contiguous().clone(), parts.imag.contiguous().clone()
            )
    return constants


def _run(graph_module: fx.GraphModule, constants: dict[str, Pair], *args: Any) -> Any:
    return _Interpreter(graph_module, constants).run(*args)


class _Interpreter(fx.Interpreter):
    """Runs a program with a pair of real tensors for each complex one."""

    def __init__(self, graph_module: fx.GraphModule, constants: dict[str, Pair]) -> None:
        super().__init__(graph_module)
        self._constants = constants

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A parameter or constant."""
        return self._constants.get(str(target)) or super().get_attr(target, args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operator."""
        if not isinstance(target, torch._ops.OpOverload):
            return super().call_function(target, args, kwargs)

        leaves = pytree.tree_leaves((args, kwargs))
        if any(map(_is_complex, leaves)):
            rule: Rule | None = RULES.get(target.overloadpacket, native)
        else:
            rule = MAKERS.get(target.overloadpacket)
        if rule is None:
            return taken_apart(super().call_function(target, args, kwargs))
        return rule(target, *args, **kwargs)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The results; complex ones are put together again."""
        return pytree.tree_map(put_together, super().output(target, args, kwargs))


def _is_complex(operand: Any) -> bool:
    """Whether an operand is a pair, a complex number or the dtype of these."""
    if isinstance(operand, torch.dtype):
        return operand in DTYPE_OF_PARTS
    return isinstance(operand, Pair | complex)

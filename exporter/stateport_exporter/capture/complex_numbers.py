# SPDX-License-Identifier: Apache-2.0
"""Programs with complex numbers, written with their real and imaginary parts.

ONNX has complex numbers for Fourier transforms alone, and engines have no states of them. So a
program that PyTorch traced is run once more, step by step: a complex tensor is a pair of real ones,
and each operator computes both. What is traced then has real numbers alone. A Fourier transform
stays as it is, between pairs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

#: The dtype of the parts of a complex number.
_DTYPE_OF_PARTS: Final = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


@dataclass(frozen=True)
class _Complex:
    """A complex tensor: its real and its imaginary part, of the same shape."""

    real: Tensor
    imag: Tensor


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
            is_trained = value.requires_grad
            value.requires_grad_(False)
            parametrize.register_parametrization(module, name, _Parts(), unsafe=True)
            for part in module.parametrizations[name].parameters():  # type: ignore[index,union-attr]
                part.requires_grad_(is_trained)
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
    return bool(sizes) and all(map(_is_power_of_two, sizes))


def _is_power_of_two(size: Any) -> bool:
    return isinstance(size, int) and size > 0 and size & (size - 1) == 0


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


def _split_constants(graph_module: fx.GraphModule) -> dict[str, _Complex]:
    """The complex constants of a program as pairs; under a trace they could not be taken apart."""
    constants = {}
    for node in graph_module.graph.find_nodes(op="get_attr"):
        value: Any = graph_module
        for name in str(node.target).split("."):
            value = getattr(value, name)
        if isinstance(value, Tensor) and value.is_complex():
            parts = value.detach()
            constants[str(node.target)] = _Complex(
                parts.real.contiguous().clone(), parts.imag.contiguous().clone()
            )
    return constants


def _run(graph_module: fx.GraphModule, constants: dict[str, _Complex], *args: Any) -> Any:
    return _Interpreter(graph_module, constants).run(*args)


class _Interpreter(fx.Interpreter):
    """Runs a program with a pair of real tensors for each complex one."""

    def __init__(self, graph_module: fx.GraphModule, constants: dict[str, _Complex]) -> None:
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
            rule: _Rule | None = _RULES.get(target.overloadpacket, _native)
        else:
            rule = _MAKERS.get(target.overloadpacket)
        if rule is None:
            return _taken_apart(super().call_function(target, args, kwargs))
        return rule(target, *args, **kwargs)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The results; complex ones are put together again."""
        return pytree.tree_map(_put_together, super().output(target, args, kwargs))


def _is_complex(operand: Any) -> bool:
    """Whether an operand is a pair, a complex number or the dtype of these."""
    if isinstance(operand, torch.dtype):
        return operand in _DTYPE_OF_PARTS
    return isinstance(operand, _Complex | complex)


def _put_together(value: Any) -> Any:
    """A pair as one complex tensor."""
    if not isinstance(value, _Complex):
        return value
    return torch.view_as_complex(torch.stack([value.real, value.imag], -1))


def _taken_apart(result: Any) -> Any:
    """A result with pairs in place of complex tensors."""

    def take(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_complex():
            parts = torch.view_as_real(value)
            return _Complex(parts.select(-1, 0), parts.select(-1, 1))
        return value

    return pytree.tree_map(take, result)


def _native(target: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator on complex tensors, as a Fourier transform is."""
    args, kwargs = pytree.tree_map(_put_together, (args, kwargs))
    return _taken_apart(target(*args, **kwargs))


def _parts(value: Any) -> _Complex:
    """A number or a tensor as a pair."""
    if isinstance(value, _Complex):
        return value
    if isinstance(value, Tensor):
        return _Complex(value, torch.zeros_like(value))
    number = complex(value)
    return _Complex(number.real, number.imag)  # type: ignore[arg-type]


def _real_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Options with real dtypes in place of complex ones."""
    options = {}
    for name, value in kwargs.items():
        options[name] = _DTYPE_OF_PARTS.get(value, value) if name == "dtype" else value
    return options


def _on_both(target: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that moves or adds up numbers: the same on both parts."""
    options = _real_options(kwargs)
    both = []
    for part in ("real", "imag"):
        chosen = pytree.tree_map(lambda value, part=part: _part(value, part), args)
        both.append(target(*chosen, **options))
    real, imag = both
    if isinstance(real, Tensor):
        return _Complex(real, imag)
    return [*itertools.starmap(_Complex, zip(real, imag, strict=True))]


def _part(value: Any, part: str) -> Any:
    return getattr(value, part) if isinstance(value, _Complex) else value


def _joined(target: Any, values: Sequence[Any], *args: Any, **kwargs: Any) -> _Complex:
    """`cat` and `stack`, also of real and complex tensors."""
    pairs = [*map(_parts, values)]
    real = target([pair.real for pair in pairs], *args, **kwargs)
    return _Complex(real, target([pair.imag for pair in pairs], *args, **kwargs))


def _sum(target: Any, a: Any, b: Any, **kwargs: Any) -> _Complex:
    """`add`, `sub` and `rsub`."""
    a, b = _parts(a), _parts(b)
    return _Complex(target(a.real, b.real, **kwargs), _sum_of_imaginary(target, a, b, **kwargs))


def _sum_of_imaginary(target: Any, a: _Complex, b: _Complex, **kwargs: Any) -> Tensor:
    result: Tensor = target(a.imag, b.imag, **kwargs)
    return result


def _multilinear(run: Callable[..., Tensor], factors: Sequence[Any]) -> _Complex:
    """A product of any factors, some of them complex: the sum over all choices of parts."""
    choices = []
    for factor in factors:
        pair = _parts(factor) if isinstance(factor, _Complex | complex) else None
        choices.append([(factor, 0)] if pair is None else [(pair.real, 0), (pair.imag, 1)])

    sums: list[Any] = [None, None]
    for chosen in itertools.product(*choices):
        if any(isinstance(part, float) and part == 0 for part, _ in chosen):
            continue
        product = run(*(part for part, _ in chosen))
        # i ** count is 1, i, -1 or -i.
        count = sum(is_imag for _, is_imag in chosen)
        into, sign = count % 2, -1 if count % 4 > 1 else 1
        if sums[into] is None:
            sums[into] = product if sign > 0 else -product
        else:
            sums[into] = sums[into] + product if sign > 0 else sums[into] - product

    real, imag = sums
    return _Complex(
        torch.zeros_like(imag) if real is None else real,
        torch.zeros_like(real) if imag is None else imag,
    )


def _product(target: Any, *factors: Any, **kwargs: Any) -> _Complex:
    """`mul`, `mm`, `bmm`, `matmul` and their relatives."""
    return _multilinear(partial(_called, target, kwargs), factors)


def _called(target: Any, kwargs: dict[str, Any], *args: Any) -> Tensor:
    numbers = not any(isinstance(arg, Tensor) for arg in args[1:])
    if numbers and target.overloadpacket is torch.ops.aten.mul:
        return args[0] * args[1]  # type: ignore[no-any-return]
    result: Tensor = target(*args, **kwargs)
    return result


def _einsum(target: Any, equation: str, factors: Sequence[Any], **kwargs: Any) -> _Complex:
    return _multilinear(lambda *parts: target(equation, [*parts], **kwargs), factors)


def _linear(target: Any, x: Any, weight: Any, bias: Any = None) -> _Complex:
    result = _multilinear(target, (x, weight))
    return result if bias is None else _plus(result, bias)


def _plus(a: Any, b: Any) -> _Complex:
    a, b = _parts(a), _parts(b)
    return _Complex(a.real + b.real, a.imag + b.imag)


def _times(a: Any, b: Any) -> _Complex:
    return _multilinear(lambda x, y: x * y, (a, b))


def _added_product(_: Any, bias: Any, a: Any, b: Any) -> _Complex:
    """`addmm` and `baddbmm`, without factors."""
    return _plus(_multilinear(torch.matmul, (a, b)), bias)


def _quotient(target: Any, a: Any, b: Any, **kwargs: Any) -> _Complex:
    if kwargs or not isinstance(b, _Complex | complex):
        return _on_both(target, a, b, **kwargs)  # type: ignore[no-any-return]
    return _times(a, _inverse(_parts(b)))


def _inverse(z: _Complex) -> _Complex:
    square = z.real * z.real + z.imag * z.imag
    return _Complex(z.real / square, -z.imag / square)


def _exponential(z: _Complex) -> _Complex:
    size = _exp(z.real)
    return _Complex(size * _cos(z.imag), size * _sin(z.imag))


def _exp(x: Any) -> Any:
    return torch.exp(x) if isinstance(x, Tensor) else math.exp(x)


def _cos(x: Any) -> Any:
    return torch.cos(x) if isinstance(x, Tensor) else math.cos(x)


def _sin(x: Any) -> Any:
    return torch.sin(x) if isinstance(x, Tensor) else math.sin(x)


def _absolute(z: _Complex) -> Tensor:
    return torch.sqrt(z.real * z.real + z.imag * z.imag)


def _angle(z: _Complex) -> Tensor:
    return torch.atan2(z.imag, z.real)


def _logarithm(z: _Complex) -> _Complex:
    return _Complex(torch.log(_absolute(z)), _angle(z))


def _polar(size: Tensor, angle: Tensor) -> _Complex:
    return _Complex(size * torch.cos(angle), size * torch.sin(angle))


def _power(_: Any, base: Any, exponent: Any) -> _Complex:
    """Z ** a by its size and angle for real exponents, and exp(a log z) for others."""
    if isinstance(base, _Complex):
        if isinstance(exponent, int | float) and exponent == 2:
            return _times(base, base)
        if not isinstance(exponent, _Complex | complex):
            return _polar(_absolute(base) ** exponent, _angle(base) * exponent)
        return _exponential(_times(exponent, _logarithm(base)))

    pair = _parts(base)
    if isinstance(base, Tensor):
        return _exponential(_times(exponent, _logarithm(pair)))
    number = complex(base)
    logarithm = complex(math.log(abs(number)), math.atan2(number.imag, number.real))
    return _exponential(_times(exponent, logarithm))


def _transform(z: _Complex, axis: int, *, inverse: bool = False) -> _Complex:
    """The discrete Fourier transform along an axis; the inverse is divided by the size.

    It is computed in float64: ONNX Runtime loses half of the digits at sizes that are no powers of
    two.
    """
    dtype = z.real.dtype
    together = _put_together(_Complex(z.real.double(), z.imag.double()))
    scaling = 2 if inverse else 0
    result = _taken_apart(_aten._fft_c2c(together, [axis], scaling, not inverse))
    return _Complex(result.real.to(dtype), result.imag.to(dtype))


def _resized(z: _Complex, size: Any, axis: int) -> _Complex:
    """The first entries along an axis, with zeros behind where there are fewer."""
    if isinstance(size, int) and z.real.shape[axis] == size:
        return z
    behind = z.real.ndim - 1 - axis
    pads = [0, 0] * behind + [0, size - z.real.shape[axis]]
    real, imag = (torch.constant_pad_nd(part, pads, 0.0) for part in (z.real, z.imag))
    return _Complex(real, imag)


def _fourier(target: Any, x: Any, size: Any = None, axis: int = -1, norm: str | None = None) -> Any:
    """`fft`, `ifft`, `rfft` and `irfft`.

    Of any number of values, ONNX Runtime mistakes the shape of half a spectrum. So whole ones are
    computed: of real numbers, the second half is the conjugate of the first one backwards.
    """
    z = _parts(x)
    axis %= z.real.ndim
    is_inverse_of_half = target.overloadpacket is _aten.fft_irfft
    count = 2 * (z.real.shape[axis] - 1) if is_inverse_of_half else z.real.shape[axis]
    size = count if size is None else size
    if _is_power_of_two(size) or norm not in (None, "backward"):
        return _native(target, x, size, axis, norm)

    is_inverse = target.overloadpacket in (_aten.fft_ifft, _aten.fft_irfft)
    if is_inverse_of_half:
        z = _whole_spectrum(_resized(z, size // 2 + 1, axis), size, axis)
    else:
        z = _resized(z, size, axis)

    result = _transform(z, axis, inverse=is_inverse)
    if is_inverse_of_half:
        return result.real
    if target.overloadpacket is _aten.fft_rfft:
        count = z.real.shape[axis] // 2 + 1
        return _Complex(result.real.narrow(axis, 0, count), result.imag.narrow(axis, 0, count))
    return result


def _whole_spectrum(half: _Complex, size: Any, axis: int) -> _Complex:
    """The spectrum of real numbers, of its first half."""
    count = (size - 1) // 2
    real = half.real.narrow(axis, 1, count).flip(axis)
    imag = half.imag.narrow(axis, 1, count).flip(axis)
    return _Complex(torch.cat([half.real, real], axis), torch.cat([half.imag, -imag], axis))


def _converted(target: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """`to` and its relatives, to or from complex numbers."""
    dtype = kwargs.get("dtype", next((arg for arg in args if isinstance(arg, torch.dtype)), None))
    if isinstance(value, _Complex):
        if dtype is not None and dtype not in _DTYPE_OF_PARTS:
            return target(value.real, *args, **kwargs)
        pair = value
    else:
        pair = _parts(value.to(_DTYPE_OF_PARTS[dtype]))  # type: ignore[index]

    part = _DTYPE_OF_PARTS.get(dtype, pair.real.dtype)  # type: ignore[arg-type]
    return _Complex(pair.real.to(part), pair.imag.to(part))


def _filled(target: Any, size: Any, value: Any = None, **kwargs: Any) -> _Complex:
    """`zeros`, `ones` and `full` of complex numbers, and the same like another tensor."""
    like = _part(size, "real")
    options = _real_options(kwargs)
    if target.overloadpacket in (_aten.full, _aten.full_like):
        number = complex(value)
        return _Complex(target(like, number.real, **options), target(like, number.imag, **options))

    real = target(like, **options)
    return _Complex(real, torch.zeros_like(real))


def _chosen(_: Any, condition: Tensor, a: Any, b: Any) -> _Complex:
    a, b = _parts(a), _parts(b)
    real, imag = torch.where(condition, a.real, b.real), torch.where(condition, a.imag, b.imag)
    return _Complex(real, imag)


def _masked(_: Any, z: _Complex, mask: Tensor, value: Any) -> _Complex:
    number = _parts(value)
    return _Complex(
        torch.masked_fill(z.real, mask, number.real), torch.masked_fill(z.imag, mask, number.imag)
    )


def _padded(
    target: Any, z: _Complex, pads: Sequence[int], mode: Any = "constant", value: Any = None
) -> _Complex:
    """`pad`, and `constant_pad_nd`, which takes a value in place of the mode."""
    if not isinstance(mode, str):
        mode, value = "constant", mode
    if mode != "constant":
        return _Complex(target(z.real, pads, mode), target(z.imag, pads, mode))

    number = complex(value or 0)
    real = torch.constant_pad_nd(z.real, pads, number.real)
    return _Complex(real, torch.constant_pad_nd(z.imag, pads, number.imag))


def _new(target: Any, like: Any, size: Any, value: Any = None, **kwargs: Any) -> _Complex:
    """`new_zeros`, `new_ones` and `new_full`."""
    options, like = _real_options(kwargs), _part(like, "real")
    if value is not None:
        number = complex(value)
        real = target(like, size, number.real, **options)
        return _Complex(real, target(like, size, number.imag, **options))

    real = target(like, size, **options)
    return _Complex(real, torch.zeros_like(real))


_aten: Final = torch.ops.aten
#: Operators that do the same to both parts.
_SAME_ON_BOTH: Final = (
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "mT", "movedim", "flatten"),
    *("unflatten", "unsqueeze", "squeeze", "expand", "repeat", "tile", "select", "slice", "narrow"),
    *("flip", "roll", "clone", "contiguous", "detach", "alias", "lift_fresh_copy", "neg", "sum"),
    *("mean", "cumsum", "index_select", "index", "gather", "split", "split_with_sizes", "unbind"),
    *("chunk", "tril", "triu", "diagonal", "diag_embed", "view_as", "expand_as", "slice_copy"),
    *("select_copy", "squeeze_copy", "view_copy", "expand_copy", "positive", "repeat_interleave"),
)
#: Products.
_PRODUCTS: Final = ("mul", "mm", "bmm", "matmul", "dot", "mv", "outer", "kron")

_Rule = Callable[..., Any]
#: Operators that make complex numbers of real ones.
_MAKERS: Final[dict[Any, _Rule]] = {
    **dict.fromkeys((_aten.fft_fft, _aten.fft_ifft, _aten.fft_rfft), _fourier),
    _aten.complex: lambda _, real, imag: _Complex(real, imag),
    _aten.polar: lambda _, size, angle: _polar(size, angle),
    _aten.view_as_complex: lambda _, x: _Complex(x.select(-1, 0), x.select(-1, 1)),
}
_RULES: Final[dict[Any, _Rule]] = {
    **{getattr(_aten, name): _on_both for name in _SAME_ON_BOTH if hasattr(_aten, name)},
    **{getattr(_aten, name): _product for name in _PRODUCTS if hasattr(_aten, name)},
    **dict.fromkeys((_aten.add, _aten.sub, _aten.rsub), _sum),
    **dict.fromkeys((_aten.cat, _aten.stack), _joined),
    **dict.fromkeys((_aten.div, _aten.true_divide), _quotient),
    **dict.fromkeys((_aten._to_copy, _aten.to), _converted),
    **dict.fromkeys((_aten.zeros, _aten.ones, _aten.full), _filled),
    **dict.fromkeys((_aten.zeros_like, _aten.ones_like, _aten.full_like), _filled),
    **dict.fromkeys((_aten.addmm, _aten.baddbmm), _added_product),
    **dict.fromkeys(
        (_aten._conj, _aten.conj, _aten.conj_physical, _aten._conj_physical),
        lambda _, z: _Complex(z.real, -z.imag),
    ),
    **dict.fromkeys((_aten.resolve_conj, _aten.resolve_neg), lambda _, z: z),
    **dict.fromkeys((_aten.fft_fft, _aten.fft_ifft, _aten.fft_irfft), _fourier),
    _aten.einsum: _einsum,
    _aten.linear: _linear,
    _aten.pow: _power,
    _aten.where: _chosen,
    _aten.masked_fill: _masked,
    **dict.fromkeys((_aten.new_zeros, _aten.new_ones, _aten.new_full), _new),
    **dict.fromkeys((_aten.pad, _aten.constant_pad_nd), _padded),
    _aten.real: lambda _, z: z.real,
    _aten.imag: lambda _, z: z.imag,
    _aten.view_as_real: lambda _, z: torch.stack([z.real, z.imag], -1),
    _aten.exp: lambda _, z: _exponential(z),
    _aten.log: lambda _, z: _logarithm(z),
    _aten.sqrt: lambda _, z: _polar(_absolute(z) ** 0.5, _angle(z) / 2),
    _aten.abs: lambda _, z: _absolute(z),
    _aten.angle: lambda _, z: _angle(z),
    _aten.reciprocal: lambda _, z: _inverse(z),
    _aten.square: lambda _, z: _times(z, z),
}

# SPDX-License-Identifier: Apache-2.0
"""What PyTorch's operators do to complex tensors, as what they do to pairs of real ones.

`RULES` has the operators that get pairs, `MAKERS` those that make pairs of real tensors. Each rule
is called with the operator itself and with its arguments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_aten: Final = torch.ops.aten
#: The dtype of the parts of a complex number.
DTYPE_OF_PARTS: Final = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


@dataclass(frozen=True)
class Pair:
    """A complex tensor: its real and its imaginary part, of the same shape."""

    real: Tensor
    imag: Tensor


def is_power_of_two(size: Any) -> bool:
    """Whether a size is known, and a power of two."""
    return isinstance(size, int) and size > 0 and size & (size - 1) == 0


def put_together(value: Any) -> Any:
    """A pair as one complex tensor."""
    if not isinstance(value, Pair):
        return value
    return torch.view_as_complex(torch.stack([value.real, value.imag], -1))


def taken_apart(result: Any) -> Any:
    """A result with pairs in place of complex tensors."""

    def take(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_complex():
            parts = torch.view_as_real(value)
            return Pair(parts.select(-1, 0), parts.select(-1, 1))
        return value

    return pytree.tree_map(take, result)


def native(target: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator on complex tensors, as a Fourier transform is."""
    args, kwargs = pytree.tree_map(put_together, (args, kwargs))
    return taken_apart(target(*args, **kwargs))


def _parts(value: Any) -> Pair:
    """A number or a tensor as a pair."""
    if isinstance(value, Pair):
        return value
    if isinstance(value, Tensor):
        return Pair(value, torch.zeros_like(value))
    number = complex(value)
    return Pair(number.real, number.imag)  # type: ignore[arg-type]


def _real_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Options with real dtypes in place of complex ones."""
    options = {}
    for name, value in kwargs.items():
        options[name] = DTYPE_OF_PARTS.get(value, value) if name == "dtype" else value
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
        return Pair(real, imag)
    return [*itertools.starmap(Pair, zip(real, imag, strict=True))]


def _part(value: Any, part: str) -> Any:
    return getattr(value, part) if isinstance(value, Pair) else value


def _joined(target: Any, values: Sequence[Any], *args: Any, **kwargs: Any) -> Pair:
    """`cat` and `stack`, also of real and complex tensors."""
    pairs = [*map(_parts, values)]
    real = target([pair.real for pair in pairs], *args, **kwargs)
    return Pair(real, target([pair.imag for pair in pairs], *args, **kwargs))


def _sum(target: Any, a: Any, b: Any, **kwargs: Any) -> Pair:
    """`add`, `sub` and `rsub`."""
    a, b = _parts(a), _parts(b)
    return Pair(target(a.real, b.real, **kwargs), target(a.imag, b.imag, **kwargs))


def _multilinear(run: Callable[..., Tensor], factors: Sequence[Any]) -> Pair:
    """A product of any factors, some of them complex: the sum over all choices of parts."""
    sums: list[Any] = [None, None]
    for chosen in itertools.product(*map(_choices, factors)):
        product = run(*(part for part, _ in chosen))
        # i ** count is 1, i, -1 or -i.
        count = sum(is_imag for _, is_imag in chosen)
        into, is_negative = count % 2, count % 4 > 1
        if sums[into] is None:
            sums[into] = -product if is_negative else product
        else:
            sums[into] = sums[into] - product if is_negative else sums[into] + product

    real, imag = sums
    return Pair(
        torch.zeros_like(imag) if real is None else real,
        torch.zeros_like(real) if imag is None else imag,
    )


def _choices(factor: Any) -> Sequence[tuple[Any, bool]]:
    """The parts of a factor, each with whether it is the imaginary one; zeros are left out."""
    if isinstance(factor, Pair):
        return (factor.real, False), (factor.imag, True)
    if isinstance(factor, complex) and factor.imag != 0:
        imaginary = (factor.imag, True)
        return (imaginary,) if factor.real == 0 else ((factor.real, False), imaginary)
    return ((factor.real if isinstance(factor, complex) else factor, False),)


def _product(target: Any, *factors: Any, **kwargs: Any) -> Pair:
    """`mul`, `mm`, `bmm`, `matmul` and their relatives."""
    return _multilinear(partial(target, **kwargs), factors)


def _einsum(target: Any, equation: str, factors: Sequence[Any], **kwargs: Any) -> Pair:
    return _multilinear(lambda *parts: target(equation, [*parts], **kwargs), factors)


def _linear(target: Any, x: Any, weight: Any, bias: Any = None) -> Pair:
    result = _multilinear(target, (x, weight))
    return result if bias is None else _plus(result, bias)


def _plus(a: Any, b: Any) -> Pair:
    a, b = _parts(a), _parts(b)
    return Pair(a.real + b.real, a.imag + b.imag)


def _times(a: Any, b: Any) -> Pair:
    return _multilinear(lambda x, y: x * y, (a, b))


def _added_product(_: Any, bias: Any, a: Any, b: Any) -> Pair:
    """`addmm` and `baddbmm`, without factors."""
    return _plus(_multilinear(torch.matmul, (a, b)), bias)


def _quotient(target: Any, a: Any, b: Any, **kwargs: Any) -> Pair:
    if kwargs or not isinstance(b, Pair | complex):
        return _on_both(target, a, b, **kwargs)  # type: ignore[no-any-return]
    return _times(a, _inverse(_parts(b)))


def _inverse(z: Pair) -> Pair:
    square = z.real * z.real + z.imag * z.imag
    return Pair(z.real / square, -z.imag / square)


def _exponential(z: Pair) -> Pair:
    size = _exp(z.real)
    return Pair(size * _cos(z.imag), size * _sin(z.imag))


def _exp(x: Any) -> Any:
    return torch.exp(x) if isinstance(x, Tensor) else math.exp(x)


def _cos(x: Any) -> Any:
    return torch.cos(x) if isinstance(x, Tensor) else math.cos(x)


def _sin(x: Any) -> Any:
    return torch.sin(x) if isinstance(x, Tensor) else math.sin(x)


def _absolute(z: Pair) -> Tensor:
    return torch.sqrt(z.real * z.real + z.imag * z.imag)


def _angle(z: Pair) -> Tensor:
    return torch.atan2(z.imag, z.real)


def _logarithm(z: Pair) -> Pair:
    return Pair(torch.log(_absolute(z)), _angle(z))


def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * torch.cos(angle), size * torch.sin(angle))


def _power(_: Any, base: Any, exponent: Any) -> Pair:
    """Z ** a by its size and angle for real exponents, and exp(a log z) for others."""
    if isinstance(base, Pair):
        if isinstance(exponent, int | float) and exponent == 2:
            return _times(base, base)
        if not isinstance(exponent, Pair | complex):
            return _polar(_absolute(base) ** exponent, _angle(base) * exponent)
        return _exponential(_times(exponent, _logarithm(base)))

    pair = _parts(base)
    if isinstance(base, Tensor):
        return _exponential(_times(exponent, _logarithm(pair)))
    number = complex(base)
    logarithm = complex(math.log(abs(number)), math.atan2(number.imag, number.real))
    return _exponential(_times(exponent, logarithm))


def _transform(z: Pair, axis: int, *, inverse: bool = False) -> Pair:
    """The discrete Fourier transform along an axis; the inverse is divided by the size.

    It is computed in float64: ONNX Runtime loses half of the digits at sizes that are no powers of
    two.
    """
    dtype = z.real.dtype
    together = put_together(Pair(z.real.double(), z.imag.double()))
    scaling = 2 if inverse else 0
    result = taken_apart(_aten._fft_c2c(together, [axis], scaling, not inverse))
    return Pair(result.real.to(dtype), result.imag.to(dtype))


def _resized(z: Pair, size: Any, axis: int) -> Pair:
    """The first entries along an axis, with zeros behind where there are fewer."""
    if isinstance(size, int) and z.real.shape[axis] == size:
        return z
    behind = z.real.ndim - 1 - axis
    pads = [0, 0] * behind + [0, size - z.real.shape[axis]]
    real, imag = (torch.constant_pad_nd(part, pads, 0.0) for part in (z.real, z.imag))
    return Pair(real, imag)


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
    if is_power_of_two(size) or norm not in (None, "backward"):
        return native(target, x, size, axis, norm)

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
        return Pair(result.real.narrow(axis, 0, count), result.imag.narrow(axis, 0, count))
    return result


def _whole_spectrum(half: Pair, size: Any, axis: int) -> Pair:
    """The spectrum of real numbers, of its first half."""
    count = (size - 1) // 2
    real = half.real.narrow(axis, 1, count).flip(axis)
    imag = half.imag.narrow(axis, 1, count).flip(axis)
    return Pair(torch.cat([half.real, real], axis), torch.cat([half.imag, -imag], axis))


def _converted(target: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """`to` and its relatives, to or from complex numbers."""
    dtype = kwargs.get("dtype", next((arg for arg in args if isinstance(arg, torch.dtype)), None))
    if isinstance(value, Pair):
        if dtype is not None and dtype not in DTYPE_OF_PARTS:
            return target(value.real, *args, **kwargs)
        pair = value
    else:
        pair = _parts(value.to(DTYPE_OF_PARTS[dtype]))  # type: ignore[index]

    part = DTYPE_OF_PARTS.get(dtype, pair.real.dtype)  # type: ignore[arg-type]
    return Pair(pair.real.to(part), pair.imag.to(part))


def _filled(target: Any, size: Any, value: Any = None, **kwargs: Any) -> Pair:
    """`zeros`, `ones` and `full` of complex numbers, and the same like another tensor."""
    like = _part(size, "real")
    options = _real_options(kwargs)
    if target.overloadpacket in (_aten.full, _aten.full_like):
        number = complex(value)
        return Pair(target(like, number.real, **options), target(like, number.imag, **options))

    real = target(like, **options)
    return Pair(real, torch.zeros_like(real))


def _chosen(_: Any, condition: Tensor, a: Any, b: Any) -> Pair:
    a, b = _parts(a), _parts(b)
    real, imag = torch.where(condition, a.real, b.real), torch.where(condition, a.imag, b.imag)
    return Pair(real, imag)


def _masked(_: Any, z: Pair, mask: Tensor, value: Any) -> Pair:
    number = _parts(value)
    return Pair(
        torch.masked_fill(z.real, mask, number.real), torch.masked_fill(z.imag, mask, number.imag)
    )


def _written(target: Any, into: Any, source: Any, *args: Any, **kwargs: Any) -> Pair:
    """`select_scatter`, `slice_scatter` and `copy`: a part of a tensor that is written."""
    into, source = _parts(into), _parts(source)
    real = target(into.real, source.real, *args, **kwargs)
    return Pair(real, target(into.imag, source.imag, *args, **kwargs))


def _written_at(target: Any, into: Any, index: Any, source: Any, *args: Any) -> Pair:
    """`index_put`, with tensors as the index."""
    into, source = _parts(into), _parts(source)
    real = target(into.real, index, source.real, *args)
    return Pair(real, target(into.imag, index, source.imag, *args))


def _padded(
    target: Any, z: Pair, pads: Sequence[int], mode: Any = "constant", value: Any = None
) -> Pair:
    """`pad`, and `constant_pad_nd`, which takes a value in place of the mode."""
    if not isinstance(mode, str):
        mode, value = "constant", mode
    if mode != "constant":
        return Pair(target(z.real, pads, mode), target(z.imag, pads, mode))

    number = complex(value or 0)
    real = torch.constant_pad_nd(z.real, pads, number.real)
    return Pair(real, torch.constant_pad_nd(z.imag, pads, number.imag))


def _new(target: Any, like: Any, size: Any, value: Any = None, **kwargs: Any) -> Pair:
    """`new_zeros`, `new_ones` and `new_full`."""
    options, like = _real_options(kwargs), _part(like, "real")
    if value is not None:
        number = complex(value)
        real = target(like, size, number.real, **options)
        return Pair(real, target(like, size, number.imag, **options))

    real = target(like, size, **options)
    return Pair(real, torch.zeros_like(real))


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

Rule = Callable[..., Any]
#: Operators that make complex numbers of real ones.
MAKERS: Final[dict[Any, Rule]] = {
    **dict.fromkeys((_aten.fft_fft, _aten.fft_ifft, _aten.fft_rfft), _fourier),
    _aten.complex: lambda _, real, imag: Pair(real, imag),
    _aten.polar: lambda _, size, angle: _polar(size, angle),
    _aten.view_as_complex: lambda _, x: Pair(x.select(-1, 0), x.select(-1, 1)),
}
RULES: Final[dict[Any, Rule]] = {
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
        lambda _, z: Pair(z.real, -z.imag),
    ),
    **dict.fromkeys((_aten.resolve_conj, _aten.resolve_neg), lambda _, z: z),
    **dict.fromkeys((_aten.fft_fft, _aten.fft_ifft, _aten.fft_irfft), _fourier),
    _aten.einsum: _einsum,
    _aten.linear: _linear,
    _aten.pow: _power,
    _aten.where: _chosen,
    _aten.masked_fill: _masked,
    **dict.fromkeys((_aten.new_zeros, _aten.new_ones, _aten.new_full), _new),
    **dict.fromkeys((_aten.select_scatter, _aten.slice_scatter, _aten.copy), _written),
    _aten.index_put: _written_at,
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

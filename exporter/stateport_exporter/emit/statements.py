# SPDX-License-Identifier: Apache-2.0
"""What stateport writes in C by itself: matrix products, activations, arithmetic and copies.

Everything else is a function by the generator. A matrix product adds up one row of the weights
after the other, so that compilers compute many columns at once without changing the order of any
sum. Activations are a rational function that compilers compute for many elements at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Final

from .places import Placed
from .program import Call, CArray

TANH: Final = """\
/* tanh as a quotient of polynomials, at most 4e-7 from the exact value; no branch keeps a compiler
   from computing several at once. Eigen and ONNX Runtime have the same coefficients. */
static float tanh_of(float x)
{
    const float a = x > 7.90531110763549805f ? 7.90531110763549805f : x;
    const float b = a < -7.90531110763549805f ? -7.90531110763549805f : a;
    const float s = b * b;
    float p = -2.76076847742355e-16f;
    float q = 1.19825839466702e-06f;
    p = p * s + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return b * p / q;
}
"""
SIGMOID: Final = """\
static float sigmoid_of(float x)
{
    return 0.5f + 0.5f * tanh_of(0.5f * x);
}
"""
#: The functions that statements call, by name, each after those that it calls itself.
OWN_HELPERS: Final = {"tanh_of": TANH, "sigmoid_of": SIGMOID}

#: The rows of weights that are added to a result before it is stored. The order of the sum is the
#: same as with one.
_TOGETHER: Final = 4

_BINARY: Final = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}
_UNARY: Final = {
    "Sigmoid": "sigmoid_of({})",
    "Tanh": "tanh_of({})",
    "Relu": "{0} < 0.0f ? 0.0f : {0}",  # NaN stays what it is
    "Neg": "-{}",
}


@dataclass
class Statements:
    """Writes calls as statements of the step.

    Attributes:
        placed: where the arrays are.
        products: the functions of matrix products that were needed, by name.
        transposed: constants that have to be stored the other way round, by name: (rows, columns).
        multiplications: how many multiplications of the calls so far.
    """

    placed: Placed
    constants: frozenset[str]
    products: dict[str, str] = field(default_factory=dict)
    transposed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def write(self, call: Call) -> list[str] | None:
        """The statements of a call; None where the generator's function is called."""
        operator = call.function.operator
        if any(array.ctype != "float" for _, array in call.writes):
            return self._copy(call)
        if operator in _BINARY:
            return self._binary(call)
        if operator in _UNARY:
            return self._unary(call)
        return _WRITERS.get(operator, Statements._copy)(self, call)

    def _at(self, name: str) -> str:
        return str(self.placed.place(name))

    def _element(self, name: str, index: str) -> str:
        place = self.placed.place(name)
        if place.offset and index == "0":
            return f"{place.array}[{place.offset}]"
        return f"{place.array}[{f'{place.offset} + ' if place.offset else ''}{index}]"

    def _binary(self, call: Call) -> list[str] | None:
        (_, result), *_ = call.writes
        operands = []
        for name, array in call.reads:
            if array.size not in (1, result.size) or array.ctype != "float":
                return None
            operands.append(self._element(name, "i" if array.size == result.size else "0"))
        return self._loop(call, f" {_BINARY[call.function.operator]} ".join(operands))

    def _unary(self, call: Call) -> list[str]:
        (name, _), *_ = call.reads
        return self._loop(call, _UNARY[call.function.operator].format(self._element(name, "i")))

    def _loop(self, call: Call, value: str) -> list[str]:
        (name, result), *_ = call.writes
        return [
            f"for (idx_t i = 0; i < {result.size}; ++i) {{",
            f"    {self._element(name, 'i')} = {value};",
            "}",
        ]

    def _copy(self, call: Call) -> list[str] | None:
        """A result that is its operand, which has to be in another place."""
        if call.function.operator not in ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"):
            return None
        (source, _), *_ = call.reads
        (name, result), *_ = call.writes
        return [
            f"memcpy({self._at(name)}, {self._at(source)}, sizeof({result.ctype}[{result.size}]));"
        ]

    def _concat(self, call: Call) -> list[str] | None:
        (name, result), *_ = call.writes
        axis = int(call.function.attributes["axis"]) % len(result.dims)
        rows = prod(result.dims[:axis])
        width = result.size // rows

        lines, start = [], 0
        for source, array in call.reads:
            part = array.size // rows
            to = self.placed.place(name)._replace(offset=self.placed.place(name).offset + start)
            origin, size = self._at(source), f"sizeof(float[{part}])"
            if rows == 1:
                lines.append(f"memcpy({to}, {self._at(source)}, sizeof(float[{part}]));")
            else:
                lines += [
                    f"for (idx_t i = 0; i < {rows}; ++i) {{",
                    f"    memcpy({to} + i * {width}, {origin} + i * {part}, {size});",
                    "}",
                ]
            start += part
        return lines

    def _product(self, call: Call) -> list[str] | None:
        product = _product_of(call, self.constants)
        if product is None:
            return None

        if product.is_transposed:
            if self._is_read_elsewhere(call, product.weights):
                return None
            self.transposed[product.weights] = (product.columns, product.inner)
        name = product.function_name
        self.products[name] = product.function()
        operands = [product.left, product.weights]
        if product.bias is not None:
            operands.append(product.bias)
        (result, _), *_ = call.writes
        arguments = ", ".join(map(self._at, [*operands, result]))
        return [f"{name}({arguments});"]

    def _is_read_elsewhere(self, call: Call, name: str) -> bool:
        return any(name in other.arguments for other in self.placed.calls if other is not call)


_WRITERS: Final[dict[str, Callable[[Statements, Call], list[str] | None]]] = {
    "Concat": Statements._concat,
    "Gemm": Statements._product,
    "MatMul": Statements._product,
}


@dataclass(frozen=True)
class Product:
    """A matrix product: (rows, inner) times (inner, columns), and maybe a bias (columns,)."""

    left: str
    weights: str
    bias: str | None
    rows: int
    inner: int
    columns: int
    is_transposed: bool

    @property
    def multiplications(self) -> int:
        """The number of multiplications."""
        return self.rows * self.inner * self.columns

    @property
    def function_name(self) -> str:
        """The name of its function, which products of the same sizes share."""
        ending = "" if self.bias is None else "_with_bias"
        return f"product_{self.rows}_{self.inner}_{self.columns}{ending}"

    def function(self) -> str:
        """The definition of its function."""
        bias = "" if self.bias is None else "const float *bias, "
        first = "0.0f" if self.bias is None else "bias[j]"
        whole = self.inner - self.inner % _TOGETHER
        loops = ""
        if whole:
            loops += self._loop(f"k = 0; k < {whole}; k += {_TOGETHER}", _TOGETHER)
        if self.inner - whole:
            loops += self._loop(f"k = {whole}; k < {self.inner}; ++k", 1)
        return f"""\
static void {self.function_name}(
    const float *a, const float *w, {bias}float *restrict out)
{{
    for (idx_t row = 0; row < {self.rows}; ++row, a += {self.inner}, out += {self.columns}) {{
        for (idx_t j = 0; j < {self.columns}; ++j) {{
            out[j] = {first};
        }}
{loops}    }}
}}
"""

    def _loop(self, counting: str, together: int) -> str:
        """A loop over rows of the weights, some of which are added in one pass over the result."""
        terms = []
        for number in range(together):
            behind = f" + {number}" if number else ""
            begin = f"{number * self.columns} + " if number else ""
            terms.append(f" + a[k{behind}] * weights[{begin}j]")
        separator = "\n                    "
        return f"""\
        for (idx_t {counting}) {{
            const float *weights = w + k * {self.columns};
            for (idx_t j = 0; j < {self.columns}; ++j) {{
                out[j] = out[j]{separator.join(terms)};
            }}
        }}
"""


def _product_of(call: Call, constants: frozenset[str]) -> Product | None:
    """A call as a matrix product with constant weights; None if it is not one."""
    if any(array.ctype != "float" for _, array in call.reads):
        return None
    (left, a), (weights, b), *rest = call.reads
    if weights not in constants or len(b.dims) != 2 or not a.dims:
        return None

    attributes = call.function.attributes
    is_transposed = attributes.get("transB", "0") != "0"
    is_scaled = {attributes.get("alpha", "1.0"), attributes.get("beta", "1.0")} != {"1.0"}
    if is_scaled or attributes.get("transA", "0") != "0":
        return None

    columns, inner = b.dims if is_transposed else b.dims[::-1]
    bias = _bias(rest, columns)
    if a.dims[-1] != inner or (rest and bias is None):
        return None
    return Product(left, weights, bias, a.size // inner, inner, columns, is_transposed)


def _bias(rest: list[tuple[str, CArray]], columns: int) -> str | None:
    """The third operand, if it is added to each row."""
    if len(rest) != 1:
        return None

    name, array = rest[0]
    is_row = bool(array.dims) and array.size == array.dims[-1] == columns
    return name if is_row else None


def multiplications(call: Call, constants: frozenset[str]) -> int:
    """The multiplications of numbers in a call: of products, convolutions and `Mul`."""
    operator = call.function.operator
    result = call.writes[0][1]
    if operator == "Mul":
        return result.size
    if operator in ("Gemm", "MatMul"):
        product = _product_of(call, constants)
        inner = call.reads[0][1].dims[-1]
        return result.size * inner if product is None else product.multiplications
    if operator == "Conv":
        return result.size * prod(call.reads[1][1].dims[1:])
    if operator in ("LSTM", "GRU", "RNN"):
        x, w, r = (array for _, array in call.reads[:3])
        return prod(x.dims[:2]) * (w.size + r.size)
    return 0

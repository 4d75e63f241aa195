"""Loops of linear attention as ONNX Runtime's own operator: recognised by what they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import onnx
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, ExportResult, Spec, export
from stateport_exporter.quantize_file import make_variants

Step = Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, Tensor]]

SIZE, HEADS, KEYS, VALUES = 6, 2, 3, 4


class Attention(nn.Module):
    """A loop over time: projections, and a step (matrix, operands) -> (matrix, output)."""

    def __init__(self, step: Step, state: tuple[int, ...], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.step = step
        self.state = state
        self.shapes = shapes
        widths = {name: int(torch.tensor(shape).prod()) for name, shape in shapes.items()}
        self.projections = nn.ModuleDict({n: nn.Linear(SIZE, w) for n, w in widths.items()})

    def forward(self, x: Tensor) -> Tensor:
        batch, time = x.shape[:2]
        operands = {}
        for name, shape in self.shapes.items():
            operand = self.projections[name](x).reshape(batch, time, *shape)
            operands[name] = torch.sigmoid(operand) if name in ("g", "beta") else operand

        matrix = x.new_zeros(batch, *self.state)
        outputs = []
        for t in range(time):
            matrix, y = self.step(matrix, {name: o[:, t] for name, o in operands.items()})
            outputs.append(y)
        return torch.stack(outputs, 1).flatten(2)


def gated(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    m = m * o["g"][..., None] + o["k"][..., None] * o["v"][..., None, :]
    return m, (o["q"][..., None] * m).sum(-2)


def gated_by_einsum(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    m = torch.einsum("bhk,bhkv->bhkv", o["g"], m) + torch.einsum("bhk,bhv->bhkv", o["k"], o["v"])
    return m, torch.einsum("bhk,bhkv->bhv", o["q"], m) / 3**0.5


def values_first(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    m = m * o["g"][..., None, :] + o["v"][..., None] @ o["k"][..., None, :]
    return m, (m @ o["q"][..., None])[..., 0]


def decay_per_head(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    m = m * o["g"][..., None, None] + o["k"][..., None] * o["v"][..., None, :]
    return m, (o["q"][..., None] * m).sum(-2)


def decay_by_exponent(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    m = m * torch.exp(-o["g"])[..., None] + o["k"][..., None] * o["v"][..., None, :]
    return m, (o["q"][..., None] * m).sum(-2)


def without_decay(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    m = m + o["k"][..., None] * o["v"][..., None, :]
    return m, (o["q"][..., None] * m).sum(-2)


def delta(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    error = o["v"] - (o["k"][..., None] * m).sum(-2)
    m = m + o["beta"][..., None, None] * o["k"][..., None] * error[..., None, :]
    return m, (o["q"][..., None] * m).sum(-2)


def gated_delta(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return delta(m * o["g"][..., None, None], o)


def one_key_for_all_heads(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As in Mamba-2, whose heads share keys and queries."""
    m = m * o["g"][..., None, None] + o["v"][..., None] * o["k"][:, None, None]
    return m, (m * o["q"][:, None, None]).sum(-1)


def channels(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """As in Mamba: a row of keys for each channel, and a number for a value."""
    m = m * o["g"] + o["v"][..., None] * o["k"][:, None]
    return m, (m * o["q"][:, None]).sum(-1)


Q = K = (HEADS, KEYS)
V = (HEADS, VALUES)
MATRIX = (HEADS, KEYS, VALUES)
FORMS: dict[str, tuple[str, Callable[[], Attention]]] = {
    "products": ("gated", lambda: Attention(gated, MATRIX, q=Q, k=K, v=V, g=K)),
    "einsum": ("gated", lambda: Attention(gated_by_einsum, MATRIX, q=Q, k=K, v=V, g=K)),
    "values first": (
        "gated",
        lambda: Attention(values_first, (HEADS, VALUES, KEYS), q=Q, k=K, v=V, g=K),
    ),
    "one matrix": (
        "gated",
        lambda: Attention(gated, (KEYS, VALUES), q=(KEYS,), k=(KEYS,), v=(VALUES,), g=(KEYS,)),
    ),
    "decay per head": (
        "gated",
        lambda: Attention(decay_per_head, MATRIX, q=Q, k=K, v=V, g=(HEADS,)),
    ),
    "decay by exponent": (
        "gated",
        lambda: Attention(decay_by_exponent, MATRIX, q=Q, k=K, v=V, g=K),
    ),
    "no decay": ("linear", lambda: Attention(without_decay, MATRIX, q=Q, k=K, v=V)),
    "delta": ("delta", lambda: Attention(delta, MATRIX, q=Q, k=K, v=V, beta=(HEADS,))),
    "gated delta": (
        "gated_delta",
        lambda: Attention(gated_delta, MATRIX, q=Q, k=K, v=V, g=(HEADS,), beta=(HEADS,)),
    ),
    "keys for all heads": (
        "gated",
        lambda: Attention(
            one_key_for_all_heads,
            (HEADS, VALUES, KEYS),
            q=(KEYS,),
            k=(KEYS,),
            v=V,
            g=(HEADS,),
        ),
    ),
    "channels": (
        "gated",
        lambda: Attention(channels, (5, KEYS), q=(KEYS,), k=(KEYS,), v=(5,), g=(5, KEYS)),
    ),
}


def negative_decay(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return gated(m, {**o, "g": o["w"]})


def clipped(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    m, y = gated(m, o)
    return m.clamp(-50, 50), y


def output_of_the_last_step(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What RWKV does: the output sees the matrix before it is written to."""
    after, _ = gated(m, o)
    return after, (o["q"][..., None] * m).sum(-2)


def clipped_decay(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return gated(m, {**o, "g": o["g"].clamp(max=0.95)})


def decay_with_a_floor(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return gated(m, {**o, "g": o["g"].clamp(min=0.05)})


def decay_of_a_size(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return gated(m, {**o, "g": torch.exp(-o["w"].abs())})


def decay_of_a_relu(m: Tensor, o: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return gated(m, {**o, "g": torch.exp(-torch.relu(o["w"]))})


class Counted(nn.Module):
    """A loop whose state has no axes."""

    def forward(self, x: Tensor) -> Tensor:
        count, ys = x.new_zeros(()), []
        for t in range(x.shape[1]):
            count = count + 1
            ys.append(x[:, t] / count)
        return torch.stack(ys, 1)


OTHERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "a decay below zero": (
        "decay that may be negative",
        lambda: Attention(negative_decay, MATRIX, q=Q, k=K, v=V, w=K),
    ),
    "a clipped matrix": (
        "computes something else",
        lambda: Attention(clipped, MATRIX, q=Q, k=K, v=V, g=K),
    ),
    "a clipped decay": (
        "computes something else",
        lambda: Attention(clipped_decay, MATRIX, q=Q, k=K, v=V, g=K),
    ),
    "a decay with a floor": (
        "computes something else",
        lambda: Attention(decay_with_a_floor, MATRIX, q=Q, k=K, v=V, g=K),
    ),
    "a decay of a size": (
        "computes something else",
        lambda: Attention(decay_of_a_size, MATRIX, q=Q, k=K, v=V, w=K),
    ),
    "a decay of a relu": (
        "computes something else",
        lambda: Attention(decay_of_a_relu, MATRIX, q=Q, k=K, v=V, w=K),
    ),
    "the output of the last step": (
        "computes something else",
        lambda: Attention(output_of_the_last_step, MATRIX, q=Q, k=K, v=V, g=K),
    ),
    "a state without axes": ("sizes are not known", Counted),
    "an LSTM": ("has no loops", lambda: nn.LSTM(SIZE, 4, batch_first=True)),
}


def native(module: nn.Module, path: Path, **options: Any) -> ExportResult:
    return export(module, example, path, operators="native", **options)


def example(batch: int, time: int) -> tuple[Tensor]:
    return (torch.randn(batch, time, SIZE),)


#: The forms and others that are tried each time.
FEW: Final = ("products", "einsum", "gated delta", "a decay below zero", "a clipped matrix")


def some_thorough(names: Iterable[str]) -> list[Any]:
    """The names, of which most belong to the suite that tries more relatives."""
    marks = {name: () if name in FEW else (pytest.mark.thorough,) for name in names}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize("form", some_thorough(FORMS))
def test_a_loop_becomes_one_operator(tmp_path: Path, form: str) -> None:
    rule, make = FORMS[form]
    torch.manual_seed(0)
    result = native(make(), tmp_path / "m.onnx")

    nodes = {node.op_type: node for node in onnx.load(result.path).graph.node}
    assert "Scan" not in nodes
    attributes = {
        a.name: onnx.helper.get_attribute_value(a) for a in nodes["LinearAttention"].attribute
    }
    assert attributes["update_rule"] == rule.encode()
    assert result.report is not None
    assert result.report.passed
    assert result.contract.streaming.ok


@pytest.mark.parametrize("other", some_thorough(OTHERS))
def test_other_loops_are_refused(tmp_path: Path, other: str) -> None:
    reason, make = OTHERS[other]
    torch.manual_seed(0)
    with pytest.raises(ExportError, match=reason):
        native(make(), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(("form", "batch"), [("products", 1), ("einsum", 3)])
def test_a_batch_may_be_fixed(tmp_path: Path, form: str, batch: int) -> None:
    torch.manual_seed(0)
    example = (Spec("float32", batch, "time", SIZE),)
    result = export(FORMS[form][1](), example, tmp_path / "m.onnx", operators="native")
    assert result.report is not None
    assert result.report.passed


def test_nothing_moves_around_the_operator(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = native(FORMS["products"][1](), tmp_path / "m.onnx")
    kinds = [node.op_type for node in onnx.load(result.path).graph.node]
    assert "Transpose" not in kinds


def test_tune_tries_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = export(FORMS["products"][1](), example, tmp_path / "m.onnx").path
    variants = {
        v.name: v for v in make_variants(path, tmp_path, reduced=False) if not isinstance(v, str)
    }
    variant = variants["native operators"]
    assert variant.engines == ("ort-cpu", "ort-cuda")
    assert variant.whole is not None
    assert stateport.load(variant.whole).contract == stateport.load(path).contract


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operators": "fast"}, "operators is 'fast'; 'onnx' or 'native' was expected"),
        ({"operators": "native", "dtype": "float16"}, "only with dtype='float32'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(nn.GRU(SIZE, 3), example, tmp_path / "m.onnx", **options)  # type: ignore[arg-type]

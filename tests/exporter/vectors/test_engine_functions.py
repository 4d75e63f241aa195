"""What float32 loses is measured with functions as engines compute them, besides PyTorch's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from stateport_exporter import Spec, export
from stateport_exporter.vectors.engine_functions import EngineFunctions, sigmoid, tanh

Function = Callable[[Tensor], Tensor]
CALLS: dict[str, Function] = {
    "torch.sigmoid": torch.sigmoid,
    "Tensor.sigmoid": lambda x: x.sigmoid(),
    "Tensor.sigmoid_": lambda x: x.sigmoid_(),
    "nn.Sigmoid": nn.Sigmoid(),
    "expit": torch.special.expit,
    "torch.tanh": torch.tanh,
    "nn.Tanh": nn.Tanh(),
    "Tensor.tanh_": lambda x: x.tanh_(),
    "nn.SiLU": nn.SiLU(),
    "nn.SiLU in place": nn.SiLU(inplace=True),
    "F.silu": F.silu,
    "nn.GLU": nn.GLU(),
    "F.glu": lambda x: F.glu(x, dim=1),
    "cumsum by NumPy's name": lambda x: x.cumsum(axis=1) / 200,  # type: ignore[call-arg]
    "cumsum by name": lambda x: torch.cumsum(x, dim=1) / 200,
}


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_sums_and_products_of_float32_are_computed_in_float32(dim: int) -> None:
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    with EngineFunctions() as functions:
        total, product = x.cumsum(dim), (1 + x / 100).cumprod(dim)

    assert functions.has_run
    np.testing.assert_array_equal(total, np.cumsum(x.numpy(), dim, dtype=np.float32))
    np.testing.assert_array_equal(product, np.cumprod((1 + x / 100).numpy(), dim, dtype=np.float32))


def test_all_else_is_what_pytorch_computes() -> None:
    whole = torch.arange(6).reshape(2, 3)
    with EngineFunctions() as functions:
        results = [
            whole.cumsum(1),
            whole.double().cumsum(1),
            whole.float().cumsum(1, dtype=torch.float64),
            whole.float() @ whole.float().T,
        ]

    expected = [
        whole.cumsum(1),
        whole.double().cumsum(1),
        whole.double().cumsum(1),
        whole.float() @ whole.float().T,
    ]
    for result, right in zip(results, expected, strict=True):
        assert result.dtype == right.dtype
        assert torch.equal(result, right)
    assert not functions.has_run


@pytest.mark.parametrize(
    ("function", "exact", "operator"),
    [(sigmoid, torch.sigmoid, "Sigmoid"), (tanh, torch.tanh, "Tanh")],
    ids=["sigmoid", "tanh"],
)
def test_a_quotient_is_about_as_exact_as_onnx_runtime(
    function: Function, exact: Function, operator: str
) -> None:
    x = torch.linspace(-25, 25, 20_001)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])],
        "one operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = ort.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x.numpy()})

    truth = exact(x.double())
    of_engine = (torch.from_numpy(answer) - truth).abs()
    of_function = (function(x) - truth).abs()
    for part in (x < -6, x.abs() <= 6, x > 6):
        assert of_function[part].max() < 2e-6
        assert of_engine[part].max() <= 8 * of_function[part].max()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_all_ways_to_write_a_function(call: Function) -> None:
    x = torch.linspace(-20, 20, 600).reshape(3, 200)
    with EngineFunctions() as functions:
        result = call(x.clone())

    assert functions.has_run
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, call(x.clone()), rtol=0, atol=5e-6)


class Alarm(nn.Module):
    """The probability of a rare event, as a trained wake-word network gives it."""

    def __init__(self, bias: float, head: nn.Module) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)
        self.out = nn.Linear(4, 1)
        self.head = head
        nn.init.constant_(self.out.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        probability: Tensor = self.head(self.out(self.gru(x)[0]))
        return probability


@pytest.mark.parametrize(
    ("bias", "head"),
    [
        (-8.0, nn.Sigmoid()),
        (-12.0, nn.Sigmoid()),
        (-4.0, nn.SiLU()),
        (-8.0, nn.SiLU()),
        (-8.0, nn.LogSigmoid()),
        (-25.0, nn.LogSigmoid()),
        (-8.0, nn.Softplus()),
    ],
)
def test_a_probability_near_zero_is_within_its_floor(
    tmp_path: Path, bias: float, head: nn.Module
) -> None:
    torch.manual_seed(0)
    result = export(Alarm(bias, head), Spec("float32", "batch", "time", 3), tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed


class Positions(nn.Module):
    """A running sum of values with a learned position each; it does not stream."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 600, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.positions[:, : x.shape[1]]).cumsum(1)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_sum_of_hundreds_of_steps_is_within_its_floor(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    result = export(Positions(), Spec("float32", "batch", "time", 4), tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed

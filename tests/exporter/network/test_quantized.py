"""What PyTorch quantised, or prepared for that, is refused with what to export instead."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export

X = Spec("float32", "batch", "time", 3)
quantization: Any = torch.ao.quantization  # has no type information
pytestmark = pytest.mark.filterwarnings("ignore")  # torch.ao announces its own end


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.linear = nn.Linear(3, 4)
        self.lstm = nn.LSTM(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.lstm(self.dequant(self.linear(self.quant(x))))[0]
        return hidden


def dynamic(net: Net) -> nn.Module:
    module: nn.Module = quantization.quantize_dynamic(net.eval(), {nn.LSTM, nn.Linear})
    return module


def prepared(net: Net) -> nn.Module:
    net.linear.qconfig = quantization.get_default_qconfig("fbgemm")
    module: nn.Module = quantization.prepare(net.eval())
    return module


def prepared_for_training(net: Net) -> nn.Module:
    net.linear.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    module: nn.Module = quantization.prepare_qat(net.train())
    return module


def converted(net: Net) -> nn.Module:
    module = prepared(net)
    module(torch.zeros(1, 2, 3))
    static: nn.Module = quantization.convert(module)
    return static


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (dynamic, "'linear' is quantised by PyTorch"),
        (converted, "'linear' is quantised by PyTorch"),
        (prepared, "has fake quantisation or an observer left in"),
        (prepared_for_training, "'linear' has fake quantisation or an observer left in"),
    ],
)
def test_it_is_refused(tmp_path: Path, prepare: Callable[[Net], nn.Module], says: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = prepare(Net())
    with pytest.raises(ExportError, match=says):
        export(network, X, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_the_float_network_with_its_stubs_exports(tmp_path: Path) -> None:
    assert export(Net(), X, tmp_path / "m.onnx").contract.streaming.ok

"""Wrappers of training are taken off, and modules that `copy.deepcopy` refuses are exported."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from stateport_exporter import Spec, export

# Importing torch.compile's compiler warns of TorchScript's end.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")

X = Spec("float32", "batch", "time", 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 1)
        self.lstm = nn.LSTM(4, 2, batch_first=True)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.lstm(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]
        return hidden


def compiled(net: Net) -> nn.Module:
    module: nn.Module = torch.compile(net)  # type: ignore[assignment]
    return module


def compiled_part(net: Net) -> nn.Module:
    net.lstm = torch.compile(net.lstm)  # type: ignore[assignment]
    return net


def compiled_in_place(net: Net) -> nn.Module:
    net.compile()
    net.lstm.compile()
    return net


def data_parallel(net: Net) -> nn.Module:
    return nn.DataParallel(net)


def compiled_data_parallel(net: Net) -> nn.Module:
    return compiled(data_parallel(net))  # type: ignore[arg-type]


def weight_norm_of_old(net: Net) -> nn.Module:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(net.conv)
    return net


def weight_norm(net: Net) -> nn.Module:
    parametrizations.weight_norm(net.conv)
    return net


def pruned(net: Net) -> nn.Module:
    prune.l1_unstructured(net.conv, "weight", amount=0.3)  # type: ignore[no-untyped-call]
    return net


def with_computed_attribute(net: Net) -> nn.Module:
    net.last = net.conv.weight.sum() * 2
    return net


def with_computed_tensors_in_a_list(net: Net) -> nn.Module:
    net.history = [net.conv.weight * 2]  # type: ignore[assignment]
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        compiled,
        compiled_part,
        compiled_in_place,
        data_parallel,
        compiled_data_parallel,
        weight_norm_of_old,
        weight_norm,
        pruned,
        with_computed_attribute,
        with_computed_tensors_in_a_list,
    ],
)
def test_it_exports_like_the_network_itself(
    tmp_path: Path, wrap: Callable[[Net], nn.Module]
) -> None:
    torch.manual_seed(0)
    module = wrap(Net())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    result = export(module, X, tmp_path / "m.onnx")

    assert result.contract.streaming.ok, result.contract.streaming.reason
    assert [state.input for state in result.contract.states] == list(result.lifted)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

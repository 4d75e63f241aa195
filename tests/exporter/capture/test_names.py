"""Parameters keep their names, also where the author's own names look like a wrapper's."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from stateport import load
from stateport_exporter import Spec, export


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Outer(nn.Module):
    """Has a part that is called as stateport's own wrapper is."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Inner()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.lstm(self.network(x) @ self.weight)[0]
        return hidden


def test_a_part_that_is_called_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Outer().eval()
    export(network, Spec("float32", "batch", "time", 3), tmp_path / "m.onnx")

    names = {tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert {"weight", "network.weight"} <= names

    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(load(tmp_path / "m.onnx")(x)[0], expected, atol=2e-6)


class Listing(nn.Module):
    """Returns lists under keys: of results, and of the states of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        y, state = self.lstm(x)
        return {"band": [y, y.relu()], "state": [*state]}


def test_items_of_a_list_have_its_name_and_their_number(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Listing().eval()
    contract = export(network, Spec("float32", "batch", "time", 3), tmp_path / "m.onnx").contract
    names = [output.name for output in contract.outputs]
    assert names == ["band_0", "band_1", "state_0", "state_1"]
    assert [state.output for state in contract.states] == ["hn", "cn"]


class StepBefore(nn.Module):
    """A decoder, which takes its own last output, y, and what it attends to."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 4)

    def forward(self, y: Tensor, h: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        scores = (memory @ h[:, :, None]).softmax(1)
        h = self.cell(torch.cat([y, (scores * memory).sum(1)], -1), h)
        return h.tanh(), h


def test_an_argument_is_called_as_outputs_usually_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    row = Spec("float32", "batch", 4)
    example = (row, row, Spec("float32", "batch", "source", 4))
    contract = export(StepBefore().eval(), example, tmp_path / "m.onnx").contract
    assert [each.name for each in contract.inputs] == ["y", "memory"]
    assert [each.name for each in contract.outputs] == ["output"]
    assert [state.input for state in contract.states] == ["h"]

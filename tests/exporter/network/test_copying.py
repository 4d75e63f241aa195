# SPDX-License-Identifier: Apache-2.0
"""Modules that `copy.deepcopy` refuses, or that answer oddly."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export
from stateport_exporter.network.isolation import evaluation_twin

X = Spec("float32", "batch", "time", 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.rnn(x)[0]


class Silent(Net):
    """Its `train` and `eval` return nothing."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)

    def eval(self) -> Any:
        self.train(False)


class CopiesItself(Net):
    def __deepcopy__(self, memo: dict[int, Any]) -> Net:
        raise RuntimeError("one is enough")


class Holder:
    """An object of the author's, with what no copy takes."""

    def __init__(self) -> None:
        self.lock, self.local = threading.RLock(), threading.local()
        self.scale = nn.Parameter(torch.ones(4)) * 2


def with_attributes(**attributes: Any) -> Net:
    network = Net()
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


@pytest.mark.parametrize(
    "make",
    [
        Silent,
        CopiesItself,
        lambda: nn.Sequential(CopiesItself(), CopiesItself()),
        lambda: with_attributes(lock=threading.Lock()),
        lambda: with_attributes(holders=[Holder()]),
        lambda: with_attributes(numpy=np),
    ],
)
def test_a_copy_shares_parameters_alone(make: Callable[[], nn.Module]) -> None:
    network = make()
    network.train()
    twin = evaluation_twin(network)
    assert not twin.training
    assert network.training
    assert [*map(id, twin.parameters())] == [*map(id, network.parameters())]
    assert type(twin) is type(network)
    x = torch.ones(1, 2, 4)
    torch.testing.assert_close(twin(x), network(x))


def test_computed_tensors_in_objects_are_copied() -> None:
    network: Any = with_attributes(holder=Holder())
    twin: Any = evaluation_twin(network)
    assert twin.holder.scale is not network.holder.scale
    assert torch.equal(twin.holder.scale, network.holder.scale)
    assert twin.holder.lock is not network.holder.lock


def test_a_written_file_is_left_alone(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        twin: Any = evaluation_twin(with_attributes(log=file))
        twin.log.write("from the copy")
        assert twin.log.name == os.devnull
        twin.log.close()
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_attributes(numbers=(n for n in range(3))), "cannot be copied.*generator"),
        (lambda: with_attributes(head=nn.LazyLinear(3)), "'head.weight' has no values yet"),
        (
            lambda: with_attributes(links={"near": torch.eye(4).to_sparse()}),
            r"'links\.near' is sparse_coo.*to_dense\(\)",
        ),
        (lambda: nan_in("rnn.weight_hh_l0"), "'rnn.weight_hh_l0' has 1 of 48 values that are NaN"),
    ],
)
def test_what_cannot_be_copied_or_used_is_refused(
    make: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(make(), (X,), tmp_path / "m.onnx")


def nan_in(name: str) -> nn.Module:
    network = Net()
    with torch.no_grad():
        network.get_parameter(name).view(-1)[0] = float("nan")
    return network


def test_a_file_that_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("1")
    with (
        (tmp_path / "data").open() as file,
        pytest.raises(ExportError, match=r"cannot be copied.*is read"),
    ):
        evaluation_twin(with_attributes(data=file))

"""PyTorch's exporter is used without the work that it repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _registration

from stateport_exporter.capture import write_onnx as module
from stateport_exporter.capture.torch_export import functional
from stateport_exporter.capture.write_onnx import write_onnx
from stateport_exporter.network.isolation import quiet


class _Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class _Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.add_(1)
        return y


class _WritesIntoArgument(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[0] = 1
        return x * 2


class _Counts(nn.Module):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x + self.count


def _program(network: nn.Module) -> torch.export.ExportedProgram:
    program: torch.export.ExportedProgram = torch.export.export(
        network, (torch.zeros(2, 3),), strict=False
    )
    return program


def test_the_table_of_operators_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []
    original = module._original_from_torchlib

    def counted(*args: Any, **named: Any) -> Any:
        reads.append((args, named))
        return original(*args, **named)

    module._registry.cache_clear()
    monkeypatch.setattr(module, "_original_from_torchlib", counted)
    first = write_onnx(_program(_Sum()), "a sum", 20)
    second = write_onnx(_program(_Sum()), "a sum", 20)
    assert len(reads) == 1
    assert [node.op_type for node in first.graph] == [node.op_type for node in second.graph]
    module._registry.cache_clear()


def test_pytorch_is_as_before_afterwards() -> None:
    before = vars(_registration.ONNXRegistry)["from_torchlib"]
    write_onnx(_program(_Sum()), "a sum", 20)
    assert vars(_registration.ONNXRegistry)["from_torchlib"] is before


def test_a_program_that_writes_nowhere_is_functional_already() -> None:
    program = _program(_Sum())
    assert functional(program) is program


@pytest.mark.parametrize("network", [_Writes(), _WritesIntoArgument(), _Counts()], ids=type)
def test_a_program_that_writes_is_made_functional(network: nn.Module) -> None:
    program = _program(network)
    with quiet():  # PyTorch warns of its own older ways
        made = functional(program)
    assert made is not program
    calls = made.graph.find_nodes(op="call_function", target=torch.ops.aten.add_.Tensor)
    assert not calls


def test_the_signature_shows_what_is_written_into() -> None:
    with quiet():
        argument = functional(_program(_WritesIntoArgument()))
        buffer = functional(_program(_Counts()))
    assert argument.graph_signature.user_inputs_to_mutate
    assert buffer.graph_signature.buffers_to_mutate

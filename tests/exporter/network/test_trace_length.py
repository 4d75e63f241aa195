"""The length that a network is traced at: the example's own, where the network takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import Spec, export
from stateport_exporter.network.example import Example
from stateport_exporter.network.explicit import Explicit
from stateport_exporter.network.trace_length import given_by_example, long_enough
from stateport_exporter.network.trial import check_any_length


class OneSecond(nn.Module):
    """Takes lengths of which no usual one is among the first: 7, 67, 1,031 and 4,099 all fail."""

    def __init__(self, shortest: int = 900) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shortest = shortest
        self.gru = nn.GRU(4, 3, batch_first=True)
        self.traced_at: list[int] = []

    def forward(self, audio: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.traced_at.append(audio.shape[1])
        frames = audio.unfold(1, 4, 4)
        hidden: Tensor = self.gru(frames)[0]
        return hidden


class LoopOverTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 4)
        outputs = []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            outputs.append(state)
        return torch.stack(outputs, 1)


def forward(x: Tensor) -> Tensor:
    return x


def saved(folder: Path, *shape: int) -> str:
    path = folder / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    return str(path)


def test_a_files_length_is_kept_as_a_hint(tmp_path: Path) -> None:
    path = saved(tmp_path, 2, 500, 3)
    spec = Spec.parse(f"{path}[batch,time,3]")
    assert spec.example_time == 500
    assert spec == Spec("float32", "batch", "time", 3), "the hint is no part of what it promises"
    assert Spec.parse(f"{path}[time,batch,3]").example_time == 2
    assert Spec.parse(f"{path}[batch,500,3]").example_time is None
    assert Spec("float32", "batch", "time").example_time is None
    assert Spec.of(torch.zeros(1, 40, dtype=torch.int64), "batch", "time").example_time == 40


@pytest.mark.parametrize(
    ("time", "may_be_loop", "expected"),
    [
        (500, False, 500),
        (500, True, 500),
        (16_000, False, 16_000),
        (16_000, True, None),  # a loop would be traced step by step
        (2, False, None),
        (7, False, None),  # the usual length
        (1 << 21, False, None),
    ],
)
def test_when_the_hint_is_used(time: int, may_be_loop: bool, expected: int | None) -> None:
    example = Example(forward, Spec.of(torch.zeros(1, 1).expand(1, time), "batch", "time"))
    found = given_by_example(example, may_be_loop=may_be_loop)
    assert (None if found is None else found.sizes["time"]) == expected


def test_two_lengths_are_no_hint() -> None:
    def two(x: Tensor, y: Tensor) -> Tensor:
        return x

    specs = [Spec.of(torch.zeros(1, time), "batch", "time") for time in (40, 50)]
    assert Example(two, specs).given_time is None
    assert Example(two, [specs[0], specs[0]]).given_time == 40


def traced_at(module: nn.Module, spec: Spec, folder: Path, **options: int) -> set[int]:
    """The lengths at which the network was captured."""
    lengths = set()
    capture = torch.export.export

    def noting(*args: object, **kwargs: object) -> object:
        tensors = [t for t in torch.utils._pytree.tree_leaves(args[1]) if isinstance(t, Tensor)]
        lengths.add(max(tensors[0].shape))
        return capture(*args, **kwargs)  # type: ignore[arg-type]

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(torch.export, "export", noting)
        export(module, (spec,), folder / "m.onnx", check=False, **options)  # type: ignore[arg-type]
    return lengths


def test_a_network_is_traced_at_the_files_length(tmp_path: Path) -> None:
    spec = Spec.parse(f"{saved(tmp_path, 1, 240)}[batch,time]")
    assert 240 in traced_at(OneSecond(), spec, tmp_path)


def test_trace_time_decides_over_the_file(tmp_path: Path) -> None:
    spec = Spec.parse(f"{saved(tmp_path, 1, 240)}[batch,time]")
    lengths = traced_at(OneSecond(), spec, tmp_path, trace_time=80)
    assert 80 in lengths
    assert 240 not in lengths


def test_a_loop_exports_with_a_long_file(tmp_path: Path) -> None:
    spec = Spec.parse(f"{saved(tmp_path, 1, 6000, 3)}[batch,time,3]")
    assert export(LoopOverTime(), (spec,), tmp_path / "m.onnx").contract.streaming.ok


class Calls(nn.Module):
    """Calls as many functions as `calls` says for the number of steps."""

    def __init__(self, calls: Callable[[int], int]) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.calls(x.shape[1])):
            x = x + 1
        return x


def run_for_length(calls: Callable[[int], int]) -> tuple[int | None, list[int]]:
    """The length that is long enough for a network, and the lengths that it ran at."""
    lengths = []

    def noting(time: int) -> int:
        lengths.append(time)
        return calls(time)

    network = Calls(noting)
    example = Example(network.forward, [Spec("float32", "batch", "time")])
    found = long_enough(Explicit(network), example)
    return None if found is None else found.sizes["time"], lengths


def test_a_loop_over_time_does_not_run_at_great_lengths() -> None:
    found, lengths = run_for_length(lambda time: time)
    assert found is None
    assert max(lengths) < 200


def test_a_branch_for_short_sequences_is_no_loop_over_time() -> None:
    assert run_for_length(lambda time: 1 if time < 50 else 3) == (None, [7, 14])
    assert run_for_length(lambda time: 1 if time < 10 else 3)[0] == 67
    assert run_for_length(lambda time: 3 if time < 10 else 1)[0] == 67
    assert run_for_length(lambda time: 1 + (time > 10) + (time > 300))[0] == 67


class OfChunks(nn.Module):
    """Takes multiples of eight steps alone."""

    def __init__(self, *, layer: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.GRU(24, 4, batch_first=True) if layer else None

    def forward(self, x: Tensor) -> Tensor:
        frames = x.reshape(x.shape[0], -1, 24)
        return frames * 2 if self.layer is None else self.layer(frames)[0]


@pytest.mark.parametrize("layer", [True, False])
def test_a_network_of_chunks_has_the_multiple_in_its_contract(layer: bool, tmp_path: Path) -> None:
    spec = (Spec("float32", "batch", "time", 3),)
    result = export(OfChunks(layer=layer), spec, tmp_path / "m.onnx")
    assert result.contract.multiples == (("time", 8),)
    assert result.report is not None
    assert result.report.passed


def test_a_network_that_fails_for_another_reason_says_that() -> None:
    class OnlySeven(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] != 7:
                raise ValueError("seven steps")
            return x

    example = Example(OnlySeven().forward, Spec("float32", "batch", "time"))
    check_any_length(Explicit(OnlySeven(), "forward"), example)

# SPDX-License-Identifier: Apache-2.0
"""Networks whose sequences must not exceed a table, a mask or an assertion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.network.example import ExampleLike
from tests.chunks import check_chunks

X = Spec("float32", "batch", "time", 4)


class Positions(nn.Module):
    """Adds a table of positions to what goes into an LSTM."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(1, rows, 4))
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x + self.table[:, : x.shape[1]])[0]
        return y


class Mask(nn.Module):
    """Attention with a causal mask of a fixed size."""

    mask: Tensor

    def __init__(self, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Linear(4, 4)
        self.register_buffer("mask", torch.ones(rows, rows).tril().bool(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        scores = self.query(x) @ x.transpose(1, 2)
        scores = torch.where(self.mask[:time, :time], scores, -1e9)
        return scores.softmax(-1) @ x


class MaskWhereLong(Mask):
    """Makes a mask of its own for all lengths but the longest."""

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        mask = self.mask
        if time < len(mask):
            mask = torch.ones(time, time).tril().bool()
        scores = self.query(x) @ x.transpose(1, 2)
        return torch.where(mask, scores, -1e9).softmax(-1) @ x


class Tokens(nn.Module):
    """A language model: tables of tokens and of positions."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.positions = nn.Embedding(20, 8), nn.Embedding(rows, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        time = tokens.shape[1]
        x = self.tokens(tokens) + self.positions(torch.arange(time))
        mask = nn.Transformer.generate_square_subsequent_mask(time)
        y: Tensor = self.block(x, src_mask=mask, is_causal=True)
        return y


class LoopWithPositions(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(4, 4)
        self.table = nn.Parameter(torch.randn(rows, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        hs = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t] + self.table[t], h)
            hs.append(h)
        return torch.stack(hs, 1)


class Frames(nn.Module):
    """Takes four steps to a frame, and no more than `most` steps."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.most = most
        self.frames = nn.Conv1d(4, 4, 4, stride=4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.most:
            raise ValueError(f"at most {self.most} steps")
        frames = self.frames(x.transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.lstm(frames)[0]
        return y


@pytest.mark.parametrize(
    ("network", "example", "longest"),
    [
        (Positions(9), X, 9),
        (Positions(64), X, 64),
        (Mask(20), X, 20),
        (Mask(64), X, 64),
        (MaskWhereLong(48), X, 48),
        (Tokens(32), Spec("int64", "batch", "time", high=19), 32),
        (LoopWithPositions(48), X, 48),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_longest_sequence_is_found_and_kept(
    network: nn.Module, example: ExampleLike, longest: int, tmp_path: Path
) -> None:
    result = export(network.eval(), example, tmp_path / "m.onnx")
    assert result.contract.limits == (("time", longest),)

    vectors = Vectors.load(vectors_path(result.path))
    assert max(case.chunks[0] for case in vectors.cases) == longest

    model = stateport.load(result.path)
    spec = result.contract.inputs[0]
    rest = [int(size) for size in spec.shape[2:]]
    x = np.ones((2, longest, *rest), spec.dtype)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model(x)[0], expected, atol=2e-5)
    with pytest.raises(stateport.StateportError, match=f"{longest + 1}.*at most {longest}"):
        model(np.ones((2, longest + 1, *rest), spec.dtype))


@pytest.mark.parametrize(("most", "longest"), [(100, 100), (130, 128)])
def test_a_network_streams_whose_calls_have_a_longest_length(
    most: int, longest: int, tmp_path: Path
) -> None:
    result = export(Frames(most).eval(), X, tmp_path / "m.onnx")
    assert result.contract.limits == (("time", longest),)
    streaming = result.contract.streaming
    assert (streaming.ok, streaming.chunk_multiple) == (True, 4)

    check_chunks(result.path)


class OddLengths(nn.Module):
    """Fails at some lengths between others, which is no end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 64 == 1 and x.shape[1] > 64:
            raise ValueError("an odd length")
        y: Tensor = self.lstm(x)[0]
        return y


def test_lengths_that_fail_between_others_are_no_end(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="an odd length"):
        export(OddLengths().eval(), X, tmp_path / "m.onnx")


class RoundsOverTable(nn.Module):
    """A largest value that fades, in rounds, 5 for 17 to 32 steps, over a table of positions."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(1, rows, 4))

    def forward(self, x: Tensor) -> Tensor:
        value, behind = x + self.table[:, : x.shape[1]], 1
        while behind < x.shape[1]:
            before = nn.functional.pad(value[:, :-behind], (0, 0, behind, 0), value=-1e3)
            value = torch.maximum(value, before - 0.1 * behind)
            behind *= 2
        return value


@pytest.mark.parametrize(("rows", "fewest"), [(30, 17), (80, 65)])
def test_rounds_are_traced_near_the_longest_sequence(
    tmp_path: Path, rows: int, fewest: int
) -> None:
    """A graph has one number of rounds: that of the longest sequences that the table allows."""
    net = RoundsOverTable(rows).eval()
    contract = export(net, X, tmp_path / "m.onnx").contract
    assert (dict(contract.minimums), dict(contract.limits)) == ({"time": fewest}, {"time": rows})

    x = torch.randn(2, rows, 4)
    y = stateport.load(tmp_path / "m.onnx").run({"x": x.numpy()})[0]["y"]
    np.testing.assert_allclose(y, net(x).detach().numpy(), atol=1e-5)


class RecurrenceOverTable(RoundsOverTable):
    """A gated recurrence in rounds."""

    def forward(self, x: Tensor) -> Tensor:
        value = x + self.table[:, : x.shape[1]]
        kept, behind = torch.sigmoid(value), 1
        while behind < x.shape[1]:
            value = kept * nn.functional.pad(value[:, :-behind], (0, 0, behind, 0)) + value
            kept = kept * nn.functional.pad(kept[:, :-behind], (0, 0, behind, 0), value=1.0)
            behind *= 2
        return value


def test_the_table_alone_limits_a_recurrence_in_rounds(tmp_path: Path) -> None:
    contract = export(RecurrenceOverTable(30).eval(), X, tmp_path / "m.onnx").contract
    assert (dict(contract.minimums), dict(contract.limits)) == ({}, {"time": 30})

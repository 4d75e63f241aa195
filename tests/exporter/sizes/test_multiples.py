# SPDX-License-Identifier: Apache-2.0
"""Lengths that a network takes: multiples alone, from a shortest on, or without a rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stateport import InputError, load
from stateport_exporter import ExportError, ExportResult, Spec, export

FEATURES = Spec("float32", "batch", "time", 4)
RELATIVES = pytest.mark.patterns


class Recurrent(nn.Module):
    """A GRU; its relatives do something with the length before or after it."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.gru = nn.GRU(features, 3, batch_first=True)

    def run(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.gru(x)[0]
        return hidden


class Reshaped(Recurrent):
    def __init__(self) -> None:
        super().__init__(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x.reshape(x.shape[0], -1, 8))


class Viewed(Recurrent):
    def __init__(self) -> None:
        super().__init__(20)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, features = x.shape
        return self.run(x.view(batch, time // 5, 5 * features))


class Asserted(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] % 3 == 0
        return self.run(x)


class PiecesAsBatch(Recurrent):
    """Pieces of four steps become rows of the batch, and steps again."""

    def forward(self, x: Tensor) -> Tensor:
        batch, time, features = x.shape
        pieces = x.reshape(-1, 4, features)
        return self.run((pieces - pieces.mean(1, keepdim=True)).reshape(batch, time, features))


class Filled(Recurrent):
    """Filled up to a multiple, so that every length is taken."""

    def __init__(self) -> None:
        super().__init__(8)

    def forward(self, x: Tensor) -> Tensor:
        filled = functional.pad(x, (0, 0, 0, (-x.shape[1]) % 2))
        return self.run(filled.reshape(x.shape[0], -1, 8))


class LastSteps(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)[:, -5:]


class FirstSteps(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        return self.run(x[:, :5])


class LastMean(Recurrent):
    """More steps than those that are traced at first."""

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)[:, -10:].mean(1)


class ShortBranch(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        return self.run(-x if x.shape[1] < 12 else x)


class LongBranch(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        return self.run(-x if x.shape[1] > 600 else x)


class Hole(Recurrent):
    """Fails at 5 and 6 steps, and below 4."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] in (1, 2, 3, 5, 6):
            raise ValueError("not at this length")
        return self.run(x)


class Pieces(Recurrent):
    """Three pieces, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, answers = None, []
        for piece in x.chunk(3, dim=1):
            answer, hidden = self.gru(piece, hidden)
            answers.append(answer)
        return torch.cat(answers, 1)


class Centred(Recurrent):
    """As many pieces as fit, each computed by itself."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        hidden, answers = None, []
        for piece in torch.split(x, self.steps, dim=1):
            answer, hidden = self.gru(piece - piece.mean(1, keepdim=True), hidden)
            answers.append(answer)
        return torch.cat(answers, 1)


def exported(network: nn.Module, folder: Path) -> ExportResult:
    torch.manual_seed(0)
    return export(network.eval(), FEATURES, folder / "m.onnx")


def check_lengths(network: nn.Module, path: Path, *times: int) -> None:
    model = load(path)
    for time in times:
        x = np.random.default_rng(time).standard_normal((2, time, 4)).astype(np.float32)
        with torch.no_grad():
            expected = network.eval()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(model(x)[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("network", "multiple"),
    [
        (Reshaped(), 2),
        pytest.param(Viewed(), 5, marks=RELATIVES),
        pytest.param(Asserted(), 3, marks=RELATIVES),
        pytest.param(PiecesAsBatch(), 4, marks=RELATIVES),
    ],
    ids=["reshape", "view", "assert", "batch"],
)
def test_a_multiple_is_found_and_kept(tmp_path: Path, network: nn.Module, multiple: int) -> None:
    contract = exported(network, tmp_path).contract
    assert contract.multiples == (("time", multiple),)
    assert (contract.streaming.ok, contract.streaming.chunk_multiple) == (True, multiple)

    check_lengths(network, tmp_path / "m.onnx", multiple, 3 * multiple)
    with pytest.raises(InputError, match=f"takes multiples of {multiple} alone"):
        load(tmp_path / "m.onnx")(np.zeros((1, multiple + 1, 4), np.float32))


@RELATIVES
def test_a_sequence_that_is_filled_up_takes_every_length(tmp_path: Path) -> None:
    contract = exported(Filled(), tmp_path).contract
    assert contract.multiples == ()
    assert (contract.streaming.ok, contract.streaming.chunk_multiple) == (True, 2)


@pytest.mark.parametrize(
    ("network", "shortest"),
    [
        (LastSteps(), 5),
        pytest.param(FirstSteps(), 5, marks=RELATIVES),
        pytest.param(Hole(), 7, marks=RELATIVES),
        pytest.param(Pieces(), 5, marks=RELATIVES),
        pytest.param(LastMean(), 1, marks=RELATIVES),
    ],
    ids=["last", "first", "hole", "pieces", "mean"],
)
def test_the_shortest_length_is_that_of_the_graph(
    tmp_path: Path, network: nn.Module, shortest: int
) -> None:
    contract = exported(network, tmp_path).contract
    assert dict(contract.minimums).get("time", 1) == shortest
    check_lengths(network, tmp_path / "m.onnx", shortest, shortest + 1, 33)


@RELATIVES
def test_short_sequences_that_are_treated_otherwise_are_refused(tmp_path: Path) -> None:
    result = exported(ShortBranch(), tmp_path)
    assert result.contract.minimums == (("time", 12),)
    assert "time below 12" in result.notes[-1]
    assert not result.contract.streaming.ok


@RELATIVES
def test_long_sequences_that_are_treated_otherwise_are_refused(tmp_path: Path) -> None:
    result = exported(LongBranch(), tmp_path)
    assert result.contract.limits == (("time", 600),)
    assert "time beyond 600" in result.notes[-1]
    assert result.contract.streaming.ok


@RELATIVES
def test_as_many_pieces_as_fit_stream_piece_by_piece(tmp_path: Path) -> None:
    result = exported(Centred(6), tmp_path)
    assert result.contract.streaming.ok
    assert result.contract.step_multiple == 6


def test_as_many_long_pieces_as_fit_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cut the sequence into as many chunks as fit"):
        exported(Centred(20), tmp_path)

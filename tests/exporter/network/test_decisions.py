# SPDX-License-Identifier: Apache-2.0
"""Questions about the values of tensors that one answer is right for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport_exporter import ExportError, Spec, export
from stateport_exporter.network.decisions import Decisions, find_decisions
from stateport_exporter.network.example import Example
from stateport_exporter.network.explicit import Explicit

X = Spec("float32", "batch", "time", 4)
MASK = Spec("bool", "batch", "time")
LENGTHS = Spec("int64", "batch", low=1, high=7)


class Gated(nn.Module):
    """A GRU behind a function of the input and another argument."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.function = nn.GRU(4, 4, batch_first=True), function

    def forward(self, x: Tensor, other: Tensor) -> Any:
        return self.rnn(self.function(x, other))[0]


def masked(x: Tensor, mask: Tensor) -> Tensor:
    if mask.any():
        x = x.masked_fill(mask[..., None], 0.0)
    return x


def kept(x: Tensor, mask: Tensor) -> Tensor:
    if mask.all():
        return x
    return torch.where(mask[..., None], x, torch.zeros_like(x))


def clamped(x: Tensor, _: Tensor) -> Tensor:
    return x.clamp(-1, 1) if x.abs().max() > 1 else x


def without_nan(x: Tensor, _: Tensor) -> Tensor:
    if torch.isnan(x).any():
        x = torch.nan_to_num(x)
    return x


def asserted(x: Tensor, lengths: Tensor) -> Tensor:
    assert lengths.min() >= 0
    return x * (torch.arange(x.shape[1]) < lengths[:, None])[..., None]


def raising(x: Tensor, lengths: Tensor) -> Tensor:
    if (lengths <= 0).any():
        raise ValueError("empty rows")
    return x * (torch.arange(x.shape[1]) < lengths[:, None])[..., None]


def checked(x: Tensor, _: Tensor) -> Tensor:
    torch._check(bool(x.abs().max() < 1e30))  # type: ignore[no-untyped-call]
    return x


def doubled(x: Tensor, mask: Tensor) -> Tensor:
    return x * 2 if mask.any() else x


def clamped_late(x: Tensor, _: Tensor) -> Tensor:
    """Between 50 and 100 it does something else than above."""
    return x.clamp(-50, 50) if x.abs().max() > 100 else x


def doubled_at_once(x: Tensor, mask: Tensor) -> Tensor:
    """One masked step makes no difference, two do."""
    return x * 2 if mask.sum() > 1 else x


def on_average(x: Tensor, _: Tensor) -> Tensor:
    return x * 2 if x.mean() > 0 else x


def decisions(function: Callable[..., Tensor], spec: Spec) -> Decisions | None:
    network = Gated(function).eval()
    return find_decisions(Explicit(network).eval(), Example(network.forward, (X, spec)))


@pytest.mark.parametrize(
    ("function", "spec", "answer", "notes"),
    [
        (masked, MASK, True, 0),
        (kept, MASK, False, 0),
        (clamped, MASK, True, 0),
        (without_nan, MASK, True, 0),
        (asserted, LENGTHS, True, 1),
        (raising, LENGTHS, False, 1),
        (checked, MASK, True, 1),
    ],
)
def test_one_answer_is_right(
    function: Callable[..., Tensor], spec: Spec, answer: bool, notes: int
) -> None:
    found = decisions(function, spec)
    assert found is not None
    assert list(found.answers.values()) == [answer]
    assert len(found.notes) == notes
    # A caller puts them into a sentence, "note: ...".
    assert not any(note.endswith(".") for note in found.notes)


def halved_until_small(x: Tensor, _: Tensor) -> Tensor:
    while x.abs().max() > 0.5:
        x = x / 2
    return x


def halved_in_spite_of_errors(x: Tensor, _: Tensor) -> Tensor:
    while True:
        with contextlib.suppress(Exception):
            if x.abs().max() <= 0.5:
                return x
            x = x / 2


def grows_until_large(x: Tensor, _: Tensor) -> Tensor:
    while x.abs().max() < 8:  # zeros never are
        x = x * 2
    return x


#: Loops that a forced answer, or other arguments, would make endless.
ENDLESS = [halved_until_small, halved_in_spite_of_errors, grows_until_large]


@pytest.mark.parametrize("function", [doubled, clamped_late, doubled_at_once, on_average, *ENDLESS])
def test_no_answer_is_right(function: Callable[..., Tensor]) -> None:
    assert decisions(function, MASK) is None


def test_a_file_has_the_right_answer(tmp_path: Path) -> None:
    network = Gated(masked)
    model = stateport.load(export(network, (X, MASK), tmp_path / "m.onnx").path)
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    for mask in (np.zeros((2, 5), bool), np.eye(2, 5, dtype=bool)):
        outputs, _ = model.run({"x": x, "other": mask})
        with torch.no_grad():
            want = network(torch.from_numpy(x), torch.from_numpy(mask))
        np.testing.assert_allclose(outputs["y"], want, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (doubled, "takes numbers out of a tensor.*if mask.any"),
        (lambda x, _: asserted(x, -x[:, 0, 0].abs()), "could not be traced.*AssertionError"),
    ],
)
def test_other_questions_are_refused(
    function: Callable[..., Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        export(Gated(function), (X, MASK), tmp_path / "m.onnx")

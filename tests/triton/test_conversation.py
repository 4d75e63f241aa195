# SPDX-License-Identifier: Apache-2.0
"""The script that talks to `stateport serve` passes against Triton, too.

Run by `make triton-check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import stateport
from stateport import Model
from tests.runtime.serve.conversation import WAYS, Server, check, sequences

from .server import Triton, triton


@pytest.fixture(scope="module")
def judge(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with triton(tmp_path_factory.mktemp("repository"), {"lstm": reference}) as server:
        yield server


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


@pytest.mark.parametrize("way", WAYS)
def test_fifty_sequences_at_once(judge: Triton, model: Model, way: str) -> None:
    sent = sequences(model)
    answers = WAYS[way](Server(judge.http, judge.grpc, "lstm"), sent)
    check(model, sent, answers)

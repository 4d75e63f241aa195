# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's client carries 50 sequences at once, in every way that it has.

`make triton-check` sends the same to Triton: tests/triton/test_conversation.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import urllib3

import stateport
from stateport import Model

from .conversation import WAYS, Server, check, sequences
from .process import Serving, serving


@pytest.fixture(scope="module")
def server(reference: Path) -> Iterator[Serving]:
    with serving({"lstm": reference}, "--log-level", "warning") as running:
        yield running


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


@pytest.mark.parametrize("way", WAYS)
def test_fifty_sequences_at_once(server: Serving, model: Model, way: str) -> None:
    sent = sequences(model)
    check(model, sent, WAYS[way](Server(server.http, server.grpc, "lstm"), sent))
    assert live_streams(server) == 0


def live_streams(server: Serving) -> int:
    page = urllib3.request("GET", f"http://{server.http}/metrics").data.decode()
    [line] = [each for each in page.splitlines() if each.startswith("stateport_live_streams{")]
    return int(float(line.split()[-1]))


def test_the_check_can_fail(model: Model) -> None:
    sent = sequences(model, count=2)
    answers = []
    for sequence in sent:
        stream = model.stream()
        answers.append([np.array(stream(chunk)) for chunk in sequence.chunks])
    check(model, sent, answers)

    answers[1][-1] = answers[1][-1] + np.float32(1e-3)
    with pytest.raises(AssertionError, match=r"sequence 'sequence 1.*is off by"):
        check(model, sent, answers)

# SPDX-License-Identifier: Apache-2.0
"""Fails a build when a model file no longer gives PyTorch's answers. PyTorch is not needed.

Needs: stateport[cpu] (see README.md), pytest, and lstm.onnx with its vectors from export_lstm.py
Run:   pytest verify_in_ci.py
"""

from collections.abc import Callable

import pytest

import stateport

Parity = Callable[..., stateport.Matrix]


def test_it_gives_the_answers_of_pytorch(parity: Parity) -> None:
    """The fixture `parity` comes with stateport. It fails with the output and the step."""
    parity("lstm.onnx")


@pytest.mark.parity("ort-cpu", "openvino", require=False)
def test_it_does_so_on_other_engines(parity: Parity) -> None:
    """Engines that are not installed are skipped; with require=True they fail the test."""
    parity("lstm.onnx")


def test_its_largest_error_stays_small() -> None:
    """Without the fixture, `stateport.verify` returns what was measured."""
    matrix = stateport.verify("lstm.onnx", engines=["ort-cpu"])
    assert matrix.passed

    (report,) = matrix.reports
    errors = [measured.error for measured in report.measurements if measured.error is not None]
    assert max(errors) < 1e-5


def test_it_can_be_streamed() -> None:
    """A contract can be tested, too: a change to the network may make it need whole sequences."""
    contract = stateport.load("lstm.onnx").contract
    assert contract.streaming.ok
    assert [state.input for state in contract.states] == ["h0", "c0"]

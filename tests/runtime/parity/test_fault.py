"""The first wrong step in a report, and the message where it cannot be found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stateport import StateportError
from stateport.parity import fault
from stateport.parity.fault import LocatedFault, locator

FOUND = LocatedFault(
    "file", "node_LSTM_5", "LSTM", "y", "whole 2x7, from random", 3, 1.5e-3, 2e-7, "m.node.onnx"
)


def test_the_sentence_says_whose_fault_it_is_and_where() -> None:
    assert str(FOUND) == (
        "The file is not what was exported: the first value to be off is 'y' of the LSTM node "
        "'node_LSTM_5', 1.5e-03 at step 3 of whole 2x7, from random, where 2.0e-07 is allowed. "
        "The node alone: m.node.onnx, with vectors."
    )
    said = str(replace(FOUND, fault="engine", step=None, file=None))
    assert said.startswith("The file is right, the engine is not: ")
    assert "step" not in said
    assert said.endswith("is allowed.")


def test_without_the_exporter_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault, "entry_points", lambda **_: [])
    with pytest.raises(StateportError, match="pip install stateport-exporter"):
        locator()


def test_with_it_there_is_one() -> None:
    assert callable(locator())

# SPDX-License-Identifier: Apache-2.0
"""Where Ray is not installed, what needs it names the extras."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import stateport.ray
from stateport import StateportError


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)


def test_a_data_set_names_the_extras(reference: Path) -> None:
    data: Any = None
    with pytest.raises(StateportError, match=r"pip install 'stateport\[cpu,ray\]'"):
        stateport.ray.predict(data, reference)


def test_live_streams_name_the_extras(reference: Path) -> None:
    with pytest.raises(StateportError, match=r"pip install 'stateport\[cpu,serve,ray\]'"):
        stateport.ray.deployment(reference, store="file:streams")

# SPDX-License-Identifier: Apache-2.0
"""Where Ray is not installed, `import stateport.ray` names the extra."""

from __future__ import annotations

import importlib
import sys

import pytest

from stateport import StateportError


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stateport.ray", "stateport.ray.predict"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(StateportError, match=r"pip install 'stateport\[cpu,ray\]'"):
        importlib.import_module("stateport.ray")

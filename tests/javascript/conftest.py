"""Node and the npm package, which `make javascript` builds before it runs these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from stateport import engines

PACKAGE = Path(__file__).parents[2] / "javascript"


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the package, where `ort-node` finds it. Without it, no test is skipped."""
    monkeypatch.setenv("STATEPORT_NODE_MODULES", str(PACKAGE))
    status = engines.status("ort-node")
    assert status.problem is None, f"{status.problem} Run these tests with `make javascript`."
    return PACKAGE

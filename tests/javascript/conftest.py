"""Node, a browser and the npm package, which `make javascript` builds before these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from stateport import engines

PACKAGE = Path(__file__).parents[2] / "javascript"


@pytest.fixture(scope="session", autouse=True)
def works() -> None:
    """Without Node, a browser or the package, no test is skipped."""
    with pytest.MonkeyPatch.context() as context:
        context.setenv("STATEPORT_NODE_MODULES", str(PACKAGE))
        for name in ("ort-node", "ort-web"):
            problem = engines.status(name).problem
            assert problem is None, f"{problem} Run these tests with `make javascript`."


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the package, where the engines find it."""
    monkeypatch.setenv("STATEPORT_NODE_MODULES", str(PACKAGE))
    return PACKAGE

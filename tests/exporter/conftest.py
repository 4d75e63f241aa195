# SPDX-License-Identifier: Apache-2.0
"""Shorter chains for tests of what is found in a network.

A chain of 2,048 calls takes half of the time of a small network's export, and says how far errors
grow. The suites of patterns and engines record it for every kind of network, and so do the tests
that are not named here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from stateport_exporter.vectors import cases

#: The folders of such tests, and single files.
_OF_WHAT_IS_FOUND: Final = frozenset(
    {"capture", "loops", "memory", "network", "sizes", "states", "streaming"}
    | {
        "test_export_module.py",
        "test_loop.py",
        "test_native_operators.py",
        "test_random_networks.py",
    }
    | {"test_random_blocks.py", "test_growing_caches.py"}
)
_CALLS: Final = 128


@pytest.fixture(autouse=True)
def _short_chains(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of few calls, but for the tests of patterns."""
    folders_and_file = request.path.relative_to(Path(__file__).parent).parts
    is_one = not _OF_WHAT_IS_FOUND.isdisjoint(folders_and_file)
    if is_one and not request.node.get_closest_marker("patterns"):
        monkeypatch.setattr(cases, "CHAIN", _CALLS)

# SPDX-License-Identifier: Apache-2.0
"""Servers in processes of their own, one for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serve.process import Serving, serving


@pytest.fixture(scope="session")
def server(reference: Path) -> Iterator[Serving]:
    """A server with the reference network, `lstm`, which takes bodies of 256 KiB."""
    options = ("--max-body", "256K", "--max-streams-per-client", "100")
    with serving({"lstm": reference}, *options) as running:
        yield running


@pytest.fixture(scope="session")
def hasty(reference: Path) -> Iterator[Serving]:
    """A server that waits half a second for a slow client."""
    options = ("--slow", "0.5", "--max-body", "64M")
    with serving({"lstm": reference}, *options) as running:
        yield running

# SPDX-License-Identifier: Apache-2.0
"""Stores that keep streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serve.streams.services import Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis server that runs."""
    server = Redis(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["file", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that keeps streams."""
    if request.param == "file":
        return f"file:{tmp_path / 'streams'}"
    server: Redis = request.getfixturevalue("redis")
    return server.url

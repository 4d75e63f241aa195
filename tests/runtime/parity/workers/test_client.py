"""A process that is asked, where there is nobody to answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest

from stateport.parity.workers.client import ask
from stateport.parity.workers.protocol import Job


class EndsFirst(subprocess.Popen[str]):
    """A process that has ended before anything can be written to it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("true", []),
        ("echo", []),
        ("false", ["It took its process down (starting): exit code 1."]),
    ],
)
@pytest.mark.parametrize("length", [1, 1_000_000], ids=["short", "longer-than-a-pipe"])
def test_one_that_ends_before_it_has_read_the_job_shows_in_its_exit_code(
    program: str, told: list[str], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", EndsFirst)
    job = Job(model="x" * length, vectors="", engine="ort-cpu")
    answer = ask(job, python=shutil.which(program), limit=60, progress=lambda _: None)
    assert [message["died"] for message in answer] == told

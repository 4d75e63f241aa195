"""No file that is read, whatever it holds, ends in another way than in an error of ours.

`make test` tries some hundred files of each format, the same ones every time; `make fuzz` 20,000,
and holds each against limits of time and memory.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stateport.errors import StateportError

from .formats import Format, all_formats, files

#: How many files of each format; more than in `make test` are also timed.
INPUTS = int(os.environ.get("STATEPORT_FUZZ_FILES", "0"))
SECONDS = 10
BYTES = 1 << 30

NAMES = ["onnx", "contract", "vectors", "state", "plan", "baseline", "npy", "npz", "pool"]
NAMES += ["safetensors-weights", "torch-weights", "spec"]


@dataclass
class Tally:
    """What became of the files of one format."""

    read: int = 0
    refused: int = 0
    longest: int = 0
    slowest: float = 0.0

    def use(self, format_: Format, path: Path) -> None:
        """Reads a file; only errors of ours are no fault."""
        start = perf_counter()
        try:
            with limited():
                format_.use(path)
        except StateportError as error:
            self.refused += 1
            self.longest = max(self.longest, len(str(error)))
        else:
            self.read += 1
        self.slowest = max(self.slowest, perf_counter() - start)


@contextmanager
def limited() -> Iterator[None]:
    """Within a gigabyte more than now, and under `make fuzz` within ten seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, before[1]))
    if INPUTS:
        signal.signal(signal.SIGALRM, _too_slow)
        signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _too_slow(number: int, frame: object) -> None:
    raise TimeoutError(f"a file of some hundred bytes took {SECONDS} s")


@pytest.fixture(scope="module")
def formats() -> dict[str, Format]:
    found = all_formats()
    assert [*found] == NAMES
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_read_or_refused(
    name: str, formats: dict[str, Format], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    format_, tally = formats[name], Tally()
    files(tmp_path)
    path = tmp_path / f"fuzzed.{format_.ending}"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=INPUTS or 300,
        derandomize=not INPUTS,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(content=format_.contents)
    def try_(content: bytes) -> None:
        path.write_bytes(content)
        tally.use(format_, path)

    try_()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    # What is always read, or always refused, was no test of the reader.
    assert tally.read
    assert tally.refused
    assert tally.longest < 2000, "nobody reads an error that long"
    if INPUTS:
        with capsys.disabled():
            print(  # noqa: T201
                f"\n{name}: {tally.read} read, {tally.refused} refused, no fault; "
                f"slowest {tally.slowest:.2f} s, memory grew {grown // 1024} MB"
            )


def test_a_reader_that_fails_in_its_own_way_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        Tally().use(Format("x", st.nothing(), lambda _: [][1]), tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_reader_that_takes_too_much_memory_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        Tally().use(Format("x", st.nothing(), lambda _: np.zeros(2 * BYTES, np.uint8)), tmp_path)

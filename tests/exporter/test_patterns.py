"""Every pattern of the catalogue is exported and proven; what is just outside is refused."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.patterns import table_of_docs
from stateport.parity.vectors import Vectors
from stateport_exporter import ExportError, export
from tests.chunks import check_chunks
from tests.exporter.patterns import PATTERNS, Pattern, seeded
from tests.exporter.patterns.lifting import scaled_in_a_buffer
from tests.exporter.patterns.loops import looks_ahead, with_h
from tests.exporter.patterns.pattern import ROW, X, gru, network

every_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)
REFUSED = [pattern for pattern in PATTERNS if pattern.outside.refused]
FOR_WHOLE_SEQUENCES = [pattern for pattern in PATTERNS if not pattern.outside.refused]


@pytest.mark.patterns
@every_pattern
def test_a_pattern_is_exported_and_proven(pattern: Pattern, tmp_path: Path) -> None:
    net = seeded(pattern.make)
    result = export(net, pattern.example, tmp_path / "m.onnx", method=pattern.method)
    contract = result.contract
    assert tuple((s.input, s.output) for s in contract.states) == pattern.states
    assert contract.streaming.ok == pattern.streams, contract.streaming.reason
    # The number of the step is that of all rows.
    shared = [state.input for state in contract.states if "batch" not in state.shape]
    assert shared in ([], ["count"])
    assert result.report is not None
    assert result.report.passed
    # Truth and floor, sizes that were not traced, chunks, and a long chain.
    vectors = Vectors.load(result.vectors)
    assert vectors.truth == "float64"
    # Convolutions are recorded at larger batches too.
    assert {case.sizes["batch"] for case in vectors.cases} >= {1, 2, 5}
    if "time" in contract.axes:
        lengths = {sum(case.chunks) for case in vectors.cases if len(case.chunks) == 1}
        assert lengths >= {1, 2, 7, 64, 513}
    assert result.report.steps >= 2000
    check_chunks(result.path)


# One of the networks is TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.patterns
@pytest.mark.parametrize("pattern", REFUSED, ids=str)
def test_what_is_just_outside_is_refused(pattern: Pattern, tmp_path: Path) -> None:
    outside = pattern.outside
    with pytest.raises(ExportError, match=outside.message):
        export(seeded(outside.make), outside.example, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.patterns
@pytest.mark.parametrize("pattern", FOR_WHOLE_SEQUENCES, ids=str)
def test_what_is_just_outside_takes_whole_sequences_alone(pattern: Pattern, tmp_path: Path) -> None:
    outside = pattern.outside
    result = export(seeded(outside.make), outside.example, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    assert not result.contract.streaming.ok
    assert re.search(outside.message, str(result.contract.streaming.reason))


# These were just outside once. They are right now, and need whole sequences.
NO_CHUNKS = {
    "looks ahead": (lambda: with_h(looks_ahead), (X, ROW), "a single step of each call by cell"),
    "scales its state": (
        lambda: network(scaled_in_a_buffer, gru=gru(), kept=torch.zeros(1, 1, 4)),
        (X,),
        "is computed from the other",
    ),
}


@pytest.mark.patterns
@pytest.mark.parametrize("name", NO_CHUNKS)
def test_what_needs_whole_sequences_says_why(name: str, tmp_path: Path) -> None:
    make, example, reason = NO_CHUNKS[name]
    result = export(seeded(make), example, tmp_path / "m.onnx")
    assert result.report is not None
    assert result.report.passed
    assert result.contract.streaming.ok is False
    assert reason in str(result.contract.streaming.reason)


def test_the_table_in_docs_lists_the_patterns() -> None:
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in table_of_docs()]
    assert [(group, name) for group, name, *_ in rows] == [(p.group, p.name) for p in PATTERNS]
    assert max(Counter(map(str, PATTERNS)).values()) == 1
    assert all(verdict == "right" for _, _, verdict, _ in rows)

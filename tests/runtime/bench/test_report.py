"""The results as a table, as JSON and as a picture."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from stateport.bench.plot import picture
from stateport.bench.report import document, notes, table
from stateport.bench.roofline import Ceilings, Work
from stateport.bench.run import Bench, Result
from stateport.bench.timing import Ratio, Times
from stateport.bench.workload import Workload
from stateport.cli.output import show
from stateport.printable import json_text

TIMES = Times((2e-6, 2e-6, 4e-6), (2e-6, 3e-6))


@pytest.fixture
def bench() -> Bench:
    """Two loads; one engine, and PyTorch beside it. The names are hostile."""
    results = [
        Result(load, name, 1, TIMES, 1e-6, against)
        for load in (Workload(1, 1), Workload(256, 10))
        for name, against in (("ort-cpu", Ratio(0.2, 0.1, 0.3)), ("PyTorch <&> [bold]", None))
    ]
    ceilings = (Ceilings(1, 1e11, 2e11),)
    return Bench("a/<b> & [red].onnx", Work(600, 2400), ceilings, tuple(results), 7.5, {})


def test_the_table_says_all(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    show(table(bench))
    text = capsys.readouterr().out
    for part in (
        "[red].onnx",
        "PyTorch <&> [bold]",
        "256 streams, 10 steps",
        "0.200 (0.100 to 0.3",
    ):
        assert part in text
    assert " 50%  " + "█" * 10 + " " in text
    assert "1,280,000,000" in text


def test_the_bars_can_be_drawn_in_ascii(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    show(table(bench, "="))
    assert " 50%  " + "=" * 10 + "\n" in capsys.readouterr().out


def test_a_busy_machine_is_said(bench: Bench) -> None:
    assert "load 7.5 on 2 cores" in notes(bench, 2)[-1]
    assert len(notes(bench, 16)) == 1
    assert "600 weights of 2,400 bytes" in notes(bench, 16)[0]


def test_json_has_every_figure(bench: Bench) -> None:
    read = json.loads(json_text(document(bench)))
    assert read["ceilings"] == [{"threads": 1, "bytes_per_second": 1e11, "flops_per_second": 2e11}]
    first = read["results"][0]
    assert first["steps_per_second"] == pytest.approx(5e5)
    assert first["share"] == pytest.approx(0.5)
    assert first["against"] == [0.2, 0.1, 0.3]
    assert read["results"][1]["against"] is None
    assert (read["results"][2]["streams"], read["results"][2]["time"]) == (256, 10)


def test_the_picture_is_whole_and_takes_names_as_text(bench: Bench) -> None:
    root = ElementTree.fromstring(picture(bench))  # noqa: S314  # our own text
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text or "" for element in root.iter(f"{space}text")]
    assert "<b> & [red].onnx" in texts
    assert any("PyTorch <&>" in text for text in texts)
    for said in ("2.0 us", "50%", "500,000 steps/s, p99 3.0 us", "share of the limit"):
        assert said in texts
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for element in root.iter():
        assert float(element.attrib.get("x", 0)) < width
        assert float(element.attrib.get("y", 0)) < height


def test_time_stands_beside_the_share_and_nothing_runs_out_of_the_picture(bench: Bench) -> None:
    slow = Times((0.5, 0.5, 0.5), (0.6, 0.7))
    first, second, *others = bench.results
    long = replace(second, name="a very long name of another network", threads=16, times=slow)
    root = ElementTree.fromstring(picture(replace(bench, results=(first, long, *others))))  # noqa: S314
    space = "{http://www.w3.org/2000/svg}"
    width = float(root.attrib["viewBox"].split()[2])

    bars = [r for r in root.iter(f"{space}rect") if r.get("class") in ("bar", "beside")]
    assert len(bars) == 2 * len(bench.results)
    assert [float(bar.attrib["width"]) for bar in bars[:4]] == [2.0, 85.0, 170.0, 2.0]

    rows: dict[str, list[tuple[float, float]]] = {}
    for text in root.iter(f"{space}text"):
        size = 6.2 if text.get("class") == "small" else 7.6  # of a character, at most
        start = float(text.attrib["x"])
        rows.setdefault(text.attrib["y"], []).append((start, start + size * len(text.text or "")))
    for spans in rows.values():
        assert all(end <= width for _, end in spans)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_call_faster_than_the_estimate_shows_no_share_above_all(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = replace(bench, results=tuple(replace(r, least=86e-6) for r in bench.results))
    show(table(fast))
    printed = capsys.readouterr().out
    assert " >= 100%  " + "█" * 20 in printed
    assert "4300%" not in printed
    assert any(">= 100%: the call is faster than this estimate" in line for line in notes(fast, 2))
    assert "&gt;= 100%" in picture(fast)

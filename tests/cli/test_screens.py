"""What each command shows on a terminal of 80 and of 120 columns, and in a pipe."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from stateport.cli import main
from stateport.cli.output import say
from tests.cli.conftest import Command
from tests.exporter.graphs import Builder

Shown = Callable[..., list[str]]

ESCAPES = re.compile(r"\x1b\[\??[0-9;]*[a-zA-Z]")
ENGINES = ("ort-cpu", "ort-cuda", "openvino", "tract", "onnx-reference")
VERDICTS = ("pass", "not run", "FAIL")


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(params=[80, 120])
def columns(request: pytest.FixtureRequest) -> int:
    width: int = request.param
    return width


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, columns: int) -> Shown:
    """Calls `stateport` with stdout on a terminal; the lines there, without colours."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")

    def call(*arguments: object, code: int = 0, encoding: str = "utf-8") -> list[str]:
        terminal = Terminal(encoding)
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "argv", ["stateport", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == code
        return ESCAPES.sub("", terminal.text()).splitlines()

    return call


def check(lines: list[str], columns: int) -> str:
    """Checks that every line fits; returns all words with single spaces."""
    for line in lines:
        is_one_word = len(line.split()) == 1  # a long path is never broken
        assert cell_len(line) <= columns or is_one_word, line
    return " ".join(" ".join(lines).split())


def left_out(text: str) -> list[str]:
    """The columns that a text says are left out."""
    found = re.findall(r"Left out to fit \d+ columns: (.*?)\. A wider", text)
    return [name for names in found for name in names.split(", ")]


def test_verify_on_all_engines(shown: Shown, columns: int, reference: Path) -> None:
    lines = shown("verify", reference, "--engine", "all")
    text = check(lines, columns)
    rows = {line.split()[0]: line for line in lines if line.split()[:1] and line[:1] == " "}
    for engine in ENGINES:
        assert rows[engine].rstrip().endswith(VERDICTS)
    assert left_out(text) == (["version"] if columns == 80 else [])
    assert "Streams carried from one engine to another" in text


def test_verify_on_one_engine(shown: Shown, columns: int, reference: Path) -> None:
    lines = shown("verify", reference)
    text = check(lines, columns)
    assert left_out(text) == (["floor"] if columns == 80 else [])
    assert sum(line.rstrip().endswith(" pass") for line in lines) == 20
    assert any(line.startswith(" reversed rows, whole 5x7, from random ") for line in lines)


def test_verify_of_a_broken_file(shown: Shown, columns: int, wrong: Path) -> None:
    lines = shown("verify", wrong, "--engine", "ort-cpu", "--engine", "tract", code=1)
    text = check(lines, columns)
    assert text.startswith("Both engines that were measured give the same wrong answers, so the")
    assert any(re.match(" ort-cpu .* FAIL$", line.rstrip()) for line in lines)


def test_bench(shown: Shown, columns: int, reference: Path, tmp_path: Path) -> None:
    lines = shown(
        "bench", reference, "--rounds", "2", "--seconds", "0.0001", "--streams", "1,256",
        "--engine", "ort-cpu", "--engine", "onnx-reference", "--threads", "1",
        "--against", "models.lstm:reference",
    )  # fmt: skip
    text = check(lines, columns)
    assert "256 streams, 1 step" in text
    assert sum(bool(re.search(r"\bonnx-reference\b", line)) for line in lines) == 2
    assert any(re.search(r"\bPyTorch \d+\.\d+\.\d+", line) for line in lines)
    assert ("threads" in left_out(text)) == (columns == 80)
    assert "relative time" in text


def test_tune(shown: Shown, columns: int, copied: Path) -> None:
    lines = shown(
        "tune", copied, "--rounds", "2", "--engine", "ort-cpu", "--engine", "openvino",
        "--threads", "1,2",
    )  # fmt: skip
    text = check(lines, columns)
    rows = [line for line in lines if re.match(r" (as exported|plain step) +(ort|open)", line)]
    assert len(rows) == 8
    for row in rows:
        assert re.search(r" dB  (pass|as fast|slower)$", row.rstrip())
    assert "Plans for 1 stream, 1 step per call, by latency" in text
    assert not left_out(text) or columns == 80


def test_doctor(shown: Shown, columns: int) -> None:
    lines = shown("doctor")
    check(lines, columns)
    for engine in ENGINES:
        (line,) = [line for line in lines if re.match(rf"[✓✗○]  {engine} ", line)]
        assert re.search("works: |not installed: |cannot start: ", line)


def test_doctor_where_marks_and_colours_are_missing(
    shown: Shown, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown("doctor", encoding="ascii")
    check(lines, columns)
    assert any(line.startswith("+  ort-cpu ") for line in lines)
    assert "\\u" not in "".join(lines)


def test_inspect(shown: Shown, columns: int, reference: Path) -> None:
    text = check(shown("inspect", reference), columns)
    assert "h0 -> hn: float32[1, batch, 10], starts from zeros" in text


def test_quantize(shown: Shown, columns: int, copied: Path, tmp_path: Path) -> None:
    lines = shown("quantize", copied, "-o", tmp_path / "q.onnx")
    check(lines, columns)
    assert any(re.match(" LSTM .*DynamicQuantizeLSTM$", line.rstrip()) for line in lines)


def test_lift(shown: Shown, columns: int, tmp_path: Path) -> None:
    build = Builder()
    x = build.op("Transpose", [build.input("x", ["N", "L", 5])], perm=[1, 0, 2])
    y = build.recurrent("LSTM", x, 5, 6)
    build.output(build.op("Transpose", [y], perm=[1, 0, 2]), "y", ["N", "L", None])
    source = build.save(tmp_path / "source.onnx")

    lines = shown("lift", source, "-o", tmp_path / "out.onnx")
    check(lines, columns)
    assert any(line.startswith(" LSTM ") for line in lines)


@pytest.mark.patterns
def test_export(shown: Shown, columns: int, tmp_path: Path) -> None:
    text = check(shown("export", "models.lstm:reference", "-o", tmp_path / "m.onnx"), columns)
    assert "PASS: 20 cases on ort-cpu" in text


def test_a_pipe_gets_all_columns(command: Command, reference: Path) -> None:
    text = command("verify", reference).stdout
    assert "Left out" not in text
    assert "floor" in text.splitlines()[2]
    assert not ESCAPES.search(text)


@pytest.mark.parametrize("no_color", [False, True])
def test_a_verdict_has_a_colour_unless_nobody_wants_it(
    monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    say("PASS: 20 cases", "FAIL: 1 case", "PASSING: by", "a PASS: no")
    lines = terminal.text().splitlines()
    assert [ESCAPES.sub("", line) for line in lines] == [
        "PASS: 20 cases", "FAIL: 1 case", "PASSING: by", "a PASS: no",
    ]  # fmt: skip
    assert ["\x1b" in line for line in lines] == [not no_color, not no_color, False, False]


def test_long_lines_break_at_spaces_and_in_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    say(
        "It is missing here. Install it in a moment: pip install 'stateport[gpu]'. "
        "Or say `stateport doctor`."
    )
    say("  indented " + "words " * 10)
    lines = terminal.text().splitlines()
    assert max(map(len, lines)) <= 40
    assert any("pip install 'stateport[gpu]'." in line for line in lines)
    assert any("`stateport doctor`." in line for line in lines)
    assert lines[-1].startswith("    words")


# Progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Terminal]:
    """Makes stderr a terminal; pytest sets its own stderr when the test begins."""
    monkeypatch.setenv("TERM", "xterm-256color")

    def make(encoding: str = "utf-8") -> Terminal:
        stream = Terminal(encoding)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return make


def test_the_phases_of_an_export_are_shown_on_stderr(
    command: Command, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    stderr = terminal()
    outcome = command("export", "models.lstm:reference", "-o", tmp_path / "m.onnx")
    assert outcome.returncode == 0
    text = ESCAPES.sub("", stderr.text())
    for phase in (
        "loading models.lstm:reference",
        "tracing",
        "making states explicit",
        "recording answers: ",
        "verifying: ",
    ):
        assert phase in text
    assert re.search(r"[\d.]+ s in all: .*recording answers [\d.]+ s", " ".join(text.split()))
    assert "tracing" not in outcome.stdout


def test_the_phases_in_an_encoding_without_marks(
    command: Command, terminal: Callable[..., Terminal], reference: Path
) -> None:
    stderr = terminal("ascii")
    assert command("verify", reference).returncode == 0
    text = ESCAPES.sub("", stderr.text())
    assert "+ reading" in text
    assert re.search(r"[-|/\\] ort-cpu: ", text)
    assert "\\u" not in text


def test_json_has_no_phases(
    command: Command, terminal: Callable[..., Terminal], reference: Path
) -> None:
    stderr = terminal()
    outcome = command("verify", reference, "--json")
    assert json.loads(outcome.stdout)["passed"] is True
    assert stderr.text() == ""


def test_a_pipe_has_no_phases(command: Command, reference: Path) -> None:
    assert command("verify", reference).stderr == ""

"""Text from files is harmless where it is shown, and nothing else about it changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateport import FileError
from stateport.errors import first_line, in_words
from stateport.printable import json_text, printable
from tests.hostile import EVIL, dangers


@pytest.mark.parametrize(
    "text",
    [
        "plain, é, ß, 日本, 🙂, <>&",
        "onnxruntime::Model::Model(onnx::ModelProto&&)",
        "aten::lstm 3, #1, C# and a: b",
        "C:\\models\\m.onnx",
        "[red]x[/red] :cat:",
    ],
)
def test_what_can_be_shown_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[0m\x00\udc80", r"\x1b[0m\x00\udc80"),
        ("a\nb\r\n\tc", r"a\nb\r\n\tc"),
        ("\x85\x9b2J\x7f", r"\x85\x9b2J\x7f"),
        ("\u202eexe\u2066", r"\u202eexe\u2066"),
        ("a\u200bb\u200d\ufeff\u00ad", r"a\u200bb\u200d\ufeff\xad"),
        ("\u2028\u2029\u00a0", r"\u2028\u2029\xa0"),
        ("x\u3164\ufe0f\U000e0041", r"x\u3164\ufe0f\U000e0041"),
        ("::error::x", r":\x3aerror::x"),
        ("  ::anything new::x", r"  :\x3aanything new::x"),
        ("a::error file=b::x", r"a:\x3aerror file=b::x"),
        ("a::Stop-Commands::x", r"a:\x3aStop-Commands::x"),
        ("##[error]x ###vso[y]", r"#\x23[error]x #\x23#vso[y]"),
    ],
)
def test_what_could_do_something_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text() | st.text("\x1b:#e[\n\u202e ", max_size=12))
def test_nothing_dangerous_is_left_and_twice_is_once(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert not dangers(shown)
    assert printable(shown) == shown


@given(st.text() | st.text('\\"\x7f:#e[\n', max_size=12))
def test_json_keeps_every_character(text: str) -> None:
    written = json_text({"name": [text], text: float("inf")})
    assert not dangers(written)
    assert json.loads(written) == {"name": [text], text: "inf"}


def test_the_dangers_are_seen() -> None:
    assert {"\x1b", "\u202e", "##[", "::error::evil"} <= set(dangers(EVIL))


def test_errors_are_harmless_in_one_line_and_not_endless() -> None:
    error = FileError(f"m{EVIL}.onnx could not be read.")
    assert not dangers(str(error))
    assert "\n" not in str(error)
    assert len(str(FileError("x" * 10**6))) < 5000
    assert "characters more" in str(FileError("x" * 10**6))


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no luck\nat all"), "ValueError: no luck"),
        (ValueError("\n  \n no luck"), "ValueError: no luck"),
        (ValueError(), "ValueError"),
        (_MuteError("x"), "_MuteError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_errors_of_others_are_told_by_kind_and_first_line(error: BaseException, words: str) -> None:
    assert in_words(error) == words


def test_a_megabyte_is_not_repeated() -> None:
    assert len(first_line(ValueError("x" * 10**6))) < 700

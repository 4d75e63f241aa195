"""docs/commands.md has every command and option, and says what `--help` says."""

from __future__ import annotations

import re

import pytest

from tests.documents import load_script

COMMANDS = load_script("commands")
PAGE = COMMANDS.PAGE.read_text(encoding="utf-8")


def test_the_page_is_that_of_today() -> None:
    assert COMMANDS.page() == PAGE, "run make api"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("export", "--vectors-from"),
        ("verify", "--data"),
        ("run", "--state-in"),
        ("tune", "--snr"),
        ("lift", "--state"),
        ("lift", "--over-time"),
        ("contract", "--axes"),
        ("quantize", "--output"),
    ],
)
def test_a_command_has_its_options(command: str, option: str) -> None:
    section = re.search(rf"^## {command}$(.*?)(^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert option in section[1]


def test_nothing_in_a_text_is_markdown() -> None:
    assert COMMANDS._prose("FILE*_<x>[y]") == "FILE\\*\\_\\<x\\>\\[y\\]"
    assert COMMANDS._cell("a | b\n  c") == "a \\| b c"

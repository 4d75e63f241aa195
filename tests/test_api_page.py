"""docs/api.md has the public names, all of them and no others, and says what the docstrings say."""

from __future__ import annotations

import re

import stateport
import stateport.ray
import stateport_exporter
from tests.documents import load_script

API = load_script("api")
PAGE = API.PAGE.read_text(encoding="utf-8")


def test_the_page_is_that_of_today() -> None:
    assert API.page() == PAGE, "run make api"


def test_it_has_every_public_name_and_no_other() -> None:
    public = [*stateport.__all__, *stateport.ray.__all__, *stateport_exporter.__all__]
    assert sorted(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)) == sorted(public)


def test_it_has_the_methods_that_are_called_on_what_load_returns() -> None:
    shown = re.findall(r"^#### `([\w.]+)`$", PAGE, re.MULTILINE)
    assert {"Model.__call__", "Model.run", "Stream.restore", "Pool.step", "State.save"} <= {*shown}
    assert not [name for name in shown if name.split(".")[1].startswith("_") and "__" not in name]


def test_a_docstring_becomes_paragraphs_and_lists() -> None:
    docstring = (
        "Does it, see docs/trust.md.\n\nArgs:\n    a: one,\n        or 2*a.\n    b: `2*b`.\n"
    )
    assert [*API._rendered(docstring)] == [
        "Does it, see [trust](trust.md).",
        "Arguments:",
        "- `a`: one,\n  or 2\\*a.\n- `b`: `2*b`.",
    ]


def test_a_long_call_has_one_argument_on_each_line() -> None:
    short = API._call("f", ["a: int", "b: int = 1"], "int")
    assert short == "f(a: int, b: int = 1) -> int"
    assert API._call("f" * 99, ["a: int"], "").splitlines()[1:] == ["    a: int,", ")"]

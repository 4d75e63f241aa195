# SPDX-License-Identifier: Apache-2.0
"""`stateport doctor`: which engines work on this machine, and why the others do not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import click
from rich.text import Text

from ..engines import engine_names, facts, status
from ..printable import printable
from ..table import Column, Table
from ..table import facts as facts_table
from .output import can_show, say, say_json, show

#: The packages whose versions are shown before and after those of the engines.
_FIRST_PACKAGES: Final = ("stateport", "stateport-exporter", "numpy")
_LAST_PACKAGES: Final = ("torch",)
#: By how an engine is: a mark, the mark where the terminal has no such character, and the colour.
_MARKS: Final = {
    "works": ("✓", "+", "green"),
    "cannot start": ("✗", "x", "bold red"),
    "not installed": ("○", "-", "dim"),
}


@click.command(short_help="Report which engines work here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Report which engines work here, and what to do about those that do not.

    The exit code is 1 when no engine works.
    """
    engines = [*map(_describe_engine, engine_names())]
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _package_version(name) for name in _packages()},
        "engines": engines,
    }

    if as_json:
        say_json(document)
    else:
        _show_document(document)

    some_work = any(engine["works"] for engine in engines)
    ctx.exit(0 if some_work else 1)


def _packages() -> list[str]:
    """The packages whose versions are shown, each once."""
    packages = [*_FIRST_PACKAGES]
    for name in engine_names():
        packages += facts(name).packages
    return list(dict.fromkeys([*packages, *_LAST_PACKAGES]))


def _describe_engine(name: str) -> dict[str, Any]:
    result = status(name)
    return {
        "name": result.name,
        "works": result.problem is None,
        "installed": result.installed,
        "version": result.version,
        "problem": result.problem,
        "install": facts(name).install or None,
    }


def _show_document(document: dict[str, Any]) -> None:
    packages = facts_table()
    packages.add("Python", f"{document['python']} on {document['platform']}")
    for name, number in document["packages"].items():
        packages.add(name, number or Text("not installed", "dim"))
    show(packages)
    say("")

    engines = Table(Column(), Column(style="bold"), Column(wraps=True), title="Engines")
    has_marks = all(can_show(mark) for mark, _, _ in _MARKS.values())
    for engine in document["engines"]:
        word, text = _in_words(engine)
        mark, ascii_mark, style = _MARKS[word]
        engines.add(
            Text(mark if has_marks else ascii_mark, style),
            engine["name"],
            Text.assemble((word, style), f": {printable(text)}"),
        )
    show(engines)


def _in_words(engine: dict[str, Any]) -> tuple[str, str]:
    """How an engine is, as a key of `_MARKS`; and its version, or why it does not work."""
    if engine["works"]:
        return "works", engine["version"]

    if engine["installed"]:
        known = f"{engine['name']} is installed and cannot start on this machine. "
        return "cannot start", engine["problem"].removeprefix(known)
    return "not installed", engine["problem"]


def _package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

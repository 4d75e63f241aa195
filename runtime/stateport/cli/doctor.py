# SPDX-License-Identifier: Apache-2.0
"""`stateport doctor`: which engines work on this machine, and why the others do not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import click
from rich.table import Table

from ..engines import engine_names, facts, status
from .output import say_json, show

#: The packages whose versions are shown before and after those of the engines.
_FIRST_PACKAGES: Final = ("stateport", "stateport-exporter", "numpy")
_LAST_PACKAGES: Final = ("torch",)


@click.command(short_help="Report which engines work here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Report which engines work here, and what to do about those that do not.

    The exit code is 1 when no engine works.
    """
    engines = [_describe_engine(name) for name in engine_names()]
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
        "version": result.version,
        "problem": result.problem,
        "install": facts(name).install or None,
    }


def _show_document(document: dict[str, Any]) -> None:
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")

    grid.add_row("Python", f"{document['python']} on {document['platform']}")
    for name, number in document["packages"].items():
        grid.add_row(name, number or "not installed")

    for engine in document["engines"]:
        if engine["works"]:
            grid.add_row(engine["name"], f"works: {engine['version']}")
        else:
            grid.add_row(engine["name"], f"no: {engine['problem']}")
    show(grid)


def _package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

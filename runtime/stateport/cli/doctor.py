"""`stateport doctor`: what works on this machine, and why the rest does not."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import click
from rich.table import Table

from ..engines import engine_names, status
from .output import say_json, show

_PACKAGES: Final = (
    "stateport",
    "stateport-exporter",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tract",
    "torch",
    "onnx",
)


@click.command(short_help="Report which engines work here.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Report which engines work here, and what to do about those that do not.

    The exit code is 1 when no engine works.
    """
    packages = {name: _version(name) for name in _PACKAGES}
    statuses = [status(name) for name in engine_names()]
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "engines": [
            {"name": s.name, "works": s.problem is None, "version": s.version, "problem": s.problem}
            for s in statuses
        ],
    }
    if as_json:
        say_json(document)
    else:
        _show(document)
    ctx.exit(0 if any(s.problem is None for s in statuses) else 1)


def _show(document: dict[str, Any]) -> None:
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("Python", f"{document['python']} on {document['platform']}")
    for name, number in document["packages"].items():
        grid.add_row(name, number or "not installed")
    for engine in document["engines"]:
        says = f"works: {engine['version']}" if engine["works"] else f"no: {engine['problem']}"
        grid.add_row(engine["name"], says)
    show(grid)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""Tries what pyproject.toml promises, environment by environment, and prints one table.

Run by `make compat`, after `make wheels`. `python -m compat NAME` tries those whose name begins so.
It ends with 1 where something failed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from compat.environments import Environment, environments
from compat.files import write_files
from compat.trying import SHOWN, Outcome, try_environment

_BUILD: Final = Path("build/compat")


def main() -> None:
    """Tries the environments that are asked for, or all."""
    wanted = tuple(sys.argv[1:]) or ("",)
    chosen = [each for each in environments() if _title(each).startswith(wanted)]
    if not chosen:
        sys.exit(f"No environment's name begins with {' or '.join(wanted)}.")
    files = _BUILD / "files"
    files.mkdir(parents=True, exist_ok=True)
    write_files(files)
    outcomes = []
    for environment in chosen:
        print(f"Trying {_title(environment)} ...", file=sys.stderr, flush=True)
        outcomes.append(try_environment(environment, files, _BUILD))
        print(f"{_title(environment)}: {outcomes[-1].summary()}", file=sys.stderr, flush=True)
    Console(width=None if sys.stdout.isatty() else 160).print(table(outcomes))
    for outcome in outcomes:
        for name, why in outcome.failed.items():
            print(f"{outcome.environment.name}, {name}: {why}")
    sys.exit(any(outcome.is_bad() for outcome in outcomes))


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each environment."""
    rows = Table("environment", "Python", "versions", "result")
    for outcome in outcomes:
        versions = [
            f"{name} {outcome.versions[name]}" for name in SHOWN if name in outcome.versions
        ]
        environment = outcome.environment
        rows.add_row(environment.name, environment.python, ", ".join(versions), outcome.summary())
    return rows


def _title(environment: Environment) -> str:
    return f"{environment.name}, Python {environment.python}"


if __name__ == "__main__":
    main()

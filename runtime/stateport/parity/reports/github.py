# SPDX-License-Identifier: Apache-2.0
"""What went wrong as GitHub's workflow commands, which show up beside a build.

The form is GitHub's: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterator

from ...printable import printable
from ..matrix import Matrix
from .alike import common_fault
from .wording import reason


def commands(matrix: Matrix) -> Iterator[str]:
    """One line for each engine and each carried stream that failed, each remark and growth.

    If all engines fail alike, the first line says so.
    """
    fault = common_fault(matrix)
    if fault is not None:
        yield _command("error", matrix.model, fault)

    for row in matrix.rows:
        why = reason(row)
        if why is not None:
            harmless = row.status == "not run" and not matrix.required
            level = "notice" if harmless else "error"
            yield _command(level, f"{matrix.model} on {row.choice}", why)

    for carried in matrix.carried:
        why = reason(carried)
        if why is not None:
            yield _command("error", f"{matrix.model}, {carried.source} to {carried.target}", why)

    for line in matrix.remarks:
        yield _command("notice", matrix.model, line)

    for line in matrix.grown:
        yield _command("error", f"{matrix.model} against the baseline", line)


def _command(level: str, title: str, text: str) -> str:
    return f"::{level} title={_escape(title, '%:,')}::{_escape(text, '%')}"


def _escape(text: str, characters: str) -> str:
    """The text with each of these characters as its number; `%` has to be the first of them."""
    text = printable(text)
    for character in characters:
        text = text.replace(character, f"%{ord(character):02X}")
    return text

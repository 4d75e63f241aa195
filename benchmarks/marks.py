"""Pages in which a benchmark rewrites the part between two marks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def replace_between(page: Path, begin: str, end: str, lines: Iterable[str]) -> None:
    """Puts lines between two marks in a page, in place of what is there.

    Raises:
        SystemExit: the page does not have both marks.
    """
    head, mark, rest = page.read_text(encoding="utf-8").partition(begin)
    if not mark or end not in rest:
        raise SystemExit(f"{page} has no place for the table: {begin} ... {end} was expected.")

    text = "\n".join(lines)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def replace_of_processor(page: Path, topic: str, kind: str, lines: Iterable[str]) -> None:
    """Puts lines into the part of a page about this topic on one kind of processor."""
    name = f"{topic} {kind}"
    replace_between(page, f"<!-- {name} -->", f"<!-- end of {name} -->", lines)

"""How Sphinx makes the site of this folder's pages: `make docs`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # for the neighbours of this file
with_drawings = importlib.import_module("drawings").with_drawings

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
#: Pages of the repository that are pages of the site too, by the names that they have there. Each
#: has a short page of that name in this folder, in whose place it comes.
ELSEWHERE: Final = {
    "changelog": ROOT / "CHANGELOG.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "examples": ROOT / "examples" / "README.md",
}
#: Links to the README lead to the site's first page.
README: Final = ROOT / "README.md"
#: The target of a link to a file: no address, no heading of the same page.
_LINK: Final = re.compile(r"\]\((?!\w+:)([^)#\s]+)")

project = "stateport"
author = "the authors of stateport"
extensions = ["myst_parser"]

myst_heading_anchors = 4

html_theme = "furo"
html_title = "stateport"
html_copy_source = False
html_show_copyright = False
html_use_index = False


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_page)


def read_page(_app: object, name: str, source: list[str]) -> None:
    """Puts the repository's own pages into the site, and leads links to them there."""
    path = ELSEWHERE.get(name, DOCS / f"{name}.md")
    text = path.read_text(encoding="utf-8") if name in ELSEWHERE else source[0]
    text = _LINK.sub(lambda link: f"]({on_site(path.parent / link[1])}", text)
    text = with_drawings(text)
    if name == "examples":
        text = "\n\n".join([text, *programs()])
    source[0] = text


def on_site(target: Path) -> str:
    """A file, as a link in a page of the site has it."""
    target = target.resolve()
    for name, path in ELSEWHERE.items():
        if target == path:
            return f"{name}.md"
    if target == README:
        return "index.md"
    if DOCS in target.parents:
        return str(target.relative_to(DOCS))
    return f"../{target.relative_to(ROOT)}"


def programs() -> Iterator[str]:
    """Every example with its text."""
    for path in sorted(ELSEWHERE["examples"].parent.glob("*.py")):
        yield f"## `{path.name}`\n\n```{{literalinclude}} {on_site(path)}\n```"

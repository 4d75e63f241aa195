"""The documentation site is complete in itself: a page loads nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import load_script

DOCS = Path(__file__).parents[1] / "docs"
DRAWINGS = load_script("drawings")


def test_flowcharts_of_the_pages_are_drawn_here() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawn = DRAWINGS.with_drawings(page)
    assert page.count("```mermaid") == 2
    assert "mermaid" not in drawn
    assert drawn.count("<svg ") == drawn.count("</svg>") == 2
    drawings = re.findall(r"<svg .*?</svg>", drawn, re.DOTALL)
    assert len(drawings) == 2
    assert not [drawing for drawing in drawings if "http" in drawing]
    assert "parity leads to model" in drawn


def test_a_room_is_below_all_that_lead_to_it() -> None:
    arrows = [("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")]
    assert DRAWINGS._rows(arrows) == [["a", "d"], ["b"], ["c"]]
    svg = DRAWINGS.drawing(arrows)
    assert svg.count("<rect ") == 4
    assert svg.count("<path ") == 4


def test_a_line_that_is_no_arrow_is_refused() -> None:
    with pytest.raises(ValueError, match="no arrow"):
        DRAWINGS.with_drawings("```mermaid\nflowchart TD\n    a -.-> b\n```\n")


def test_the_site_has_no_extension_that_loads_scripts() -> None:
    settings = (DOCS / "conf.py").read_text(encoding="utf-8")
    assert 'extensions = ["myst_parser"]' in settings
    assert "http" not in settings

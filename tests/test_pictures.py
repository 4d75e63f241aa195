"""The README's pictures: the script draws them, and the drawing in the repository is today's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.documents import load_script

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


PICTURES = load_script("pictures")


def text_of(svg: str) -> str:
    """The words of a picture, whatever spaces are between them."""
    said = "".join(ElementTree.fromstring(svg).itertext())  # noqa: S314
    return " ".join(said.split())


def test_the_overview_is_that_of_today() -> None:
    for theme in PICTURES.THEMES:
        drawn = (PICTURES.FOLDER / f"overview-{theme.name}.svg").read_text(encoding="utf-8")
        assert PICTURES.overview(theme) == drawn, "run python docs/pictures.py"


def test_the_table_shows_the_run_on_the_model(reference: Path, tmp_path: Path) -> None:
    PICTURES.draw(reference, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * len(PICTURES.THEMES)
    for theme in PICTURES.THEMES:
        drawn = (tmp_path / f"verify-{theme.name}.svg").read_text(encoding="utf-8")
        for said in ("chain 2x2048, from random", "x floor", "PASS: 20 cases on ort-cpu"):
            assert said in text_of(drawn)
            kept = PICTURES.FOLDER / f"verify-{theme.name}.svg"
            assert said in text_of(kept.read_text(encoding="utf-8"))
        assert theme.raised in drawn
        # Browsers load nothing for a picture in a page.
        assert "http" not in drawn.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_a_broken_model_is_not_drawn_as_passing(wrong: Path) -> None:
    with pytest.raises(SystemExit, match="does not pass"):
        PICTURES.verify_table(wrong, PICTURES.THEMES[0])


@pytest.mark.patterns
@pytest.mark.skipif(not any(map(shutil.which, PICTURES.BROWSERS)), reason="Chromium is missing")
def test_the_report_is_photographed(reference: Path, tmp_path: Path) -> None:
    PICTURES.photograph(reference, tmp_path)
    light, dark = (tmp_path / f"report-{theme.name}.png" for theme in PICTURES.THEMES)
    assert light.read_bytes()[:8] == dark.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert light.read_bytes() != dark.read_bytes()


def test_the_readme_shows_every_picture() -> None:
    shown = set(re.findall(r'(?:src|srcset)="docs/pictures/([^"]+)"', README))
    kept = {path.name for path in PICTURES.FOLDER.iterdir()}
    assert shown == kept
    assert all(path.stat().st_size < 200_000 for path in PICTURES.FOLDER.iterdir())

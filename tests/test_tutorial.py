"""What the tutorial and the site's first page show is what happens, block by block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import blocks, commands_not_run, run_python, run_sections
from tests.test_readme import ELSEWHERE

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")
TRAINED = (DOCS / "trained.md").read_text(encoding="utf-8")
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")


@pytest.mark.patterns
def test_every_block_of_the_tutorial(tmp_path: Path) -> None:
    assert run_sections(TUTORIAL, tmp_path) >= 20


@pytest.mark.patterns
def test_every_block_of_the_page_on_trained_networks(tmp_path: Path) -> None:
    assert run_sections(TRAINED, tmp_path) >= 4


@pytest.mark.patterns
def test_both_snippets_of_the_first_page(tmp_path: Path) -> None:
    snippets = [block.text for block in blocks(INDEX) if block.language == "python"]
    assert len(snippets) == 2
    for snippet in snippets:
        run_python(snippet, tmp_path)


@pytest.mark.parametrize("page", [TUTORIAL, INDEX])
def test_what_is_not_run_is_what_the_readme_installs(page: str) -> None:
    assert commands_not_run(page) <= set(ELSEWHERE)
    assert {block.language for block in blocks(page)} <= {"python", "console", "text"}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:\s]+)[)#]", re.sub(r"`[^`\n]*`", "", text)):
        assert (page.parent / target).exists(), target


def test_a_section_that_prints_something_else_is_found(tmp_path: Path) -> None:
    page = "## One\n\n```python\nprint(1)\n```\n\n```text\n{}\n```\n"
    assert run_sections(page.format(1), tmp_path) == 1
    with pytest.raises(AssertionError):
        run_sections(page.format(2), tmp_path)


def test_a_command_that_shows_something_else_is_found(tmp_path: Path) -> None:
    page = "```console\n$ python -c 'print(1)'\n{}\n```\n"
    assert run_sections(page.format(1), tmp_path) == 1
    with pytest.raises(AssertionError):
        run_sections(page.format(2), tmp_path)

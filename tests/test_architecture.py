"""The rooms of both packages: arrows run one way, and the picture in the docs is that of today."""

from __future__ import annotations

import re

import pytest

from tests.documents import load_script

ROOMS = load_script("rooms")
each_package = pytest.mark.parametrize("package", ROOMS.PACKAGES)


@each_package
def test_no_room_imports_one_that_imports_it(package: str) -> None:
    assert ROOMS.circle(ROOMS.arrows(package)) == []


@each_package
def test_the_picture_is_that_of_today(package: str) -> None:
    page = ROOMS.PAGE.read_text(encoding="utf-8")
    lines = ROOMS.diagram(ROOMS.direct(ROOMS.arrows(package)))
    assert ROOMS.with_diagram(page, package, lines) == page, "run make architecture"


def test_a_circle_is_found_and_shown() -> None:
    graph = {
        "a": frozenset({"b"}),
        "b": frozenset({"c"}),
        "c": frozenset({"b"}),
        "d": frozenset({"a"}),
    }
    assert ROOMS.circle(graph) == ["b", "c", "b"]


def test_arrows_that_a_longer_way_implies_are_left_out() -> None:
    graph = {"a": frozenset({"b", "c"}), "b": frozenset({"c"}), "c": frozenset()}
    assert ROOMS.direct(graph)["a"] == {"b"}


def test_the_runtime_never_imports_the_exporter() -> None:
    imported = ROOMS.packages_imported_by("stateport")
    assert "numpy" in imported
    assert not {"stateport_exporter", "torch", "onnxscript", "onnx_ir"} & imported
    assert "stateport" in ROOMS.packages_imported_by("stateport_exporter")


#: The heading of each package's table of files.
TABLES = {
    "stateport_exporter": ("exporter", "## How a network flows"),
    "stateport": ("runtime", "## How a call flows"),
}


@pytest.mark.parametrize("package", TABLES)
def test_the_page_tells_of_every_file(package: str) -> None:
    distribution, heading = TABLES[package]
    page = ROOMS.PAGE.read_text(encoding="utf-8")
    table = page.partition(heading)[2].partition("<!-- rooms of")[0]
    words = {word for code in re.findall(r"`([^`]+)`", table) for word in re.findall(r"\w+", code)}

    files = (ROOMS.PAGE.parents[1] / distribution / package).rglob("*.py")
    untold = {file.stem for file in files if not file.stem.startswith("_")} - words
    assert untold == set()

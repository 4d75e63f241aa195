"""The engine `ort-web` where a browser or packages are missing; tests/javascript has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import stateport
from stateport import InputError, engines
from stateport.engines.requirements import NotInstalledError
from stateport.engines.web_site import Site


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without a browser."""
    for name in ("STATEPORT_NODE_MODULES", "STATEPORT_BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("stateport.engines.ort_web._PROGRAMS", ("chromium",))


def test_doctor_says_how_to_get_a_browser_and_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = engines.status("ort-web")
    assert not status.installed
    assert "needs Chromium, Chrome or Edge" in str(status.problem)
    assert "STATEPORT_BROWSER=PATH" in str(status.problem)

    monkeypatch.setenv("STATEPORT_BROWSER", "/bin/true")
    status = engines.status("ort-web")
    assert not status.installed
    assert "npm install stateport onnxruntime-web" in str(status.problem)
    assert "npm install stateport onnxruntime-web" in engines.facts("ort-web").install


@pytest.mark.parametrize("missing", ["stateport", "onnxruntime-web", "onnxruntime-common"])
def test_every_package_has_to_be_there(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATEPORT_BROWSER", "/bin/false")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("STATEPORT_NODE_MODULES", str(tmp_path))
    for name in ("stateport", "onnxruntime-web", "onnxruntime-common"):
        folder = tmp_path / "node_modules" / name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"name": name}))
    # All are there, so it is the browser that fails.
    assert engines.status("ort-web").problem == "The browser ended with exit code 1."

    (tmp_path / "node_modules" / missing / "package.json").unlink()
    status = engines.status("ort-web")
    assert not status.installed
    assert f"which are not in {tmp_path}" in str(status.problem)


def test_an_option_is_a_path(reference: Path) -> None:
    with pytest.raises(InputError, match="browser is 3; a path was expected"):
        stateport.load(reference, engine="ort-web", browser=3)
    with pytest.raises(NotInstalledError, match="name that folder"):
        stateport.load(reference, engine="ort-web", browser="/bin/true")


def test_a_page_that_says_nothing_is_not_waited_for_for_ever() -> None:
    site = Site({}, {}, {})
    with pytest.raises(TimeoutError):
        site.receive(0.01)
    site.end()
    assert site.receive() is None
    site.stop()
    site.stop()

"""The engine `ort-web`: its browser begins and ends with the model, and serves nobody else."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest

import stateport
from stateport import EngineError, EngineUnavailable, engines
from stateport.engines.npm_package import NpmEngine
from stateport.engines.ort_web import Browser
from tests.runtime.engines.test_ort_node import program


def browser_of(model: stateport.Model) -> Browser:
    engine = model._engine
    assert isinstance(engine, NpmEngine)
    [browser] = engine._idle
    assert isinstance(browser, Browser)
    return browser


def test_the_browser_ends_with_the_model_and_leaves_nothing(reference: Path) -> None:
    model = stateport.load(reference, engine="ort-web")
    browser = browser_of(model)
    assert Path(browser._folder).is_dir()
    del model
    gc.collect()
    assert browser._process.poll() is not None
    assert not Path(browser._folder).exists()
    browser.stop()


def test_a_browser_that_ends_is_an_error_and_another_takes_its_place(reference: Path) -> None:
    model = stateport.load(reference, engine="ort-web")
    x = np.ones((1, 2, 5), np.float32)
    y, _ = model(x)
    os.killpg(browser_of(model)._process.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"The (browser|page in the browser) ended"):
        model(x)
    np.testing.assert_array_equal(model(x)[0], y)


def test_the_browser_ends_if_python_is_killed(reference: Path) -> None:
    code = (
        "import sys, stateport\n"
        f"engine = stateport.load({str(reference)!r}, engine='ort-web')._engine\n"
        "print(engine._idle[0]._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as python:
        assert python.stdout is not None
        browser = os.pidfd_open(int(python.stdout.readline()))
        python.kill()
    ended, _, _ = select.select([browser], [], [], 120)
    os.close(browser)
    assert ended


def test_only_the_page_can_ask_the_server(reference: Path) -> None:
    model = stateport.load(reference, engine="ort-web")
    url = browser_of(model)._site.url
    with urllib.request.urlopen(f"{url}model.onnx") as answer:  # noqa: S310
        assert answer.read() == reference.read_bytes()
    top = url[: url.index("/", len("http://"))]
    secret = url[len(top) + 1 : -1]
    other = "y" if secret[0] == "x" else "x"
    for wrong in (
        f"{top}/",
        f"{top}/model.onnx",
        f"{top}/{other}{secret[1:]}/model.onnx",
        f"{url}stateport/../model.onnx",
        f"{url}stateport/../../package.json",
        f"{url}stateport/%2e%2e/package.json",
        f"{url}calls",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(wrong)  # noqa: S310


def test_several_threads_compute_the_same(reference: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 8, 5), np.float32)
    y, _ = stateport.load(reference, engine="ort-web", threads=2)(x)
    np.testing.assert_allclose(y, stateport.load(reference)(x)[0], rtol=0, atol=1e-6)


def test_weights_beside_the_file_are_found(reference: Path, tmp_path: Path) -> None:
    beside = tmp_path / "beside.onnx"
    onnx.save_model(
        onnx.load(reference),
        beside,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=256,  # weights, not shapes
    )
    x = np.ones((1, 3, 5), np.float32)
    y, _ = stateport.load(beside, engine="ort-web")(x)
    np.testing.assert_allclose(y, stateport.load(reference)(x)[0], rtol=0, atol=1e-6)


def test_a_browser_that_cannot_start(reference: Path, tmp_path: Path) -> None:
    fake = program(tmp_path / "fake", "echo No usable sandbox >&2; exit 3")
    with pytest.raises(EngineError, match=r"ended with exit code 3 \(No usable sandbox\)"):
        stateport.load(reference, engine="ort-web", browser=fake)
    with pytest.raises(EngineUnavailable, match=r"cannot be started: it is not there"):
        stateport.load(reference, engine="ort-web", browser=tmp_path / "no")


def test_doctor_says_the_version() -> None:
    status = engines.status("ort-web")
    assert status.version is not None
    assert status.version.startswith("onnxruntime-web 1.")
    assert "Chromium" in status.version

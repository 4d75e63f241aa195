# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime in a browser, with the npm package `stateport` (`ort-web`).

Each engine has a headless browser with one page, `ort_web_page.mjs`, which holds the model as long
as the engine lives. The page and the packages come from a server here, on 127.0.0.1. Calls wait
for one another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from ..errors import EngineError, EngineUnavailable, last_line
from ..files.reading import parse_json
from ..model_file.onnx_outline import OnnxFile
from . import Status
from .base import Arrays, EngineFacts
from .npm_package import (
    Answer,
    NpmEngine,
    Peer,
    absent,
    check_options,
    modules_folder,
    read_answer,
)
from .requirements import NotInstalledError, library

if TYPE_CHECKING:
    from .web_site import Site

#: The variable that names the browser.
_BROWSER: Final = "STATEPORT_BROWSER"
_OPTIONS: Final = ("modules", "browser")
_LIBRARY: Final = "onnxruntime-web"
_INSTALL: Final = f"npm install stateport {_LIBRARY}"
_EXTRA: Final = "pip install 'stateport[ort-web]'"
_FACTS: Final = EngineFacts(
    packages=("websockets",), install=f"{_EXTRA} and {_INSTALL}", for_speed=False
)
#: The seconds in which the page has to appear, on a machine that has much else to do.
_PATIENCE: Final = 180
#: Chromium and its kin by the names of their programs, and where macOS keeps them.
_PROGRAMS: Final = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
_ARGUMENTS: Final = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--mute-audio",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--password-store=basic",
    "--use-mock-keychain",
)
# The browser ends when the pipe of its debugger does: also if Python was killed. The shell then
# removes what the browser wrote.
_GUARD: Final = 'folder=$1; shift; "$@" 3<&0 4>&1 </dev/null; code=$?; rm -rf "$folder"; exit $code'


def open_engine(
    name: str, file: OnnxFile, threads: int | None, options: Mapping[str, object]
) -> OrtWebEngine:
    """Loads a file; see `stateport.engines.open_engine`.

    The options are `modules`, the folder with `node_modules`, and `browser`, the program.
    """
    path = file.path.resolve()
    files = {"model.onnx": path}
    weights = []
    for number, beside in enumerate(file.external_files):
        files[f"weights-{number}"] = path.parent / beside
        weights.append([beside, f"weights-{number}"])
    settings = {"model": "model.onnx", "threads": threads or 1, "weights": weights}
    return OrtWebEngine(name, partial(Browser, _setup(name, options), files, settings))


def facts(name: str) -> EngineFacts:  # noqa: ARG001
    """The facts about the engine."""
    return _FACTS


def status(name: str) -> Status:
    """Whether the engine works here, by importing the packages in a browser."""
    browser = Browser(_setup(name, {}), {}, {"model": None, "threads": 1, "weights": []})
    browser.stop()
    return Status(name, browser.version, None)


class OrtWebEngine(NpmEngine):
    """A graph in a browser. A browser is large, so there is one, and calls wait for one another."""

    def __init__(self, name: str, start: partial[Browser]) -> None:
        super().__init__(name, start)
        self._turn = Lock()

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the graph once, in the browser."""
        with self._turn:
            return super().run(inputs, outputs)


@dataclass(frozen=True)
class _Setup:
    """The program, and by name the folders that the page needs."""

    browser: str
    folders: Mapping[str, Path]


class Browser(Peer):
    """One browser, and the frames to and from its page."""

    def __init__(
        self, setup: _Setup, files: Mapping[str, Path], settings: Mapping[str, Any]
    ) -> None:
        here = Path(__file__).parent
        scripts = {name: here / name for name in ("npm_calls.mjs", "ort_web_page.mjs")}
        imports = {
            "stateport": "./stateport/index.js",
            "onnxruntime-common": "./onnxruntime-common/index.js",
            "onnxruntime-web/wasm": "./onnxruntime-web/ort.wasm.min.mjs",
        }
        self._model = files.get("model.onnx")
        self._folder = tempfile.mkdtemp(prefix="stateport-browser-")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `stop`
        self._site = _site({**setup.folders, **scripts, **files}, imports, settings)
        try:
            self._process = self._start(setup.browser)
        except OSError as error:
            self._clean()
            raise EngineUnavailable(
                f"ort-web: {setup.browser} cannot be started: {error.strerror}. {_BROWSER} names "
                "the program."
            ) from error

        self._watch = Thread(target=self._wait, daemon=True)
        self._watch.start()
        try:
            self.version = self._version(setup)
        except BaseException:
            self.stop()
            raise

    def send(self, parts: Sequence[bytes]) -> None:
        """Gives the page a frame."""
        self._site.send(parts)

    def receive(self) -> Answer:
        """The next frame from the page."""
        return self._receive(None)

    def stop(self) -> None:
        """Ends the browser, and removes what it wrote."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._watch.join()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._clean()

    def _start(self, browser: str) -> subprocess.Popen[bytes]:
        command = [browser, *_ARGUMENTS, f"--user-data-dir={self._folder}"]
        posix = os.name == "posix"
        if posix:
            if not os.access(browser, os.X_OK):
                raise PermissionError(0, "it is not there, or no program")
            command = ["/bin/sh", "-c", _GUARD, "sh", self._folder, *command]
            command.append("--remote-debugging-pipe")
            # Chromium refuses to run as root with it. The page is stateport's own.
            command += ["--no-sandbox"] if os.geteuid() == 0 else []
        return subprocess.Popen(
            [*command, self._site.url],
            stdin=subprocess.PIPE if posix else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            # Ctrl-C is for Python alone, which then ends the browser. A signal ends all of it.
            start_new_session=True,
        )

    def _wait(self) -> None:
        self._process.wait()
        self._site.end()

    def _clean(self) -> None:
        self._site.stop()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _version(self, setup: _Setup) -> str:
        """What the page says first: the version of ONNX Runtime and of the browser."""
        try:
            answer, _ = self._receive(_PATIENCE)
        except TimeoutError:
            raise EngineUnavailable(
                f"ort-web: {setup.browser} has not opened a page in {_PATIENCE} s. {_BROWSER} "
                "names another browser."
            ) from None

        if "error" not in answer:
            return str(answer["version"])
        # The page knows the file by its address only.
        text = str(answer["error"]).replace(f"{self._site.url}model.onnx", str(self._model))
        raise EngineError(text)

    def _receive(self, timeout: float | None) -> Answer:
        content = self._site.receive(timeout)
        if content is not None:
            return read_answer(BytesIO(content).read)

        code = self._process.poll()
        if code is None:
            raise EngineError(
                "The page in the browser ended; it may have needed more memory than there is. Use "
                "shorter chunks or a smaller batch."
            )
        raise EngineError(f"The browser ended with exit code {code}{last_line(self._errors)}.")


def _site(
    files: Mapping[str, Path], imports: Mapping[str, str], settings: Mapping[str, Any]
) -> Site:
    from .web_site import Site  # which needs websockets

    return Site(files, imports, settings)


def _setup(name: str, options: Mapping[str, object]) -> _Setup:
    """Where the browser and the packages are, by the options and the environment's variables."""
    check_options(name, options, _OPTIONS)
    library(name, "websockets", _EXTRA)
    browser = options.get("browser") or os.environ.get(_BROWSER)
    if browser is None:
        browser = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if browser is None:
        raise NotInstalledError(
            f"{name} needs Chromium, Chrome or Edge, and none is on the PATH. Install one (Debian: "
            f"apt install chromium); or name the program: {_BROWSER}=PATH."
        )
    return _Setup(str(browser), _folders(name, options))


def _folders(name: str, options: Mapping[str, object]) -> dict[str, Path]:
    """By package, the folder with its modules for browsers."""
    modules = Path(modules_folder(name, options, _LIBRARY, _INSTALL)).resolve()
    stateport = _package(modules, "stateport")
    web = _package(modules, _LIBRARY)
    common = stateport and _package(stateport, "onnxruntime-common")
    if stateport is None or web is None or common is None:
        raise absent(name, _LIBRARY, str(modules), _INSTALL)
    return {
        "stateport": stateport / "dist",
        "onnxruntime-common": common / "dist" / "esm",
        "onnxruntime-web": web / "dist",
    }


def _package(folder: Path, name: str) -> Path | None:
    """The folder of a package, found from another folder as Node finds it; None without one."""
    for candidate in _candidates(folder, name):
        manifest = candidate / "package.json"
        if manifest.is_file():
            content = parse_json(manifest.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("name") == name:
                return candidate.resolve()
    return None


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    """Where a package may be, in Node's order. The folder itself may be the package."""
    yield folder
    for place in (folder, *folder.parents):
        yield place / "node_modules" / name

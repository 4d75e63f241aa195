"""The npm package in a headless Chromium, from files that a server here sends."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

#: The milliseconds that a browser is waited for, on a machine that has much else to do.
PATIENCE: Final = 180_000
_ROOT: Final = Path(__file__).parents[2] / "javascript"
#: The folders of the server, as docs/javascript.md names them for a page without a bundler.
_FOLDERS: Final = {
    "stateport": _ROOT / "dist",
    "onnxruntime-common": _ROOT / "node_modules/onnxruntime-common/dist/esm",
    "onnxruntime-web": _ROOT / "node_modules/onnxruntime-web/dist",
}
_PAGE: Final = """<!doctype html><title>stateport</title>
<script type="importmap">
{"imports": {"stateport": "./stateport/index.js",
             "onnxruntime-common": "./onnxruntime-common/index.js",
             "onnxruntime-web/wasm": "./onnxruntime-web/ort.wasm.min.mjs"}}
</script>
"""
#: Feeds one chunk from a state: [state, inputs, worker] -> [state, outputs], files in base64.
_CONTINUE: Final = """async ([before, given, worker]) => {
  const { load, State } = await import("stateport");
  const read = (text) => State.deserialize(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  const text = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const written = (state) => btoa(text(state.serialize()));
  const model = await load(new URL("model.onnx", location.href), { engine: "web", worker });
  const stream = model.stream();
  stream.restore(read(before));
  const outputs = await stream.run(Object.fromEntries(read(given)));
  const answers = [written(stream.state), written(new State(outputs)), model.engineVersion];
  await model.dispose();
  return answers;
}"""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Prints nothing."""


@contextmanager
def opened(folder: Path, model: Path, *args: str) -> Iterator[Page]:
    """A page in Chromium which can load `model.onnx`. The folder is filled with what it needs."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "index.html").write_text(_PAGE, encoding="utf-8")
    shutil.copy(model, site / "model.onnx")
    for name, source in _FOLDERS.items():
        (site / name).symlink_to(source)
    with served(site) as address, chromium(*args) as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/index.html")
        yield page


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    handler = partial(_Handler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def chromium(*args: str) -> Iterator[Browser]:
    """A headless Chromium."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    assert executable, "These tests need Chromium (Debian: apt install chromium)."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", *args], timeout=PATIENCE
        )
        yield browser
        browser.close()


def continued(
    page: Page, state: bytes, inputs: bytes, *, worker: bool = False
) -> tuple[bytes, bytes]:
    """Feeds a chunk to a stream in the page; the state after it, and the outputs."""
    texts = [base64.b64encode(content).decode() for content in (state, inputs)]
    after, outputs, version = page.evaluate(_CONTINUE, [*texts, worker])
    assert version.startswith("onnxruntime 1.")
    return base64.b64decode(after), base64.b64decode(outputs)

"""Measures `Stream.push` beside a loop written by hand, in Node and in Chromium.

`make bench-javascript` writes the table in docs/javascript.md. All contenders of one network take
turns in one process.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.marks import replace_between
from benchmarks.processor import DOCS, processor
from models.lstm import ReferenceLSTM
from stateport_exporter import export
from tests.javascript.browser import chromium, served

_HERE: Final = Path(__file__).parent
_PACKAGE: Final = _HERE.parents[1] / "javascript"
#: The folders of a page.
_FOLDERS: Final = {
    "stateport": _PACKAGE / "dist",
    "onnxruntime-common": _PACKAGE / "node_modules/onnxruntime-common/dist/esm",
    "onnxruntime-web": _PACKAGE / "node_modules/onnxruntime-web/dist",
}
_RUNTIME: Final = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
#: Inputs, hidden size, layers, and the steps of a round.
_NETWORKS: Final = ((5, 10, 1, 250), (128, 256, 2, 50), (256, 512, 2, 20))
_CONTENDERS: Final = ("hand", "stream", "worker")
_PAGE: Final = """<!doctype html><title>benchmark</title><script type="importmap">
{"imports": {"stateport": "./stateport/index.js",
             "onnxruntime-common": "./onnxruntime-common/index.js",
             "onnxruntime-web/wasm": "./onnxruntime-web/ort.wasm.min.mjs"}}</script>"""
_RUN: Final = """async (load) => {
  const { contest } = await import("./contest.mjs");
  const [stateport, ort] = [await import("stateport"), await import("onnxruntime-web/wasm")];
  const file = new Uint8Array(await (await fetch("model.onnx")).arrayBuffer());
  return contest({ stateport, ort }, file, load);
}"""


@click.command()
@click.option("--rounds", default=151, show_default=True, help="How many rounds are measured.")
def main(rounds: int) -> None:
    """Writes the table of docs/javascript.md."""
    lines = [f"{processor()}, {rounds} rounds.", "", *_table(rounds), "", _bytes()]
    replace_between(
        DOCS / "javascript.md", "<!-- benchmark -->", "<!-- end of benchmark -->", lines
    )
    print("\n".join(lines))


def _table(rounds: int) -> Iterator[str]:
    yield (
        "| network | where | loop by hand | `Stream.push` | ratio | in a worker, more | "
        "load and first answer |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for features, hidden, layers, steps in _NETWORKS:
        module = ReferenceLSTM(features, hidden, layers)
        load = {"features": features, "sizes": [layers, hidden], "steps": steps, "rounds": rounds}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export(module, module.example_inputs, path)
            for where, run in (("Node", _in_node), ("Chromium", _in_chromium)):
                yield f"| ({features}, {hidden}x{layers}) | {where} | {_cells(run(path, load))} |"


def _cells(result: dict[str, Any]) -> str:
    """The middles over the rounds; ratios and differences are taken within each."""
    rounds = result["rounds"]
    hand, stream, _ = (
        statistics.median(times[name] for times in rounds) * 1e6 for name in _CONTENDERS
    )
    ratio = statistics.median(times["stream"] / times["hand"] for times in rounds)
    more = statistics.median(times["worker"] - times["stream"] for times in rounds) * 1e3
    return (
        f"{hand:.0f} µs | {stream:.0f} µs | {ratio:.2f} | {more:.2f} ms | "
        f"{result['cold'] * 1e3:.0f} ms"
    )


def _in_node(path: Path, load: dict[str, Any]) -> dict[str, Any]:
    command = [
        "node",
        str(_HERE / "in_node.mjs"),
        str(path),
        json.dumps({**load, "engine": "node"}),
    ]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _in_chromium(path: Path, load: dict[str, Any]) -> dict[str, Any]:
    site = path.parent / "site"
    site.mkdir()
    (site / "index.html").write_text(_PAGE, encoding="utf-8")
    shutil.copy(path, site / "model.onnx")
    shutil.copy(_HERE / "contest.mjs", site)
    for name, folder in _FOLDERS.items():
        (site / name).symlink_to(folder)
    with served(site) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{address}/index.html")
        result: dict[str, Any] = page.evaluate(_RUN, {**load, "engine": "web"})
    return result


def _bytes() -> str:
    """What a page loads beside the model, compressed as most servers do it."""
    own = [_PACKAGE / "dist" / "index.js"]
    own += [*(_PACKAGE / "dist").glob("errors-*.js"), *(_PACKAGE / "dist").glob("engines-*.js")]
    runtime = [_FOLDERS["onnxruntime-web"] / name for name in _RUNTIME]
    return (
        f"A page loads {_size(own)} of this package, and {_size(runtime)} of onnxruntime-web, "
        "compressed with gzip."
    )


def _size(files: list[Path]) -> str:
    size = sum(len(gzip.compress(file.read_bytes(), mtime=0)) for file in files)
    return f"{size / 1000:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    main()

"""Builds the page: copies what it is made of, and exports the networks that it runs."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

import stateport
from models import characters, sentiment, text_generator, words
from models.data import heldout_text
from stateport_exporter import export

_ROOT: Final = Path(__file__).parents[2]
_PAGE: Final = Path(__file__).with_name("page")
_PACKAGE: Final = _ROOT / "javascript"
_NETWORKS: Final = {"text_generator": text_generator, "sentiment": sentiment}
#: What a page needs of onnxruntime-web.
_RUNTIME: Final = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_ROUNDS: Final = 9
_STEPS: Final = 300
#: How many characters the network reads to find its slow units.
_READ: Final = 2000


def build(folder: Path) -> None:
    """Writes the whole page into a folder, which is emptied first.

    Raises:
        FileNotFoundError: the npm package has not been built.
    """
    if not (_PACKAGE / "dist" / "index.js").is_file():
        raise FileNotFoundError(
            f"{_PACKAGE} has not been built. Run `make web`, or there: npm ci && npm run build."
        )

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_PAGE, folder)
    _copy_packages(folder)
    for name, network in _NETWORKS.items():
        module = network.trained()
        export(module, module.example_inputs, folder / f"{name}.onnx")
    settings = json.dumps(_settings(folder), ensure_ascii=False)
    (folder / "settings.json").write_text(settings, encoding="utf-8")


def _copy_packages(folder: Path) -> None:
    modules = _PACKAGE / "node_modules"
    shutil.copytree(
        _PACKAGE / "dist", folder / "stateport", ignore=shutil.ignore_patterns("*.d.ts")
    )
    shutil.copytree(
        modules / "onnxruntime-common" / "dist" / "esm",
        folder / "onnxruntime-common",
        ignore=shutil.ignore_patterns("*.d.ts", "*.map"),
    )
    runtime = folder / "onnxruntime-web"
    runtime.mkdir()
    for name in _RUNTIME:
        shutil.copy(modules / "onnxruntime-web" / "dist" / name, runtime / name)


def _settings(folder: Path) -> dict[str, Any]:
    """What the page has to know: characters, words, and how fast Python is."""
    model = stateport.load(folder / "text_generator.onnx")
    return {
        "alphabet": characters.ALPHABET,
        "prompt": characters.PROMPT,
        "words": [*words.vocabulary()],
        "order": _slow_first(model),
        "python": {"rate": _rate(model), "where": "where this page was built"},
    }


def _slow_first(model: stateport.Model) -> list[int]:
    """The units of h, (units,), from those that change least from step to step."""
    stream = model.stream()
    rows = []
    for token in characters.encode(heldout_text()[:_READ]):
        stream(np.array([[token]], np.int64))
        rows.append(stream.state["h0"][0, 0])
    h = np.stack(rows)  # (steps, units)
    change = np.square(np.diff(h, axis=0)).mean(0) / h.var(0)
    return [int(unit) for unit in np.argsort(change)]


def _rate(model: stateport.Model) -> float:
    """How many steps a stream makes in a second: the middle of some rounds."""
    stream = model.stream()
    token = np.zeros((1, 1), np.int64)
    rates = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        for _ in range(_STEPS):
            stream(token)
        rates.append(_STEPS / (time.perf_counter() - start))
    return statistics.median(rates)

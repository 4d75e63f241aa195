"""The JavaScript that the README and docs/javascript.md show runs, with the file of a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import stateport
from stateport import State
from tests.documents import blocks, run_python

ROOT = Path(__file__).parents[2]
WORKER = "import { load } from 'stateport';"


@pytest.mark.parametrize("page", ["README.md", "docs/javascript.md"])
def test_the_javascript_of_a_page_runs(
    page: str, reference: Path, package: Path, tmp_path: Path
) -> None:
    shown = blocks((ROOT / page).read_text(encoding="utf-8"))
    code, *others = [block.text for block in shown if block.language == "js"]
    shutil.copy(reference, tmp_path / "model.onnx")
    (tmp_path / "program.mjs").write_text(code, encoding="utf-8")
    (tmp_path / "worker.mjs").write_text("\n".join([WORKER, *others]), encoding="utf-8")
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "stateport").symlink_to(package)

    stream = stateport.load(reference).stream()
    stream(np.ones((1, 16, 5), np.float32))
    stream.state.save(tmp_path / "here.safetensors")
    subprocess.run(["node", "program.mjs"], cwd=tmp_path, check=True)  # noqa: S607
    if others:
        subprocess.run(["node", "worker.mjs"], cwd=tmp_path, check=True)  # noqa: S607

    if page == "README.md":
        assert len(code.splitlines()) <= 10
        stream(np.zeros((1, 16, 5), np.float32))
        state = State.load(tmp_path / "there.safetensors")
        for name, array in stream.state.items():
            np.testing.assert_allclose(state[name], array, rtol=0, atol=1e-6)
    else:
        [python] = [block.text for block in shown if block.language == "python"]
        run_python(python, tmp_path)

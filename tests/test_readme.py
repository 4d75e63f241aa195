"""What the README shows is what happens: every command and every snippet."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.documents import blocks, commands, commands_not_run, run_command, run_python
from tests.runtime.serve.process import serving

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a test cannot run inside itself: the file that runs it instead, and the words that do.
ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "pip install './runtime[cpu]' ./exporter": ("demo/__main__.py", "./runtime[cpu]"),
    "pip install './runtime[cpu]'": ("demo/__main__.py", "./runtime[cpu]"),
    "pip wheel --no-deps --wheel-dir dist ./runtime ./exporter": (
        "Makefile",
        "--no-deps --wheel-dir dist ./runtime ./exporter",
    ),
    "pip install dist/*.whl onnxruntime": ("demo/wheel_check.py", "stateport_exporter-*"),
    "pip install dist/stateport-*.whl onnxruntime": ("demo/wheel_check.py", "stateport-[0-9]*"),
}


def snippets() -> list[str]:
    """Each block of Python in the README."""
    return [block.text for block in blocks(README) if block.language == "python"]


@pytest.mark.patterns
def test_every_command_and_every_snippet(tmp_path: Path) -> None:
    short, network, *others = snippets()
    assert len(others) == 2
    # All that a reader has is an empty folder and the network that the README shows.
    run_python(short, tmp_path)
    (tmp_path / "lstm.onnx").unlink()
    (tmp_path / "network.py").write_text(network, encoding="utf-8")

    shown = [block for block in blocks(README) if block.language == "console"]
    listed = [command for block in shown for command in commands(block.text)]
    assert len(listed) >= 7
    for command, lines in listed:
        run_command(command, lines, tmp_path)
    for snippet in others:
        run_python(snippet, tmp_path)


def test_data_sets_and_triton(reference: Path, tmp_path: Path) -> None:
    [shell] = [block.text for block in blocks(README) if block.language == "bash"]
    shutil.copy(reference, tmp_path / "model.onnx")
    (tmp_path / "recordings").mkdir()
    rows = pa.array([[[0.0] * 5] * 3, [[1.0] * 5] * 7], pa.list_(pa.list_(pa.float32())))
    pq.write_table(pa.table({"x": rows}), tmp_path / "recordings" / "one.parquet")
    for command in shell.splitlines():
        run_command(command.partition("#")[0], [], tmp_path)
    answers = pq.read_table(tmp_path / "answers.parquet")["y"].to_pylist()
    assert [len(row) for row in answers] == [3, 7]
    assert (tmp_path / "repository" / "model" / "config.pbtxt").exists()


def test_the_server(reference: Path, tmp_path: Path) -> None:
    [shell] = [block.text for block in blocks(README) if block.language == "sh"]
    [client] = [block.text for block in blocks(README) if block.language == "py"]
    start, curl = shell.splitlines()
    assert start.startswith("stateport serve model.onnx ")
    assert len([line for line in client.splitlines() if line]) == 5
    with serving({"model": reference}) as server:
        run_command(curl.replace("127.0.0.1:8000", server.http) + " --fail", [], tmp_path)
        code = client.replace("127.0.0.1:8001", server.grpc)
        assert run_python(f"{code}\nprint(y.shape)", tmp_path) == "(1, 1, 10)\n"


def test_the_first_snippet_is_short() -> None:
    lines = [line for line in snippets()[0].splitlines() if line]
    assert len(lines) <= 10


def test_the_other_commands_run_elsewhere() -> None:
    assert commands_not_run(README) == set(ELSEWHERE)
    for place, needed in ELSEWHERE.values():
        assert needed in (ROOT / place).read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_newest_opset_is_the_one_that_is_tested() -> None:
    stated = re.search(r"Opsets 18\s+to\s+(\d+)", README)
    assert stated
    import onnx

    assert int(stated[1]) == onnx.defs.onnx_opset_version()

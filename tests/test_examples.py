"""Every example runs, in an empty folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from stateport.parity.vectors import vectors_path

EXAMPLES = Path(__file__).parents[1] / "examples"
NO_PYTORCH = ["stream_one_sequence.py", "many_streams.py", "save_and_restore.py"]


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    """A folder with the file that export_lstm.py writes: the same network, exported once."""
    path = tmp_path / "lstm.onnx"
    shutil.copy(reference, path)
    shutil.copy(vectors_path(reference), vectors_path(path))
    return tmp_path


def run(folder: Path, *command: str) -> str:
    result = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_export_lstm(tmp_path: Path) -> None:
    printed = run(tmp_path, str(EXAMPLES / "export_lstm.py"))
    assert "h0 -> hn: float32[1, batch, 10]" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "lstm.onnx",
        "lstm.vectors.safetensors",
    }


@pytest.mark.parametrize("example", NO_PYTORCH)
def test_it_runs_without_pytorch(folder: Path, example: str) -> None:
    assert run(folder, "-c", without_pytorch(example))


def without_pytorch(example: str) -> str:
    """A program that runs an example where PyTorch cannot be imported."""
    path = str(EXAMPLES / example)
    return (
        "import runpy, sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; "
        f"sys.argv[:] = [{path!r}]; runpy.run_path({path!r}, run_name='__main__')"
    )


def test_verify_in_ci(folder: Path) -> None:
    shutil.copy(EXAMPLES / "verify_in_ci.py", folder)
    printed = run(folder, "-m", "pytest", "-p", "no:cacheprovider", "verify_in_ci.py")
    assert "4 passed" in printed


def test_verify_in_ci_can_fail(wrong: Path) -> None:
    vectors_path(wrong).rename(wrong.with_name("lstm.vectors.safetensors"))
    wrong.rename(wrong.with_name("lstm.onnx"))
    shutil.copy(EXAMPLES / "verify_in_ci.py", wrong.parent)
    with pytest.raises(AssertionError, match="3 failed"):
        run(wrong.parent, "-m", "pytest", "-p", "no:cacheprovider", "verify_in_ci.py")


@pytest.fixture
def service(folder: Path) -> Iterator[str]:
    """A running service's address."""
    command = [sys.executable, str(EXAMPLES / "service.py"), "0"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def ask(address: str, content: object, method: str = "POST") -> tuple[int, Any]:
    url = urlsplit(address)
    connection = HTTPConnection(url.netloc)
    try:
        connection.request(method, url.path, json.dumps(content) if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def test_service_keeps_a_stream_for_each_client(service: str) -> None:
    step = [[1, 0, 0, 0, 0]]
    _, first = ask(f"{service}/anna", step)
    _, second = ask(f"{service}/anna", step)
    assert first != second
    assert ask(f"{service}/bert", step) == (200, first)

    assert ask(f"{service}/anna", None, "DELETE") == (200, {"ended": True})
    assert ask(f"{service}/anna", None, "DELETE") == (404, {"ended": False})
    assert ask(f"{service}/anna", step) == (200, first)


@pytest.mark.parametrize("content", ["text", [[1, 2]], [], {"a": 1}, [[None] * 5]])
def test_service_refuses_what_is_no_chunk(service: str, content: object) -> None:
    status, answer = ask(f"{service}/anna", content)
    assert status == 400, answer


def test_the_list_has_every_example() -> None:
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert 20 <= len(text.splitlines()) <= 65
    assert re.search(r"^Needs: .*^Run: ", text, re.MULTILINE | re.DOTALL)

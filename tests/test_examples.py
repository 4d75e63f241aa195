"""Every example runs, in an empty folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import stateport
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


def test_device_loop(folder: Path) -> None:
    run(folder, "-m", "stateport", "emit", "c", "lstm.onnx", "-o", ".")
    shutil.copy(EXAMPLES / "device_loop.c", folder)
    command = "cc -std=c99 -O3 -Wall -Wextra -Werror device_loop.c model.c -lm -o device_loop"
    subprocess.run(command.split(), cwd=folder, check=True)
    program = subprocess.run(["./device_loop"], cwd=folder, check=True, capture_output=True)
    assert len({*program.stdout.split()}) == 10


@pytest.mark.parametrize("example", NO_PYTORCH)
def test_it_runs_without_pytorch(folder: Path, example: str) -> None:
    assert run(folder, "-c", without_pytorch(example))


def without_pytorch(example: str, *arguments: str) -> str:
    """A program that runs an example where PyTorch cannot be imported."""
    path = str(EXAMPLES / example)
    return (
        "import runpy, sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; "
        f"sys.argv[:] = [{path!r}, *{arguments!r}]; runpy.run_path({path!r}, run_name='__main__')"
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
        body = json.dumps(content) if method == "POST" else None
        connection.request(method, url.path, body, {"Content-Type": "application/json"})
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


@contextmanager
def uvicorn_of(example: str, folder: Path) -> Iterator[str]:
    """The address of an example that uvicorn runs, without PyTorch."""
    command = [sys.executable, "-c", without_pytorch(example, "0")]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield address_in(process.stderr)
        finally:
            process.terminate()
            process.communicate()


def address_in(log: IO[str]) -> str:
    """The address that uvicorn logs when it is ready."""
    lines = []
    for line in log:
        lines.append(line)
        address = re.search(r"running on (http://[\d.:]+)", line)
        if address:
            return address[1]
    pytest.fail("".join(lines))


def test_async_service_steps_streams_of_its_own_form(folder: Path) -> None:
    model, step = stateport.load(folder / "lstm.onnx"), [[1.0, 0, 0, 0, 0]]
    expected = model.stream()
    with uvicorn_of("async_service.py", folder) as address:
        status, opened = ask(f"{address}/streams", None)
        assert status == 200
        own = f"{address}/streams/{opened['stream']}"
        for _ in range(2):
            status, y = ask(own, step)
            assert status == 200
            np.testing.assert_allclose(y, expected(np.array([step], np.float32))[0], atol=1e-6)

        for content in ([[1, 2]], [[1, 2, 3, 4, 5], [1]], []):
            assert ask(own, content)[0] == 400
        assert ask(own, "text")[0] == 422
        assert ask(own, None, "DELETE") == (200, None)
        assert ask(own, step)[0] == 400


def test_mount_server_serves_beside_an_address_of_its_own(folder: Path) -> None:
    expected = stateport.load(folder / "lstm.onnx").stream()
    x = np.ones((1, 1, 5), np.float32)
    with uvicorn_of("mount_server.py", folder) as address:
        assert ask(f"{address}/health", None, "GET") == (200, {"ready": True, "streams": 0})
        for index in range(2):
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1, 5], "data": [1.0] * 5}
            parameters = {"sequence_id": 5, "sequence_start": index == 0}
            request = {"inputs": [tensor], "parameters": parameters}
            status, answer = ask(f"{address}/models/v2/models/lstm/infer", request)
            assert status == 200, answer
            y = np.array(answer["outputs"][0]["data"]).reshape(1, 1, 10)
            np.testing.assert_allclose(y, expected(x), atol=1e-6)
        assert ask(f"{address}/health", None, "GET") == (200, {"ready": True, "streams": 1})
        # A stream that runs would be waited for at the end.
        request["parameters"] = {"sequence_id": 5, "sequence_end": True}
        assert ask(f"{address}/models/v2/models/lstm/infer", request)[0] == 200


def test_the_list_has_every_example() -> None:
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert 20 <= len(text.splitlines()) <= 65
    assert re.search(r"^Needs: .*^Run: ", text, re.MULTILINE | re.DOTALL)

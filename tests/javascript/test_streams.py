"""Streams that begin in Python, and go on in Node and in a browser, through the npm package."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import State, StateError, StreamingError
from tests.javascript.browser import continued, opened
from tests.javascript.networks import NETWORKS, exported

Chunk: TypeAlias = dict[str, NDArray[Any]]

STREAMING: Final = [name for name in NETWORKS if name != "bidirectional"]
CONTINUE: Final = Path(__file__).with_name("continue.mjs")


@pytest.mark.parametrize("name", STREAMING)
def test_a_stream_goes_from_python_to_node_to_chromium_and_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    exported(name, path)
    model = stateport.load(path)
    parts = chunks(model, 4, 4)
    stream = model.stream()
    outputs = [stream.run(parts[0])]
    outputs += in_node(path, stream, [parts[1]], tmp_path)
    outputs.append(in_chromium(path, stream, parts[2], tmp_path))
    outputs.append(stream.run(parts[3]))
    check(model, stream, parts, outputs)


@pytest.mark.parametrize("name", STREAMING)
def test_a_stream_begins_in_node_and_goes_on_in_python(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    exported(name, path)
    model = stateport.load(path)
    parts = chunks(model, 3, 2)
    stream = model.stream()
    outputs = in_node(path, stream, parts[:2], tmp_path)
    outputs.append(stream.run(parts[2]))
    check(model, stream, parts, outputs)


def chunks(model: stateport.Model, count: int, steps: int) -> list[Chunk]:
    """The inputs of chunks of `steps` steps, with 2 rows."""
    random = np.random.default_rng(0)
    sizes = {"batch": 2, "time": steps}
    parts = []
    for _ in range(count):
        chunk = {}
        for spec in model.contract.inputs:
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape]
            if spec.dtype.startswith("float"):
                chunk[spec.name] = random.standard_normal(shape).astype(spec.dtype)
            else:
                chunk[spec.name] = random.integers(0, 20, shape).astype(spec.dtype)
        parts.append(chunk)
    return parts


def check(
    model: stateport.Model, stream: stateport.Stream, parts: list[Chunk], outputs: list[Chunk]
) -> None:
    """Compares the outputs of chunks, and the last state, with one whole run."""
    whole_inputs = {}
    for spec in model.contract.inputs:
        pieces = [part[spec.name] for part in parts]
        whole_inputs[spec.name] = np.concatenate(pieces, spec.shape.index("time"))
    whole, last = model.run(whole_inputs)

    bound = 2e-2 if model.precision == "float16" else 1e-5
    for output in model.contract.outputs:
        pieces = [answer[output.name] for answer in outputs]
        axis = output.time_axis
        y = pieces[-1] if axis is None else np.concatenate(pieces, axis)
        np.testing.assert_allclose(y, whole[output.name], rtol=0, atol=bound)
    for key, array in stream.state.items():
        np.testing.assert_allclose(array, last[key], rtol=0, atol=bound)


def in_node(path: Path, stream: stateport.Stream, parts: list[Chunk], folder: Path) -> list[Chunk]:
    """Feeds chunks in Node, from the stream's state if it has one, and brings the state back."""
    before, given, after, answers = (folder / name for name in ("before", "x", "after", "y"))
    with contextlib.suppress(StateError):  # the sequence begins in Node
        stream.state.save(before)
    named = {}
    for number, chunk in enumerate(parts):
        named.update({f"{number}/{name}": array for name, array in chunk.items()})
    State(named).save(given)
    subprocess.run(["node", CONTINUE, path, before, given, after, answers], check=True)  # noqa: S607

    stream.restore(State.load(after))
    assert State.load(after).to_bytes() == after.read_bytes()
    outputs: list[Chunk] = [{} for _ in parts]
    for name, array in State.load(answers).items():
        chunk_number, _, output = name.partition("/")
        outputs[int(chunk_number)][output] = array
    return outputs


def in_chromium(path: Path, stream: stateport.Stream, chunk: Chunk, folder: Path) -> Chunk:
    """Feeds a chunk in the browser, from the stream's state, and brings the state back."""
    with opened(folder, path) as page:
        after, outputs = continued(page, stream.state.to_bytes(), State(chunk).to_bytes())
    stream.restore(State.from_bytes(after))
    assert State.from_bytes(after).to_bytes() == after
    return {**State.from_bytes(outputs)}


def test_a_network_that_cannot_stream_is_refused_in_the_same_words(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.onnx"
    exported("bidirectional", path)
    with pytest.raises(StreamingError) as refusal:
        stateport.load(path).stream()
    for name in ("state", "x"):
        State({}).save(tmp_path / name)
    command = ["node", str(CONTINUE), str(path), str(tmp_path / "state"), str(tmp_path / "x")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert str(refusal.value) in result.stderr

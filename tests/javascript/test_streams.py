"""Streams that begin in Python, and go on in Node and in a browser, through the npm package."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stateport
from stateport import State, StreamingError
from stateport_exporter import export
from tests.conftest import Exported
from tests.javascript.browser import continued, opened
from tests.references import REFERENCES

CONTINUE = Path(__file__).with_name("continue.mjs")


@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "bidirectional"])
def test_a_stream_goes_from_python_to_node_to_chromium_and_back(name: str, tmp_path: Path) -> None:
    module = REFERENCES[name]()
    path = tmp_path / "m.onnx"
    export(module, module.example_inputs, path)  # type: ignore[arg-type]
    model = stateport.load(path)
    x = np.asarray(module.example_inputs(2, 12)[0])  # type: ignore[operator]
    [spec] = model.contract.inputs
    parts = np.split(x, [3, 4, 9], axis=spec.shape.index("time"))
    whole, last = model.run({spec.name: x})

    stream = model.stream()
    outputs = [stream.run({spec.name: parts[0]})]
    outputs += in_node(path, stream, [{spec.name: parts[1]}], tmp_path)
    outputs.append(in_chromium(path, stream, {spec.name: parts[2]}, tmp_path))
    outputs.append(stream.run({spec.name: parts[3]}))

    for output in model.contract.outputs:
        pieces = [answer[output.name] for answer in outputs]
        axis = output.time_axis
        y = pieces[-1] if axis is None else np.concatenate(pieces, axis)
        np.testing.assert_allclose(y, whole[output.name], rtol=0, atol=1e-5)
    for key, array in stream.state.items():
        np.testing.assert_allclose(array, last[key], rtol=0, atol=1e-5)


def in_node(
    path: Path, stream: stateport.Stream, chunks: list[dict[str, NDArray[Any]]], folder: Path
) -> list[dict[str, NDArray[Any]]]:
    """Feeds the chunks in Node, from the stream's state, and brings the state back."""
    before, given, after, answers = (folder / name for name in ("before", "x", "after", "y"))
    stream.state.save(before)
    named = {}
    for number, chunk in enumerate(chunks):
        named.update({f"{number}/{name}": array for name, array in chunk.items()})
    State(named).save(given)
    subprocess.run(["node", CONTINUE, path, before, given, after, answers], check=True)  # noqa: S607

    stream.restore(State.load(after))
    assert State.load(after).to_bytes() == after.read_bytes()
    outputs: list[dict[str, NDArray[Any]]] = [{} for _ in chunks]
    for name, array in State.load(answers).items():
        chunk_number, _, output = name.partition("/")
        outputs[int(chunk_number)][output] = array
    return outputs


def in_chromium(
    path: Path, stream: stateport.Stream, chunk: dict[str, NDArray[Any]], folder: Path
) -> dict[str, NDArray[Any]]:
    """Feeds a chunk in the browser, from the stream's state, and brings the state back."""
    with opened(folder, path) as page:
        after, outputs = continued(page, stream.state.to_bytes(), State(chunk).to_bytes())
    stream.restore(State.from_bytes(after))
    assert State.from_bytes(after).to_bytes() == after
    return {**State.from_bytes(outputs)}


def test_a_network_that_cannot_stream_is_refused_in_the_same_words(
    exported: Exported, tmp_path: Path
) -> None:
    path = exported(bidirectional=True)
    with pytest.raises(StreamingError) as refusal:
        stateport.load(path).stream()
    for name in ("state", "x"):
        State({}).save(tmp_path / name)
    command = ["node", str(CONTINUE), str(path), str(tmp_path / "state"), str(tmp_path / "x")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert str(refusal.value) in result.stderr

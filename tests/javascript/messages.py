# SPDX-License-Identifier: Apache-2.0
"""Wrong calls, and what Python says to them: the table that the tests in JavaScript compare with.

An entry of `messages.json` has the name of a file, what is done with it, and with what:

- `load`: the file is loaded.
- `run`: one call, with `inputs` and maybe `state`.
- `stream`: chunks are pushed one after the other; the last one is wrong.
- `push`: a chunk is pushed without the name of its input.
- `restore`: a stream continues from `state`.
- `unborn`: a stream is asked for its state before it has one.
- `leftover`: the state after `inputs` is passed on, or serialised.
- `deserialize`: the file's bytes are read as a state.

An array is `{"dtype": ..., "shape": [...]}`, filled with ones or with `value`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import safetensors.numpy
from numpy.typing import NDArray
from onnx import helper

import stateport
from stateport import ArraySpec, Contract, State, StateportError, StateSpec, Streaming
from stateport.contract import CONTRACT_KEY

Entry = dict[str, Any]

#: What is called otherwise in JavaScript. Whatever follows "Convert it:" is code.
_WORDS: Final = (
    ("a NumPy array", "a Tensor"),
    ("a dict of", "an object of"),
    ("or State({", "or new State({"),
)

_X: Final = ArraySpec("x", "float32", ("batch", "time", 5))
_Y: Final = ArraySpec("y", "float32", ("batch", "time", 5))
_STATES: Final = tuple(
    StateSpec(f"{name}0", f"{name}n", "float32", (1, "batch", 10)) for name in "hc"
)
_LENGTHS: Final = ArraySpec("lengths", "int64", ("batch",), "time")


def arr(*shape: int, dtype: str = "float32", value: int = 1) -> Entry:
    """An array as the table describes it."""
    return {"dtype": dtype, "shape": shape, "value": value}


def state_of(batch: int = 1, **others: Entry) -> Entry:
    """A state of the files here, with some arrays replaced."""
    return {"h0": arr(1, batch, 10), "c0": arr(1, batch, 10)} | others


def contracts() -> dict[str, Contract]:
    """The contracts of the files, by the file's name. Each file returns what it takes."""
    limited: dict[str, Any] = {"limits": (("time", 8),), "minimums": (("time", 4),)}
    return {
        "plain": Contract((_X,), (_Y,), _STATES),
        "whole": Contract((_X,), (_Y,), _STATES, Streaming(False, "it looks ahead")),
        "limited": Contract((_X,), (_Y,), _STATES, **limited),
        "in whole limited": Contract(
            (_X,), (_Y,), _STATES, Streaming(False, "it looks ahead"), **limited
        ),
        "multiples": Contract(
            (_X,), (_Y,), _STATES, Streaming(chunk_multiple=4), multiples=(("time", 4),)
        ),
        "chunks": Contract((_X,), (_Y,), _STATES, Streaming(chunk_multiple=4)),
        "lengths": Contract((_X, _LENGTHS), (_Y,), _STATES),
        "unknown axis": Contract((_X,), (_Y,), (StateSpec("h0", "hn", "float32", ("rooms", 10)),)),
    }


def write_others(folder: Path) -> None:
    """Writes the files that the other tests want: every dtype, and names that need care."""
    dtypes = "uint64 int64 float64 float32 uint32 int32 float16 uint16 int16 int8 uint8 bool"
    arrays = {}
    for number, dtype in enumerate(dtypes.split()):
        arrays[f"{number % 3}{dtype}"] = np.ones((2, number % 3), dtype)
    State({**arrays, "s": np.array(3, "float32")}).save(folder / "dtypes.safetensors")

    carried = ("int64", "int32", "bool", "uint8", "float64", "float16")
    states = tuple(StateSpec(f"{d} 0", f"{d} n", d, ("batch",)) for d in carried)
    inputs = tuple(ArraySpec(f"in {dtype}", dtype, ("batch",)) for dtype in carried)
    outputs = tuple(ArraySpec(f"out {dtype}", dtype, ("batch",)) for dtype in carried)
    write_file(folder / "carrying.onnx", Contract(inputs, outputs, states))

    named = ArraySpec("state", "float32", _Y.shape)
    write_file(folder / "named-state.onnx", Contract((_X,), (named,), _STATES))
    write_file(folder / "silent.onnx", contracts()["plain"], says=False)


def write_file(
    path: Path,
    contract: Contract,
    change: Callable[[Entry], None] | None = None,
    *,
    says: bool = True,
) -> None:
    """Writes a graph that returns what it takes; `change` changes its contract afterwards."""
    specs = [*contract.inputs, *contract.state_inputs]
    results = [*contract.outputs, *contract.state_outputs]
    pairs = [(a.name, b.name) for a, b in zip(contract.inputs, contract.outputs, strict=False)]
    pairs += [(state.input, state.output) for state in contract.states]
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in pairs]
    graph = helper.make_graph(nodes, "g", [*map(_value, specs)], [*map(_value, results)])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])

    document = json.loads(contract.to_json())
    if change is not None:
        change(document)
    if says:
        helper.set_model_props(model, {CONTRACT_KEY: json.dumps(document)})
    onnx.save(model, path)


def _value(spec: ArraySpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, [*spec.shape])


def changes() -> dict[str, Callable[[Entry], None]]:
    """Contracts that contradict themselves or their graph, by what is wrong."""

    def set_in(*keys: Any, value: Any) -> Callable[[Entry], None]:
        def change(document: Any) -> None:
            for key in keys[:-1]:
                document = document[key]
            document[keys[-1]] = value

        return change

    return {
        "version": set_in("version", value=2),
        "version as text": set_in("version", value="1"),
        "dtype": set_in("inputs", 0, "dtype", value="bfloat16"),
        "other dtype": set_in("inputs", 0, "dtype", value="float64"),
        "other size": set_in("inputs", 0, "shape", value=["batch", "time", 6]),
        "no name": set_in("inputs", 0, "name", value=""),
        "unknown name": set_in("inputs", 0, "name", value="signal"),
        "twice": set_in("states", 0, "input", value="x"),
        "input and output": set_in("states", 0, "output", value="x"),
        "negative size": set_in("inputs", 0, "shape", value=["batch", "time", -5]),
        "no shape": set_in("inputs", 0, "shape", value=5),
        "many dimensions": set_in("inputs", 0, "shape", value=[1] * 33),
        "division": set_in("outputs", 0, "shape", value=["batch", "time//0", 5]),
        "large number": set_in("outputs", 0, "shape", value=["batch", "3000000000*time", 5]),
        "initial": set_in("states", 0, "initial", value="ones"),
        "initial in file": set_in("states", 0, "initial", value="file"),
        "inputs": set_in("inputs", value={}),
        "an entry": set_in("inputs", 0, value=[1, "two", None, True, 2.5, {}, 7]),
        "lengths": set_in("inputs", 0, "lengths_of", value="time"),
        "limit": set_in("limits", value={"time": 0}),
        "limit of nothing": set_in("limits", value={"room": 3}),
        "limit as text": set_in("limits", value={"time": "3"}),
        "streaming": set_in("streaming", value={"ok": 1}),
        "multiple": set_in("streaming", value={"ok": True, "multiple": 0}),
        "no reason": set_in("streaming", value={"ok": False}),
        "not streaming": set_in("streaming", value=None),
        "large state": set_in("states", 0, "shape", value=[1 << 28, "batch", 1]),
        "long name": set_in("states", 0, "output", value="a\nb'c" + "n" * 2000),
    }


def calls() -> list[Entry]:
    """The wrong calls."""
    x = arr(1, 2, 5)

    def run(inputs: Entry, file: str = "plain", **more: Any) -> Entry:
        return {"do": "run", "file": file, "inputs": inputs, **more}

    def stream(file: str, *chunks: Entry) -> Entry:
        return {"do": "stream", "file": file, "chunks": chunks}

    def restore(state: Entry) -> Entry:
        return {"do": "restore", "file": "plain", "state": state}

    return [
        run({}),
        run({"X": x}),
        run({"y": x}),
        run({"x": x, "h0": arr(1, 1, 10)}),
        run({"x": arr(1, 2, 5, dtype="float64")}),
        run({"x": arr(1, 2, 5, dtype="int64")}),
        run({"x": arr(1, 2, 5, dtype="bool")}),
        run({"x": arr(2, 5)}),
        run({"x": arr(1, 1, 2, 5)}),
        run({"x": arr(1, 2, 6)}),
        run({"x": arr(0, 2, 5)}),
        run({"x": arr(1, 0, 5)}),
        run({"x": x}, state=state_of(2)),
        run({"x": x}, state=state_of(h0=arr(1, 1, 9))),
        run({"x": x}, state=state_of(h0=arr(1, 10))),
        run({"x": x}, state=state_of(c0=arr(1, 1, 10, dtype="float16"))),
        run({"x": x}, state={"h0": arr(1, 1, 10)}),
        run({"x": x}, state=state_of(cO=arr(1, 1, 10))),
        run({"x": x}, state={}),
        run({"x": x}, "unknown axis"),
        run({"x": x}, "lengths"),
        run({"x": x, "lengths": arr(1, dtype="int64", value=0)}, "lengths"),
        run({"x": x, "lengths": arr(1, dtype="int64", value=3)}, "lengths"),
        run({"x": x, "lengths": arr(1, dtype="int32")}, "lengths"),
        run({"x": x, "lengths": arr(2, dtype="int64")}, "lengths"),
        run({"x": arr(1, 9, 5)}, "limited"),
        run({"x": arr(1, 9, 5)}, "in whole limited"),
        run({"x": arr(1, 3, 5)}, "limited"),
        run({"x": arr(1, 3, 5)}, "multiples"),
        run({"x": arr(1, 6, 5)}, "multiples"),
        stream("plain", x, arr(2, 2, 5)),
        stream("plain", arr(1, 2, 5, dtype="float64")),
        stream("chunks", arr(1, 6, 5)),
        stream("chunks", arr(1, 4, 5), arr(1, 3, 5)),
        stream("whole", x),
        {"do": "push", "file": "lengths", "chunks": [x]},
        {"do": "unborn", "file": "plain"},
        restore(state_of(h0=arr(2, 1, 10))),
        restore(state_of(h0=arr(1, 2, 10))),
        restore({"c0": arr(1, 1, 10)}),
        {"do": "leftover", "file": "chunks", "inputs": {"x": arr(1, 6, 5)}, "then": "run"},
        {"do": "leftover", "file": "chunks", "inputs": {"x": arr(1, 6, 5)}, "then": "save"},
    ]


def wrong_files(folder: Path) -> list[Entry]:
    """Writes files that are refused, and says how they are read."""
    for name, change in changes().items():
        write_file(folder / f"wrong {name}.onnx", contracts()["plain"], change)

    whole = (folder / "plain.onnx").read_bytes()
    state = State({"h0": np.zeros((1, 1, 10), "float32")}).to_bytes()
    contents = {
        "empty": b"",
        "cut off": whole[:-20],
        "cut off early": whole[:40],
        "text": b"This is no network.",
        "page": b"<!DOCTYPE html><html></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "ort": b"\x18\x00\x00\x00ORTM" + bytes(40),
        "state": state,
        "hdf": b"\x89HDF\r\n\x1a\n" + bytes(40),
        "zeros": bytes(64),
        "endless": b"\xff" * 64,
        "claims": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64),
        "wire": b"\x3b" + bytes(64),
    }
    for name, content in contents.items():
        (folder / f"{name}.bin").write_bytes(content)

    entries = [{"do": "load", "file": f"wrong {name}.onnx"} for name in changes()]
    entries += [{"do": "load", "file": f"{name}.bin"} for name in contents]
    entries += [{"do": "load", "file": "0123456789 9876543210"}]
    return entries + wrong_states(folder, state)


def wrong_states(folder: Path, state: bytes) -> list[Entry]:
    """Writes files that hold no state."""

    def safe(document: Any, nbytes: int = 8) -> bytes:
        text = json.dumps(document).encode()
        return len(text).to_bytes(8, "little") + text + bytes(nbytes)

    marked = {"__metadata__": {"stateport.state": "1"}}
    entry = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    contents = {
        "state cut off": state[:-1],
        "state too long": state + b"1",
        "state claims": (1 << 40).to_bytes(8, "little"),
        "no state": safetensors.numpy.save({"h0": np.zeros(2, "float32")}),
        "bfloat16": safe({**marked, "h": {**entry, "dtype": "BF16"}}),
        "no dtype": safe({**marked, "h": {**entry, "dtype": 3}}),
        "list": safe([]),
        "number": safe({**marked, "h": 3}),
        "negative": safe({**marked, "h": {**entry, "shape": [1, -2]}}),
        "gap": safe({**marked, "h": {**entry, "data_offsets": [4, 12]}}, 12),
        "short": safe({**marked, "h": {**entry, "data_offsets": [0, 4]}}),
        "metadata": safe({"__metadata__": {"stateport.state": 1}, "h": entry}),
        "dimensions": safe({**marked, "h": {**entry, "shape": [1] * 33}}),
    }
    entries = []
    for name, content in contents.items():
        (folder / f"{name}.safetensors").write_bytes(content)
        entries.append({"do": "deserialize", "file": f"{name}.safetensors"})
    return entries


def write_messages(folder: Path) -> None:
    """Writes `messages.json` and the files that it names, and those of the other tests."""
    write_others(folder)
    for name, contract in contracts().items():
        write_file(folder / f"{name}.onnx", contract)

    entries = [*calls(), *wrong_files(folder)]
    for entry in entries:
        try:
            _DOES[entry["do"]](folder, entry)
        except StateportError as error:
            entry["error"] = type(error).__name__
            entry["message"] = in_javascript(str(error))
        else:
            raise AssertionError(f"Python takes {entry}")
    (folder / "messages.json").write_text(json.dumps(entries))


def in_javascript(message: str) -> str:
    """A message in JavaScript's words."""
    for python, javascript in _WORDS:
        message = message.replace(python, javascript)
    return re.sub(r" Convert it: .*", "", message)


def made(arrays: Mapping[str, Entry]) -> dict[str, NDArray[Any]]:
    """The arrays that a table describes."""
    return {name: array_of(entry) for name, entry in arrays.items()}


def array_of(entry: Entry) -> NDArray[Any]:
    """An array that a table describes."""
    return np.full(entry["shape"], entry["value"], entry["dtype"])


def _load(folder: Path, entry: Entry) -> Any:
    return stateport.load(folder / f"{entry['file'].removesuffix('.onnx')}.onnx")


def _run(folder: Path, entry: Entry) -> None:
    state = State(made(entry["state"])) if "state" in entry else None
    _load(folder, entry).run(made(entry["inputs"]), state)


def _stream(folder: Path, entry: Entry) -> None:
    stream = _load(folder, entry).stream()
    for chunk in entry["chunks"]:
        stream(array_of(chunk))


def _leftover(folder: Path, entry: Entry) -> None:
    model = _load(folder, entry)
    _, state = model.run(made(entry["inputs"]))
    if entry["then"] == "run":
        model.run(made(entry["inputs"]), state)
    state.to_bytes()


_DOES: Final[dict[str, Callable[[Path, Entry], object]]] = {
    "load": lambda folder, entry: stateport.load(folder / entry["file"]),
    "run": _run,
    "stream": _stream,
    "push": _stream,
    "unborn": lambda folder, entry: _load(folder, entry).stream().state,
    "restore": lambda folder, entry: (
        _load(folder, entry).stream().restore(State(made(entry["state"])))
    ),
    "leftover": _leftover,
    "deserialize": lambda folder, entry: State.from_bytes((folder / entry["file"]).read_bytes()),
}

"""The messages for wrong inputs, states and files, and saved states: one table for two languages.

`python -m tests.javascript.messages` writes `messages.json`. tests/runtime/test_messages.py and
javascript/tests/messages.test.ts refuse the same inputs, write the same states, and compare both.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from onnx import StringStringEntryProto, TensorProto, helper

from stateport import Contract, State, StateportError, Stream
from stateport.contract import CONTRACT_KEY, DTYPES, axis_sizes, resolve
from stateport.engines import HostEngine
from stateport.engines.base import Arrays
from stateport.model import Model
from stateport.model_file.onnx_outline import read
from stateport.model_file.read_contract import read_contract

TABLE: Final = Path(__file__).with_name("messages.json")
#: What Python says -> what JavaScript says, where the languages differ.
TRANSLATIONS: Final = {
    "a stateport.State was expected": "a State was expected",
    "or State({name: array})": "or new State({name: array})",
    "x.astype('float32')": "new Tensor('float32', data, dims)",
    "h0.astype('float32')": "new Tensor('float32', data, dims)",
    "c0.astype('float32')": "new Tensor('float32', data, dims)",
    "n.astype('int64')": "new Tensor('int64', data, dims)",
    "a NumPy array": "a Tensor",
    "'x' is a NoneType": "'x' is null",
    "The state is a int": "The state is a number",
    "a dict of arrays by name": "an object of Tensors by name",
    "The inputs are a NoneType": "The inputs are null",
    "by name: run(": "by name: push(",
}


def array(dtype: str, *shape: int, fill: int = 0) -> dict[str, Any]:
    """An array as the table has it."""
    return {"dtype": dtype, "shape": [*shape], "fill": fill}


X: Final = array("float32", 2, 3, 5)
STATE: Final = {"h0": array("float32", 1, 2, 4), "c0": array("float32", 1, 2, 4)}
_SPEC: Final = {"dtype": "float32", "shape": [1, "batch", 4], "initial": "zeros"}
LSTM: Final[dict[str, Any]] = {
    "version": 1,
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", "time", 5]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", "time", 4]}],
    "states": [
        {"input": "h0", "output": "hn", **_SPEC},
        {"input": "c0", "output": "cn", **_SPEC},
    ],
    "streaming": {"ok": True},
}
_N: Final = {"name": "n", "dtype": "int64", "shape": ["batch"]}
CONTRACTS: Final[dict[str, dict[str, Any]]] = {
    "lstm": LSTM,
    "limited": {**LSTM, "limits": {"time": 8}},
    "limited batch": {**LSTM, "limits": {"batch": 3}},
    "at least": {**LSTM, "minimums": {"time": 5}},
    "multiples": {**LSTM, "multiples": {"time": 4}, "streaming": {"ok": True, "multiple": 4}},
    "chunks": {**LSTM, "streaming": {"ok": True, "multiple": 4}},
    "whole": {**LSTM, "streaming": {"ok": False, "because": "lstm is bidirectional"}},
    "limited whole": {
        **LSTM,
        "limits": {"time": 8},
        "streaming": {"ok": False, "because": "lstm is bidirectional"},
    },
    "lengths": {**LSTM, "inputs": [*LSTM["inputs"], {**_N, "lengths_of": "time"}]},
    "two inputs": {**LSTM, "inputs": [*LSTM["inputs"], _N]},
    "free axis": {
        **LSTM,
        "states": [{"input": "h0", "output": "hn", **_SPEC, "shape": [1, "rows", 4]}],
    },
}

#: name, contract, what is called, its inputs, and the state.
CALLS: Final[list[tuple[str, str, str, Any, Any]]] = [
    ("a wrong dtype", "lstm", "run", {"x": array("float64", 2, 3, 5)}, None),
    ("integers for floats", "lstm", "run", {"x": array("int64", 2, 3, 5)}, None),
    ("truth values for floats", "lstm", "run", {"x": array("bool", 2, 3, 5)}, None),
    ("too few dimensions", "lstm", "run", {"x": array("float32", 3, 5)}, None),
    ("no dimensions", "lstm", "run", {"x": array("float32")}, None),
    ("too many dimensions", "lstm", "run", {"x": array("float32", 1, 2, 3, 5)}, None),
    ("a wrong fixed size", "lstm", "run", {"x": array("float32", 2, 3, 6)}, None),
    ("no rows", "lstm", "run", {"x": array("float32", 0, 3, 5)}, None),
    ("no steps", "lstm", "run", {"x": array("float32", 2, 0, 5)}, None),
    ("nothing for an array", "lstm", "run", {"x": None}, None),
    ("no inputs", "lstm", "run", {}, None),
    ("nothing for inputs", "lstm", "run", None, None),
    ("the name of an output", "lstm", "run", {"y": X}, None),
    ("an unknown input", "lstm", "run", {"x": X, "zz": X}, None),
    ("a name with a mistake", "two inputs", "run", {"X": X}, None),
    ("a name with a quote", "lstm", "run", {"it's": X}, None),
    ("a name with a control character", "lstm", "run", {"a\x1b[31m\nb\u200b": X}, None),
    ("a name with a command", "lstm", "run", {"::error::x": X}, None),
    ("a state as an input", "lstm", "run", {"x": X, "h0": STATE["h0"]}, None),
    ("two batches", "two inputs", "run", {"x": X, "n": array("int64", 3)}, None),
    ("a wrong dtype of integers", "two inputs", "run", {"x": X, "n": array("int32", 2)}, None),
    ("an input is missing", "two inputs", "run", {"x": X}, None),
    ("one array for two inputs", "two inputs", "push", X, None),
    ("a length of 0", "lengths", "run", {"x": X, "n": array("int64", 2, fill=0)}, None),
    (
        "a length that is too large",
        "lengths",
        "run",
        {"x": X, "n": array("int64", 2, fill=4)},
        None,
    ),
    ("too many steps", "limited", "run", {"x": array("float32", 1, 9, 5)}, None),
    (
        "too many steps of a network for whole sequences",
        "limited whole",
        "run",
        {"x": array("float32", 1, 9, 5)},
        None,
    ),
    ("lengths of a wrong dtype", "lengths", "run", {"x": X, "n": array("int32", 2)}, None),
    ("lengths of another batch", "lengths", "run", {"x": X, "n": array("int64", 3, fill=1)}, None),
    ("lengths are missing", "lengths", "run", {"x": X}, None),
    ("too many rows", "limited batch", "run", {"x": array("float32", 4, 9, 5)}, None),
    ("too few steps", "at least", "run", {"x": array("float32", 1, 4, 5)}, None),
    ("fewer than a multiple", "multiples", "run", {"x": X}, None),
    ("more than a multiple", "multiples", "run", {"x": array("float32", 1, 6, 5)}, None),
    ("a chunk that is no multiple", "chunks", "push", X, None),
    ("a network for whole sequences", "whole", "push", X, None),
    ("an initial state of unknown size", "free axis", "run", {"x": X}, None),
    ("no state before the first chunk", "lstm", "state", None, None),
    ("a state with no names", "lstm", "run", {"x": X}, {}),
    ("a state without c0", "lstm", "run", {"x": X}, {"h0": STATE["h0"]}),
    ("a state of another network", "lstm", "run", {"x": X}, {**STATE, "h1": STATE["h0"]}),
    ("a state of another batch", "lstm", "run", {"x": array("float32", 3, 3, 5)}, STATE),
    (
        "a state of too few dimensions",
        "lstm",
        "run",
        {"x": X},
        {**STATE, "h0": array("float32", 2, 4)},
    ),
    (
        "a state of half precision",
        "lstm",
        "run",
        {"x": X},
        {**STATE, "c0": array("float16", 1, 2, 4)},
    ),
    (
        "a state whose name has a mistake",
        "lstm",
        "run",
        {"x": X},
        {"h0": STATE["h0"], "cO": STATE["c0"]},
    ),
    ("a state of two batches", "lstm", "restore", {**STATE, "c0": array("float32", 1, 3, 4)}, None),
    (
        "a state of another size",
        "lstm",
        "restore",
        {**STATE, "h0": array("float32", 1, 2, 5)},
        None,
    ),
    ("a state of doubles", "lstm", "restore", {**STATE, "h0": array("float64", 1, 2, 4)}, None),
    ("a number for a state", "lstm", "restore", 3, None),
    ("a state that lacks steps", "chunks", "go on", {"x": X}, None),
    ("a state that lacks steps is saved", "chunks", "save", {"x": X}, None),
    (
        "a second chunk that is no multiple",
        "chunks",
        "push again",
        [array("float32", 2, 4, 5), X],
        None,
    ),
    ("another batch in a stream", "lstm", "push again", [X, array("float32", 3, 3, 5)], None),
]


class Zeros(HostEngine):
    """An engine that returns zeros, and each state as it came."""

    name = "zeros"
    version = "zeros 1"

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[Any]]:
        given = (*self._contract.inputs, *self._contract.state_inputs)
        sizes = axis_sizes(given, {spec.name: inputs[spec.name].shape for spec in given})
        answers: dict[str, NDArray[Any]] = {}
        for state in self._contract.states:
            answers[state.output] = inputs[state.input].copy()
        for spec in self._contract.outputs:
            answers[spec.name] = np.zeros(resolve(spec.shape, sizes), spec.dtype)
        return [answers[name] for name in outputs]


def _read(entry: Any) -> Any:
    """An array of the table, or arrays by name, as Python has them."""
    if not isinstance(entry, dict):
        return entry
    if "dtype" in entry:
        return np.full(entry["shape"], entry["fill"], entry["dtype"])
    return {name: _read(part) for name, part in entry.items()}


def _call(contract: Contract, what: str, given: Any, state: Any) -> object:
    """Does what a case says."""
    model = Model(contract, Zeros(contract))
    if what == "run":
        return model.run(_read(given), None if state is None else State(_read(state)))
    if what in ("go on", "save"):
        _, unfinished = model.run(_read(given))
        return unfinished.to_bytes() if what == "save" else model.run(_read(given), unfinished)
    return _call_stream(model.stream(), what, given)


def _call_stream(stream: Stream, what: str, given: Any) -> object:
    if what == "state":
        return stream.state
    if what == "restore":
        return stream.restore(State(_read(given)) if isinstance(given, dict) else given)
    for chunk in given if what == "push again" else [given]:
        stream(_read(chunk))
    return None


def model_bytes(document: object, graph: dict[str, Any] = LSTM) -> bytes:
    """An ONNX file with this contract, or without one, and with the ports of a graph."""
    numbers = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

    def port(name: str, entry: dict[str, Any]) -> Any:
        return helper.make_tensor_value_info(name, numbers[entry["dtype"]], entry["shape"])

    inputs = [port(entry["name"], entry) for entry in graph["inputs"]]
    inputs += [port(entry["input"], entry) for entry in graph["states"]]
    outputs = [port(entry["name"], entry) for entry in graph["outputs"]]
    outputs += [port(entry["output"], entry) for entry in graph["states"]]
    graph_proto = helper.make_graph([], "graph", inputs, outputs)
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph_proto, ir_version=9, opset_imports=opsets)
    if document is not None:
        text = document if isinstance(document, str) else json.dumps(document)
        helper.set_model_props(model, {CONTRACT_KEY: text})
    return bytes(model.SerializeToString())


def files() -> dict[str, bytes]:
    """Files that are refused, by what is wrong with them."""
    whole = model_bytes(LSTM)
    return {
        "an empty file": b"",
        "text": b"hello, this is no model",
        "the first half": whole[: len(whole) // 2],
        "the first 40 bytes": whole[:40],
        "all but one byte": whole[:-1],
        "zeros": bytes(64),
        "an endless number": b"\xff" * 40,
        "a field that claims too much": b"\x08\x09\x3a\xff\xff\xff\xff\x7f" + whole,
        "a field that claims more than there is": b"\x3a" + b"\xff" * 8 + b"\x7f" + bytes(64),
        "an unknown wire type": b"\x0b" + whole,
        "two graphs": whole + whole,
        "a name that is not UTF-8": whole.replace(b"\x0a\x02h0", b"\x0a\x02h\xff"),
        "two contracts": whole + b"\x72\x16\x0a\x12stateport.contract\x12\x00",
        "a web page": b"<!DOCTYPE html><html></html>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
        "a file of ONNX Runtime": b"\x18\x00\x00\x00ORTM" + bytes(40),
        "a state": State({"h0": np.zeros((1, 1, 10), "float32")}).to_bytes(),
        "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(40),
        "a zip archive that is cut off": b"PK\x03\x04" + bytes(40),
        "a pickle": b"\x80\x02" + bytes(40),
        "no contract": model_bytes(None),
    } | weights()


def weights() -> dict[str, bytes]:
    """Files with a weight that is refused."""
    metadata = {CONTRACT_KEY: json.dumps(LSTM)}

    def of(*tensors: TensorProto) -> bytes:
        graph = helper.make_graph([], "graph", [], [], initializer=tensors)
        opsets = [helper.make_opsetid("", 20)]
        model = helper.make_model(graph, ir_version=9, opset_imports=opsets)
        helper.set_model_props(model, metadata)
        return bytes(model.SerializeToString())

    def weight(name: str, *shape: int, **external: str) -> TensorProto:
        entries = [StringStringEntryProto(key=key, value=text) for key, text in external.items()]
        return TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=shape, external_data=entries
        )

    graph = b""
    for _ in range(40):  # GraphProto.node, NodeProto.attribute, AttributeProto.g
        for number in (6, 5, 1):
            graph = _field(number, graph)
    return {
        "a weight of 33 dimensions": of(weight("w", *[1] * 33)),
        "a weight of a negative size": of(weight("w", -1)),
        "a weight that is too large": of(weight("w", 1 << 40, 1 << 40)),
        "an offset that is no number": of(weight("w", 4, location="w.bin", offset="x")),
        "first values that are not in the file": of(weight("stateport.initial.h0", 1, 1, 4)),
        "first values twice": of(*[weight("stateport.initial.h0", 0)] * 2),
        "first values that are too large": of(weight("stateport.initial.h0", 1 << 30)),
        "graphs that are nested too deeply": b"\x08\x09" + _field(7, graph),
    }


def _field(number: int, content: bytes) -> bytes:
    """A field of Protocol Buffers: its number, the length, the content."""
    length, rest = b"", len(content)
    while rest >= 0x80:
        length += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content


def changed(*keys: Any, to: Any) -> str:
    """The text of `LSTM` with another value at one place."""
    document = copy.deepcopy(LSTM)
    entry: Any = document
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = to
    return json.dumps(document)


def contracts() -> dict[str, str]:
    """Texts of contracts that are refused, by what is wrong; the graph is that of `LSTM`."""
    return {
        "a contract of a later version": changed("version", to=2),
        "a version that is text": changed("version", to="1"),
        "a contract with a key twice": json.dumps(LSTM)[:-1] + ', "version": 1}',
        "a contract that is nested too deeply": "[" * 70 + "]" * 70,
        "a state that starts from elsewhere": changed("states", 0, "initial", to="ones"),
        "first values that are not there": changed("states", 0, "initial", to="file"),
        "an input that the graph lacks": changed("inputs", to=[*LSTM["inputs"], _N]),
        "an output that the contract lacks": changed("outputs", to=[]),
        "another name than the graph": changed("inputs", 0, "name", to="signal"),
        "another dtype than the graph": changed("inputs", 0, "dtype", to="float16"),
        "another size than the graph": changed("inputs", 0, "shape", to=["batch", "time", 6]),
    }


def contracts_by_hand() -> dict[str, str]:
    """Texts that no program writes, by what is wrong: JavaScript has one sentence for them all."""
    return {
        "an unknown dtype": changed("inputs", 0, "dtype", to="bfloat16"),
        "an input without a name": changed("inputs", 0, "name", to=""),
        "an input twice": changed("states", 0, "input", to="x"),
        "an input that is an output": changed("states", 0, "output", to="x"),
        "a negative size": changed("inputs", 0, "shape", to=["batch", "time", -5]),
        "no shape": changed("inputs", 0, "shape", to=5),
        "33 dimensions": changed("inputs", 0, "shape", to=[1] * 33),
        "inputs that are no list": changed("inputs", to={}),
        "an input that is no object": changed("inputs", 0, to=[1, "two", None, True, {}]),
        "lengths along no axis": changed("inputs", 0, "lengths_of", to="room"),
        "lengths that are no integers": changed("inputs", 0, "lengths_of", to="time"),
        "a limit of nothing": changed("limits", to={"time": 0}),
        "a limit of no axis": changed("limits", to={"room": 3}),
        "a limit that is text": changed("limits", to={"time": "3"}),
        "streaming that is a number": changed("streaming", to={"ok": 1}),
        "a multiple of nothing": changed("streaming", to={"ok": True, "multiple": 0}),
        "no reason": changed("streaming", to={"ok": False}),
        "nothing about streaming": changed("streaming", to=None),
        "a state that is too large": changed("states", 0, "shape", to=[1 << 28, "batch", 1]),
        "a name that is too long": changed("states", 0, "output", to="a\nb'c" + "n" * 2000),
    }


def saved() -> dict[str, bytes]:
    """Contents that are no saved state, by what is wrong with them."""

    def safe(document: Any, nbytes: int = 8) -> bytes:
        text = json.dumps(document).encode()
        return len(text).to_bytes(8, "little") + text + bytes(nbytes)

    state = State({"h0": np.zeros((1, 1, 10), "float32")}).to_bytes()
    marked = {"__metadata__": {"stateport.state": "1"}}
    entry = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    return {
        "cut off": state[:-1],
        "too long": state + b"1",
        "a header that claims too much": (1 << 40).to_bytes(8, "little"),
        "no state": safetensors.numpy.save({"h0": np.zeros(2, "float32")}),
        "a dtype that NumPy has not": safe({**marked, "h": {**entry, "dtype": "BF16"}}),
        "a dtype that is a number": safe({**marked, "h": {**entry, "dtype": 3}}),
        "a list": safe([]),
        "a number for an array": safe({**marked, "h": 3}),
        "a negative size": safe({**marked, "h": {**entry, "shape": [1, -2]}}),
        "a gap": safe({**marked, "h": {**entry, "data_offsets": [4, 12]}}, 12),
        "too few bytes": safe({**marked, "h": {**entry, "data_offsets": [0, 4]}}),
        "metadata that are no texts": safe({"__metadata__": {"stateport.state": 1}, "h": entry}),
        "33 dimensions": safe({**marked, "h": {**entry, "shape": [1] * 33}}),
    }


def _refusal(call: Callable[[], object]) -> dict[str, str]:
    try:
        call()
    except StateportError as error:
        return {"error": type(error).__name__, "message": str(error)}
    raise AssertionError("it is not refused")


def entries() -> Iterator[dict[str, Any]]:
    """The cases with what Python says to each."""
    for name, contract, what, given, state in CALLS:
        case = {"name": name, "contract": contract, "call": what, "given": given, "state": state}
        made = Contract.from_document(CONTRACTS[contract])
        yield _translated(case | _refusal(lambda: _call(made, what, given, state)))  # noqa: B023


def file_entries() -> Iterator[dict[str, Any]]:
    """The files with what Python says to each; `m.onnx` stands for the path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        for name, content in files().items():
            path.write_bytes(content)
            refusal = _refusal(lambda: read_contract(read(path)))
            refusal["message"] = refusal["message"].replace(str(path), "m.onnx")
            yield {"name": name, "hex": content.hex(), **refusal}


def contract_entries() -> Iterator[dict[str, Any]]:
    """The texts of contracts with what Python says to each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        for name, text in (contracts() | contracts_by_hand()).items():
            path.write_bytes(model_bytes(text))
            refusal = _refusal(lambda: read_contract(read(path)))
            refusal["message"] = refusal["message"].replace(str(path), "m.onnx")
            yield {"name": name, "text": text, "by_hand": name not in contracts(), **refusal}


def saved_entries() -> Iterator[dict[str, Any]]:
    """The contents that are no state with what Python says to each."""
    for name, content in saved().items():
        refusal = _refusal(lambda: State.from_bytes(content))  # noqa: B023
        yield {"name": name, "hex": content.hex(), **refusal}


def _translated(case: dict[str, Any]) -> dict[str, Any]:
    text = case["message"]
    for python, javascript in TRANSLATIONS.items():
        text = text.replace(python, javascript)
    return case if text == case["message"] else {**case, "javascript": text}


def state_entries() -> Iterator[dict[str, Any]]:
    """States with the content of the file that Python saves."""
    dtypes = sorted(DTYPES)
    for arrays in (
        STATE,
        {f"{number} {dtype}": array(dtype, 1, 2, fill=1) for number, dtype in enumerate(dtypes)},
        {dtype: array(dtype, 3, 0, 2) for dtype in dtypes},
        # Names in the order of their code points, which is not that of UTF-16.
        {name: array("int8", fill=-1) for name in ("\U0001f600", "\uffee", "é", "10", "9", "a")},
        {name: array("float16", 2, fill=1) for name in ('\x1f"\\\n', "\x7f\u2028", "__proto__")},
        {},
    ):
        yield {"arrays": arrays, "hex": State(_read(arrays)).to_bytes().hex()}


def table() -> str:
    """The content of `messages.json`."""
    document = {
        "contracts": CONTRACTS,
        "calls": [*entries()],
        "files": [*file_entries()],
        "graph": model_bytes(None).hex(),
        "late file": model_bytes({**LSTM, "version": 2}).hex(),
        "broken contracts": [*contract_entries()],
        "broken states": [*saved_entries()],
        "states": [*state_entries()],
    }
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")

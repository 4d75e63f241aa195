"""The messages for wrong inputs, states and files, and saved states: one table for two languages.

`python -m tests.javascript.messages` writes `messages.json`. tests/runtime/test_messages.py and
javascript/tests/messages.test.ts refuse the same inputs, write the same states, and compare both.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

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
    ("too few dimensions", "lstm", "run", {"x": array("float32", 3, 5)}, None),
    ("no dimensions", "lstm", "run", {"x": array("float32")}, None),
    ("too many dimensions", "lstm", "run", {"x": array("float32", 1, 2, 3, 5)}, None),
    ("a wrong fixed size", "lstm", "run", {"x": array("float32", 2, 3, 6)}, None),
    ("no rows", "lstm", "run", {"x": array("float32", 0, 3, 5)}, None),
    ("no steps", "lstm", "run", {"x": array("float32", 2, 0, 5)}, None),
    ("nothing for an array", "lstm", "run", {"x": None}, None),
    ("no inputs", "lstm", "run", {}, None),
    ("nothing for inputs", "lstm", "run", None, None),
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
    if what == "go on":
        _, unfinished = model.run(_read(given))
        return model.run(_read(given), unfinished)
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
    state = {**LSTM["states"][0], "initial": "file"}
    return {
        "an empty file": b"",
        "text": b"hello, this is no model",
        "the first half": whole[: len(whole) // 2],
        "all but one byte": whole[:-1],
        "an endless number": b"\xff" * 40,
        "a field that claims too much": b"\x08\x09\x3a\xff\xff\xff\xff\x7f" + whole,
        "an unknown wire type": b"\x0b" + whole,
        "two graphs": whole + whole,
        "a name that is not UTF-8": whole.replace(b"\x0a\x02h0", b"\x0a\x02h\xff"),
        "two contracts": whole + b"\x72\x16\x0a\x12stateport.contract\x12\x00",
        "no contract": model_bytes(None),
        "a contract of a later version": model_bytes({**LSTM, "version": 2}),
        "a state that starts from elsewhere": model_bytes(
            {**LSTM, "states": [{**state, "initial": "ones"}, LSTM["states"][1]]}
        ),
        "first values that are not there": model_bytes(
            {**LSTM, "states": [state, LSTM["states"][1]]}
        ),
        "an input that the graph lacks": model_bytes({**LSTM, "inputs": [*LSTM["inputs"], _N]}),
        "an output that the contract lacks": model_bytes({**LSTM, "outputs": []}),
        "another dtype than the graph": model_bytes(
            {**LSTM, "inputs": [{**LSTM["inputs"][0], "dtype": "float16"}]}
        ),
        "another size than the graph": model_bytes(
            {**LSTM, "inputs": [{**LSTM["inputs"][0], "shape": ["batch", "time", 6]}]}
        ),
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
        "states": [*state_entries()],
    }
    return json.dumps(document, indent=1) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")

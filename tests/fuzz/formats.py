"""Every format that is read: valid files, ways to spoil them, and the reader."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import stateport
from stateport import ArraySpec, Contract, State, StateSpec
from stateport.cli.inspect import _document
from stateport.contract import CONTRACT_KEY, INITIAL_PREFIX, ORIGIN_KEY, resolve
from stateport.engines.choice import EngineChoice
from stateport.errors import ContractError
from stateport.files.reading import read_npy, read_npz
from stateport.model_file.onnx_outline import read
from stateport.model_file.read_contract import find_contract
from stateport.parity.baseline import read_baseline, regressions
from stateport.parity.engine_report import EngineReport, measure_model
from stateport.parity.handover import handover_case
from stateport.parity.matrix import EngineVerdict, Matrix
from stateport.parity.recordings.fitting import fit
from stateport.parity.recordings.reading import read_recordings
from stateport.parity.reports.document import render
from stateport.parity.vectors import VECTORS_KEY, Case, Trace, Vectors
from stateport.plan import Plan
from stateport.pool_file import load_streams, save_streams
from stateport.validation import check_state
from stateport_exporter import Spec
from stateport_exporter.network.weights import load_weights

from .mutations import documents, field, messages, mutated, numbers, texts, varint

#: What recorded data has to fit.
RECORDED = Contract(
    (ArraySpec("x", "float32", ("batch", "time", 2)),),
    (ArraySpec("y", "int64", ("batch", "time")),),
)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        ending: what its files are called.
        contents: the contents of files that are almost right.
        use: reads the file at a path and does what is done with what is read.
    """

    ending: str
    contents: st.SearchStrategy[bytes]
    use: Callable[[Path], object]


CONTRACT = Contract(
    inputs=(
        ArraySpec("x", "float32", ("batch", "time", 2)),
        ArraySpec("n", "int64", ("batch",), lengths_of="time"),
    ),
    outputs=(ArraySpec("y", "float32", ("batch", "time", 2)), ArraySpec("m", "int64", ("batch",))),
    states=(StateSpec("h0", "hn", "float32", ("batch", 1, 2), "file"),),
)


@cache
def model_bytes() -> bytes:
    """y = x + h0, hn = h0 / 2, m = n: a file with a contract, an origin and a first state."""
    weight = numpy_helper.from_array(np.full((1, 1, 2), 0.25, np.float32), f"{INITIAL_PREFIX}h0")
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    nodes = [
        helper.make_node("Add", ["x", "h0"], ["y"]),
        helper.make_node("Mul", ["h0", "half"], ["hn"]),
        helper.make_node("Identity", ["n"], ["m"]),
    ]
    taken, given = (
        [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape
            )
            for spec in specs
        ]
        for specs in (
            (*CONTRACT.inputs, *CONTRACT.state_inputs),
            (*CONTRACT.outputs, *CONTRACT.state_outputs),
        )
    )
    graph = helper.make_graph(nodes, "g", taken, given, [weight, half])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {CONTRACT_KEY: CONTRACT.to_json(), ORIGIN_KEY: '{"from": "a"}'})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def files(folder: Path) -> None:
    """What stands beside the files that are read: the model, weights, a link out of the folder."""
    (folder / "good.onnx").write_bytes(model_bytes())
    (folder / "w.bin").write_bytes(bytes(64))
    (folder / "link.bin").symlink_to("/etc/passwd")
    with (folder / "large.bin").open("wb") as file:
        file.truncate(3 << 30)  # a hole: it takes no room


def headed(header: str, data: bytes) -> bytes:
    """A safetensors file."""
    content = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content + data


def spoilt_safetensors(seeds: Sequence[bytes], key: str | None = None) -> st.SearchStrategy[bytes]:
    """Files with other bytes, with another header, or with another text in their metadata."""
    parts = [
        (json.loads(s[8 : 8 + (n := struct.unpack("<Q", s[:8])[0])]), s[8 + n :]) for s in seeds
    ]
    headers = st.sampled_from(parts).flatmap(
        lambda part: documents([part[0]]).map(lambda text: headed(text, part[1]))
    )
    choices = [mutated(seeds), headers]
    if key is not None:

        def with_text(part: tuple[Any, bytes]) -> st.SearchStrategy[bytes]:
            header, data = part
            return documents([json.loads(header["__metadata__"][key])]).map(
                lambda text: headed(json.dumps({**header, "__metadata__": {key: text}}), data)
            )

        choices += [st.sampled_from(parts).flatmap(with_text)] * 2
    return st.one_of(choices)


# ONNX: field numbers are those of onnx.proto.
_SCHEMA = {
    "model": {
        1: "int",
        2: "text",
        7: "graph",
        8: "opset",
        14: "entry",
        20: "graph",
        25: "function",
    },
    "opset": {1: "text", 2: "int"},
    "entry": {1: "text", 2: "text"},
    "function": {1: "text", 7: "node"},
    "graph": {1: "node", 2: "text", 5: "tensor", 11: "value", 12: "value", 15: "sparse"},
    "node": {1: "text", 2: "text", 4: "text", 5: "attribute", 7: "text"},
    "attribute": {
        1: "text",
        3: "int",
        5: "tensor",
        6: "graph",
        11: "graph",
        20: "int",
        22: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor", 3: "int"},
    "tensor": {1: "int", 2: "int", 8: "text", 9: "text", 13: "external", 14: "int"},
    "value": {1: "text", 2: "type"},
    "type": {1: "array", 4: "array"},
    "array": {1: "int", 2: "shape"},
    "shape": {1: "axis"},
    "axis": {1: "int", 2: "text"},
    "external": {1: "text", 2: "text"},
}

#: Of an offset or a length; the second last is a number in other digits.
_NUMBERS_AS_TEXT = ["0", "8", "64", "-5", "abc", "9" * 40, "9" * 18, str(2**62), "\uff11", "1_0"]
_LOCATIONS = ["w.bin", "large.bin", "link.bin", "../w.bin", "/etc/passwd", "", "a\0", "b" * 300]


@st.composite
def first_states(draw: st.DrawFn) -> bytes:
    """The model, with further weights that lie beside it, some of them first states."""
    tensors = b""
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([f"{INITIAL_PREFIX}h0", f"{INITIAL_PREFIX}c0", "w"]))
        dims = draw(st.lists(numbers, max_size=4))
        places = {
            "location": draw(st.sampled_from(_LOCATIONS)),
            "offset": draw(st.sampled_from(_NUMBERS_AS_TEXT)),
            "length": draw(st.sampled_from(_NUMBERS_AS_TEXT)),
        }
        keys = draw(st.lists(st.sampled_from(sorted(places)), max_size=4))
        tensors += field(
            5,
            b"".join(varint(8) + varint(size % 2**64) for size in dims)
            + varint(16)
            + varint(draw(st.integers(0, 24)))
            + field(8, name.encode())
            + b"".join(
                field(13, field(1, key.encode()) + field(2, places[key].encode())) for key in keys
            ),
        )
    # Of a message that comes twice, the parts are joined; so the graph gets more weights.
    model = onnx.ModelProto.FromString(model_bytes())
    graph = model.graph.SerializeToString() + tensors
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + field(7, graph)


def use_onnx(path: Path) -> None:
    file = read(path)
    contract = None
    try:
        contract = find_contract(file)
    except ContractError:
        if CONTRACT_KEY in file.metadata:
            raise
    json.dumps(_document(file, contract))


def use_contract(path: Path) -> None:
    contract = Contract.from_json(path.read_bytes().decode(errors="replace"))
    assert Contract.from_json(contract.to_json()) == contract
    sizes = {axis: 3 for axis in contract.axes if axis.isidentifier()}
    for spec in contract.outputs:
        with contextlib.suppress(KeyError):  # no size is known; the engine says
            resolve(spec.shape, sizes)
    str(contract)


@cache
def vectors_of_the_model() -> Vectors:
    """A whole sequence, and one in chunks."""
    x = np.arange(16, dtype=np.float32).reshape(2, 4, 2) / 8
    h = np.full((2, 1, 2), 0.5, np.float32)

    def case(name: str, through: str, chunks: tuple[int, ...]) -> Case:
        n = np.ones((len(chunks), 2), np.int64)
        halves = [h / 2**k for k in range(len(chunks) + 1)]
        y = np.concatenate([x[:, i : i + 1] + halves[0] for i in range(4)], 1)
        start = 0
        for number, chunk in enumerate(chunks):
            y[:, start : start + chunk] = x[:, start : start + chunk] + halves[number]
            start += chunk
        truth = {
            "y": np.moveaxis(y.astype(np.float64), 1, 0).reshape(4, 4),
            "m": n,
            "hn": np.stack(halves[1:]).reshape(len(chunks), 4).astype(np.float64),
        }
        return Case(name, through, {"batch": 2}, chunks, {"x": x, "n": n}, {"h0": h}, truth)

    return Vectors(
        contract=CONTRACT,
        truth="float64",
        floor={name: np.full(4, 1e-7) for name in ("y", "m", "hn")},
        cases=(case("whole", "model", (4,)), case("chunks", "stream", (1, 2, 1))),
        made_with={"torch": "2.0"},
        trace=Trace("whole", {"a": ("y",)}, {"y": np.zeros((2, 4, 2))}),
    )


def saved(save: Callable[[Path], object]) -> bytes:
    """The bytes that are written to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        save(path)
        return path.read_bytes()


@cache
def model() -> stateport.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model_bytes())
        return stateport.load(path)


def use_vectors(path: Path) -> EngineReport:
    vectors = Vectors.load(path)
    handover_case(vectors)
    report = measure_model(model(), vectors)
    render(Matrix("m", (EngineVerdict(EngineChoice("ort-cpu"), report),)))
    # An error in the vectors is reported as one of the vectors, not of the engine.
    problems = [m.problem for m in report.measurements if m.problem is not None]
    assert not problems, problems
    return report


def spoilt_vectors() -> st.SearchStrategy[bytes]:
    seed = saved(vectors_of_the_model().save)
    arrays = safetensors.numpy.load(seed)
    length = struct.unpack("<Q", seed[:8])[0]
    metadata = json.loads(seed[8 : 8 + length])["__metadata__"]

    @st.composite
    def other_arrays(draw: st.DrawFn) -> bytes:
        changed = dict(arrays)
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.sampled_from(sorted(arrays)))
            other = draw(st.sampled_from(sorted(arrays)))
            action = draw(st.integers(0, 6))
            if action == 0:
                changed.pop(name, None)
            elif action == 1:
                changed[f"0/kept/{draw(st.sampled_from(['y', 'hn', 'm', 'z']))}"] = np.array(
                    draw(st.lists(st.integers(-5, 5), max_size=5)), np.int64
                )
            elif action == 2:
                changed[name] = arrays[other]
            elif action == 3:
                dtype = draw(st.sampled_from(["float16", "float64", "int8", "bool", "uint64"]))
                changed[name] = arrays[name].astype(dtype)
            elif action == 4:
                shape = draw(st.lists(st.integers(0, 3), max_size=4))
                changed[name] = np.zeros(shape, arrays[name].dtype)
            else:
                value = draw(st.sampled_from([0, 1, np.nan, np.inf, -1, 1e30, 5, 2**40]))
                array = changed[name] = arrays[name].astype(np.float64)
                array.flat[: draw(st.integers(1, 9))] = value
                with np.errstate(all="ignore"):
                    changed[name] = np.nan_to_num(array).astype(arrays[name].dtype)
                if arrays[name].dtype.kind == "f":
                    changed[name] = array.astype(arrays[name].dtype)
        return safetensors.numpy.save(changed, metadata)

    return st.one_of(other_arrays(), spoilt_safetensors([seed], VECTORS_KEY))


def use_state(path: Path) -> None:
    state = State.load(path)
    repr(state)
    check_state(CONTRACT, state, {"batch": 2})


def use_plan(path: Path) -> None:
    plan = Plan.load(path)
    plan.files(path.parent / "good.onnx", path)


def plans() -> list[Any]:
    digest = hashlib.sha256(model_bytes()).hexdigest()
    file = {"name": "good.onnx", "sha256": digest}
    return [
        {"version": 1, "model": digest, "engine": "ort-cpu", "threads": 1, "options": {"a": 1}},
        {"version": 1, "model": digest, "engine": "a", "threads": 2, "whole": file, "step": file},
    ]


@cache
def matrix() -> Matrix:
    report = measure_model(model(), vectors_of_the_model())
    return Matrix("m", (EngineVerdict(EngineChoice("ort-cpu"), report),))


def use_baseline(path: Path) -> None:
    regressions(matrix(), read_baseline(path))


def npys() -> list[bytes]:
    arrays: list[Any] = [
        *(
            np.zeros((2, 3), dtype)
            for dtype in ("f4", "f8", "i8", "?", ">f4", "c8", "U3", "M8[ns]")
        ),
        *(np.zeros(0), np.array(1), np.zeros(2, "f4,i4"), np.asfortranarray(np.ones((2, 3)))),
    ]
    contents = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array)
        contents.append(buffer.getvalue())
    return contents


_LITERALS = [
    *("'<f4'", "'>i8'", "'O'", "'U9'", "'V9'", "'(9,9,9)f4'", "[('a', '<f4')]", f"'{'f4,' * 99}'"),
    *("()", "(2,)", "(-1,)", "(2, 3)", "(10**12,)", "(9999999999999,)", "(1,) * 9", "(0777,)"),
    *("True", "False", "None", "1", "1L", "1+1j", "1 is 1", "{}", "b''", '"', "\\", "\0"),
    *("(" * 500, "[" * 100 + "]" * 100, "-" * 3000 + "1", f"({'1,' * 70})", "x" * 99),
]  # fmt: skip


@st.composite
def headed_npy(draw: st.DrawFn) -> bytes:
    """A .npy file whose header has anything where a dtype, an order and a shape stand."""
    literals = st.sampled_from(_LITERALS)
    parts = [draw(literals) for _ in range(3)]
    header = "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}\n".format(*parts).encode()
    version = draw(st.sampled_from([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)]))
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    if draw(st.integers(0, 9)) == 0:
        size = draw(st.binary(min_size=2, max_size=4))
    return b"\x93NUMPY" + bytes(version) + size + header + draw(st.binary(max_size=32))


def npzs() -> list[bytes]:
    contents = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=np.zeros((1, 4, 2), np.float32), y=np.arange(4).reshape(1, 4))
        contents.append(buffer.getvalue())
    return contents


@st.composite
def reheaded_npz(draw: st.DrawFn) -> bytes:
    """A whole archive, with any header in its arrays, and names and parts that do not belong."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in draw(st.lists(st.sampled_from(["x.npy", "y.npy", "z.txt", "../x.npy"]))):
            content = draw(st.one_of(headed_npy(), st.binary(max_size=50)))
            with contextlib.suppress(Warning):  # of two parts with one name
                archive.writestr(name, content, draw(st.sampled_from([0, 8, 12, 14])))
    return buffer.getvalue()


def use_npz(path: Path) -> None:
    read_npz(path)
    for recording in read_recordings(path, RECORDED).recordings:
        fit(recording, RECORDED)


def use_pool(path: Path) -> None:
    load_streams(path)


def use_npy(path: Path) -> None:
    read_npy(path)
    Spec.parse(f"{path}[batch,time]")


@cache
def network() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


def torch_files() -> list[bytes]:
    contents = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(network().state_dict(), buffer, _use_new_zipfile_serialization=zipped)
        contents.append(buffer.getvalue())
    return contents


@st.composite
def rezipped(draw: st.DrawFn, seed: bytes) -> bytes:
    """PyTorch's file with another pickle in it, or other parts, that is a whole archive again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(seed)) as old, zipfile.ZipFile(buffer, "w") as new:
        for part in old.infolist():
            content = old.read(part)
            if part.filename.endswith(".pkl") or draw(st.integers(0, 19)) == 0:
                content = draw(mutated([content]))
            if draw(st.integers(0, 49)):
                new.writestr(part.filename, content, draw(st.sampled_from([0, 0, 0, 0, 8])))
    return buffer.getvalue()


def use_weights(path: Path) -> None:
    load_weights(network(), path)


def as_bytes(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return strategy.map(lambda text: text.encode("utf-8", "surrogatepass"))


def spoilt_json(seeds: Sequence[Any]) -> st.SearchStrategy[bytes]:
    dumped = [json.dumps(seed).encode() for seed in seeds]
    return st.one_of(as_bytes(documents(seeds)), as_bytes(documents(seeds)), mutated(dumped))


@st.composite
def specs(draw: st.DrawFn) -> str:
    """What --example says."""
    what = draw(st.sampled_from(["float32", "int64", "x.npy", "good.onnx", "__class__"]) | texts)
    axes = draw(st.lists(numbers.map(str) | texts | st.just("9" * 5000), max_size=40))
    limits = draw(
        st.sampled_from(["", ":0..9", ":-5..5", f":0..{'9' * 5000}", ":1..0", ":", ":a..b"])
    )
    return f"{what}[{','.join(axes)}]{limits}"


def use_spec(path: Path) -> None:
    Spec.parse(path.read_bytes().decode("utf-8", "surrogatepass"))


def all_formats() -> dict[str, Format]:
    """Every format by its name."""
    state = saved(State({"h0": np.zeros((2, 1, 2), np.float32)}).save)
    streams = np.array([3, 4])
    pool = saved(lambda path: save_streams(path, streams, State({"h0": np.zeros((1, 2, 3))})))
    linear = safetensors.torch.save(network().state_dict())
    report = json.loads(render(matrix()))
    zipped, old = torch_files()
    head = varint(8) + varint(10) + field(8, varint(16) + varint(20))
    graphs = messages(_SCHEMA, "graph").map(lambda graph: head + field(7, graph))
    models = st.one_of(mutated([model_bytes()]), graphs, messages(_SCHEMA, "model"), first_states())
    pickles = st.one_of(mutated([zipped, old]), rezipped(zipped))
    return {
        "onnx": Format("onnx", models, use_onnx),
        "contract": Format("json", spoilt_json([json.loads(CONTRACT.to_json())]), use_contract),
        "vectors": Format("safetensors", spoilt_vectors(), use_vectors),
        "state": Format("safetensors", spoilt_safetensors([state]), use_state),
        "plan": Format("json", spoilt_json(plans()), use_plan),
        "baseline": Format("json", spoilt_json([report]), use_baseline),
        "npy": Format("npy", st.one_of(mutated(npys()), headed_npy()), use_npy),
        "npz": Format("npz", st.one_of(mutated(npzs()), reheaded_npz()), use_npz),
        "pool": Format("safetensors", spoilt_safetensors([pool]), use_pool),
        "safetensors-weights": Format("safetensors", spoilt_safetensors([linear]), use_weights),
        "torch-weights": Format("pt", pickles, use_weights),
        "spec": Format("txt", as_bytes(specs()), use_spec),
    }

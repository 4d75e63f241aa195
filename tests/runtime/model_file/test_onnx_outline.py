"""The reader of ONNX files: the same as the `onnx` package says, and no file that breaks it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import stateport
from stateport import ContractError, EngineError, FileError, StateportError
from stateport.model_file.onnx_outline import OnnxFile, read

VARIANTS = [
    {},
    {"opset": 18},
    {"opset": 25},
    {"num_layers": 3, "bidirectional": True, "proj_size": 4},
    {"bias": False, "batch_first": False},
]


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
def test_the_outline_of_an_exported_file_is_what_onnx_says(
    exported: Callable[..., Path], arguments: dict[str, object]
) -> None:
    path = exported(**arguments)
    agree(read(path), onnx.load(path))


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_the_operators_of_subgraphs_count(tmp_path: Path, kind: str) -> None:
    model = with_subgraphs(kind)
    path = tmp_path / "nested.onnx"
    onnx.save(model, path)
    outline = read(path)
    agree(outline, model)
    assert outline.operators["Add"] == 2
    assert outline.operators["tests::Own"] == 1


def test_functions_and_other_domains_count(tmp_path: Path) -> None:
    function = helper.make_function(
        "tests", "Own", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], OPSETS
    )
    model = with_subgraphs("If")
    model.functions.append(function)
    path = tmp_path / "functions.onnx"
    onnx.save(model, path)
    assert read(path).operators["Relu"] == 1


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_the_sizes_of_weights(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    model = identity(array)
    path = tmp_path / "weights.onnx"
    onnx.save(model, path)
    (weight,) = read(path).weights
    assert (weight.name, weight.dtype, weight.shape) == ("w", dtype, shape)
    assert (weight.nbytes, weight.external) == (array.nbytes, None)


def test_weights_that_are_inputs_too_are_no_inputs(tmp_path: Path) -> None:
    model = identity(np.zeros(3, np.float32))
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [3]))
    onnx.save(model, tmp_path / "old.onnx")
    assert read(tmp_path / "old.onnx").inputs == ()


def test_weights_outside_the_file_are_found_and_run(reference: Path, tmp_path: Path) -> None:
    path = external(reference, tmp_path)
    outline = read(path)
    assert outline.external_files == ("w.bin",)
    assert {w.external for w in outline.weights if w.nbytes > 64} == {"w.bin"}
    agree(outline, onnx.load(path, load_external_data=False))
    x = np.random.default_rng(0).standard_normal((2, 3, 5), np.float32)
    expected, _ = stateport.load(reference)(x)
    y, _ = stateport.load(path)(x)
    np.testing.assert_array_equal(y, expected)


def test_a_link_to_a_model_with_its_weights_runs(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    external(reference, folder)
    link = tmp_path / "link.onnx"
    link.symlink_to(folder / "model.onnx")
    y, _ = stateport.load(link)(np.zeros((1, 1, 5), np.float32))
    assert np.shape(y) == (1, 1, 10)


def test_weights_that_are_not_there_are_refused(reference: Path, tmp_path: Path) -> None:
    path = external(reference, tmp_path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(FileError, match=r"keeps weights in 'w.bin', which is not there"):
        stateport.load(path)


@pytest.mark.parametrize("length", [0, 10])
def test_weights_that_are_cut_off_are_refused(reference: Path, tmp_path: Path, length: int) -> None:
    path = external(reference, tmp_path)
    weights = tmp_path / "w.bin"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises((FileError, EngineError)):
        stateport.load(path)


@pytest.mark.parametrize("place", ["../w.bin", "{folder}/w.bin", "sub/../../w.bin", "link.bin"])
def test_weights_outside_the_files_folder_are_refused(
    reference: Path, tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    path = external(reference, folder)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "sub").mkdir()
    relocate(path, place.format(folder=tmp_path))
    with pytest.raises(FileError, match="lies outside its own folder"):
        stateport.load(path)


@pytest.mark.parametrize("place", ["", ".", "w\0.bin", "w" * 5000, "loop.bin", "none/w.bin", "sub"])
def test_weights_in_an_impossible_place_are_refused(
    reference: Path, tmp_path: Path, place: str
) -> None:
    path = external(reference, tmp_path)
    (tmp_path / "loop.bin").symlink_to(tmp_path / "loop.bin")
    (tmp_path / "sub").mkdir()
    relocate(path, place)
    with pytest.raises(FileError):
        stateport.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"import torch\n" * 20,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)),
        b"PK\x03\x04" + bytes(64),
        bytes(1000),
        b"\xff" * 1000,
        b"\x08\x0a",  # an IR version and nothing else
    ],
    ids=["empty", "zero", "text", "png", "zip", "zeros", "ones", "version"],
)
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"is empty|is not a whole ONNX file|is a zip archive"):
        read(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a folder"):
        read(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.onnx could not be read: No such file"):
        read(tmp_path / "none.onnx")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"], ids=["long", "null"])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(FileError):
        read(Path(name))


def test_graphs_that_are_nested_without_end_are_refused(tmp_path: Path) -> None:
    content = b""
    for _ in range(200):  # graph { node { attribute { g: <the graph before> } } }
        content = field(1, field(5, field(6, content)))
    (tmp_path / "deep.onnx").write_bytes(b"\x08\x0a" + field(7, content))
    with pytest.raises(FileError, match="nested too deeply"):
        read(tmp_path / "deep.onnx")


def test_every_truncation_is_refused_or_runs(reference: Path, tmp_path: Path) -> None:
    content = reference.read_bytes()
    path = tmp_path / "cut.onnx"
    for length in np.linspace(0, len(content) - 1, 200, dtype=int):
        path.write_bytes(content[:length])
        survives(path)


@pytest.mark.parametrize("seed", range(4))
def test_every_flipped_bit_is_refused_or_runs(reference: Path, tmp_path: Path, seed: int) -> None:
    random, path = np.random.default_rng(seed), tmp_path / "flipped.onnx"
    for _ in range(60):
        content = bytearray(reference.read_bytes())
        for place in random.integers(len(content), size=random.integers(1, 4)):
            content[place] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        survives(path)


OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("tests", 1)]
FLOAT = onnx.TensorProto.FLOAT


def survives(path: Path) -> None:
    """Loads a damaged file, which must end in an error of ours or in a model that can be called."""
    try:
        model = stateport.load(path)
    except (FileError, ContractError, EngineError):
        return
    with contextlib.suppress(StateportError):  # the damage may have reached the contract's sizes
        model(np.zeros((2, 3, 5), np.float32))


def agree(outline: OnnxFile, model: onnx.ModelProto) -> None:
    assert outline.ir_version == model.ir_version
    assert outline.producer == f"{model.producer_name} {model.producer_version}".strip()
    assert outline.opsets == {o.domain or "ai.onnx": o.version for o in model.opset_import}
    assert outline.metadata == {p.key: p.value for p in model.metadata_props}
    assert outline.operators == Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for node in nodes(model.graph)
    )
    for ours, theirs in (
        (outline.inputs, model.graph.input),
        (outline.outputs, model.graph.output),
    ):
        assert [(s.name, s.dtype, s.shape) for s in ours] == [ports(value) for value in theirs]
    found = {w.name: w for w in outline.weights}
    for tensor in model.graph.initializer:
        weight = found[tensor.name]
        assert weight.shape == tuple(tensor.dims)
        assert weight.dtype == helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        if weight.external is None:
            assert weight.nbytes == numpy_helper.to_array(tensor).nbytes


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def ports(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int | str, ...]]:
    kind = value.type.tensor_type
    shape = tuple(
        d.dim_param or ("?" if not d.HasField("dim_value") else d.dim_value) for d in kind.shape.dim
    )
    return value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape


def with_subgraphs(kind: str) -> onnx.ModelProto:
    """A graph whose only work is done in graphs below it, one of them two levels down."""
    value = helper.make_tensor_value_info
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["r"])], "inner", [], [value("r", FLOAT, [1])]
    )
    branch = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["s"], then_branch=inner, else_branch=inner),
            helper.make_node("Own", ["s"], ["t"], domain="tests"),
        ],
        "branch",
        [],
        [value("t", FLOAT, [1])],
    )
    if kind == "If":
        small = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["t"])], "small", [], [value("t", FLOAT, [1])]
        )
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=small)
    else:
        branch.input.extend(
            [value("i", onnx.TensorProto.INT64, []), value("go", onnx.TensorProto.BOOL, [])]
        )
        branch.output.insert(0, value("go", onnx.TensorProto.BOOL, []))
        node = helper.make_node("Loop", ["n", "c"], ["y"], body=branch)
    graph = helper.make_graph(
        [node],
        "outer",
        [
            value("x", FLOAT, [1]),
            value("c", onnx.TensorProto.BOOL, []),
            value("n", onnx.TensorProto.INT64, []),
        ],
        [value("y", FLOAT, [None, 1])],
    )
    return helper.make_model(graph, opset_imports=OPSETS, producer_name="tests")


def identity(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> onnx.ModelProto:
    """A graph that gives one weight."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "identity",
        [],
        [helper.make_tensor_value_info("y", kind, array.shape)],
        [numpy_helper.from_array(array, "w")],
    )
    return helper.make_model(graph, opset_imports=OPSETS)


def external(source: Path, folder: Path) -> Path:
    """A copy of the model with its weights in `w.bin` beside it."""
    model, path = onnx.load(source), folder / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=64)
    return path


def relocate(path: Path, place: str) -> None:
    """Says that the weights are somewhere else."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    path.write_bytes(model.SerializeToString())


def field(number: int, content: bytes) -> bytes:
    """One field of Protocol Buffers that holds a message."""
    length, size = len(content), bytearray()
    while True:
        length, low = length >> 7, length & 127
        size.append(low | (128 if length else 0))
        if not length:
            return bytes([number << 3 | 2]) + bytes(size) + content

"""Files made of a model's file: quantised ones, and its single step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import stateport
from stateport import precision
from stateport.contract import PRECISION_KEY
from stateport.model_file.onnx_outline import read
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path
from stateport.plan import Plan, PlanFile, sha256
from stateport.tune import Variant
from stateport_exporter import ExportError, Spec, export, quantize
from stateport_exporter.quantize_file import make_variants
from stateport_exporter.variants.quantized_products import LARGEST_INT8
from tests.conftest import Exported
from tests.exporter.stacks import KINDS, exported


class Files(dict[str, Path]):
    """One file of each kind, with its vectors, exported when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __missing__(self, kind: str) -> Path:
        self[kind] = exported(kind, self._folder / f"{len(self)}.onnx")
        return self[kind]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("stacks"))


@pytest.mark.patterns
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, 4])
def test_every_recurrent_and_linear_layer_is_quantised(
    files: Files, tmp_path: Path, kind: str, bits: int
) -> None:
    result = quantize(files[kind], tmp_path / "q.onnx", bits=bits)
    assert all(one.form for one in result.outcomes), result.outcomes
    assert {"head"} <= {one.name for one in result.outcomes}
    assert result.report is not None
    assert result.report.passed
    assert result.report.precision == f"int{bits}"
    assert result.report.steps >= 2048
    before, after = read(files[kind]), read(tmp_path / "q.onnx")
    assert after.metadata[PRECISION_KEY] == f"int{bits}"
    assert after.metadata["stateport.contract"] == before.metadata["stateport.contract"]
    assert not {"LSTM", "GRU", "RNN"} & {*after.operators}
    floats = [w.shape for w in after.weights if w.dtype == "float32" and w.nbytes > 4]
    assert all(max(shape) * 4 >= 4 * np.prod(shape) for shape in floats), "no matrix is left"


class Learned(nn.Module):
    """An LSTM that starts from a learned state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(8, 32, batch_first=True)
        self.first = nn.Parameter(torch.randn(1, 1, 32))

    def forward(self, x: Tensor) -> Tensor:
        first = self.first.expand(-1, x.shape[0], -1).contiguous()
        y: Tensor = self.lstm(x, (first, first))[0]
        return y


def test_first_values_stay_in_every_variant(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    export(Learned(), Spec("float32", "batch", "time", 8), source)
    first = read(source).initial
    assert first

    quantize(source, tmp_path / "q.onnx")
    paths = [tmp_path / "q.onnx"]
    for variant in make_variants(source, tmp_path, reduced=True):
        if isinstance(variant, Variant):
            paths += filter(None, [variant.whole, variant.step])
    assert len(paths) > 3
    for path in paths:
        kept = read(path).initial
        assert kept.keys() == first.keys(), path
        assert all((kept[name] == first[name]).all() for name in first)

    x = np.random.default_rng(0).standard_normal((2, 9, 8), np.float32)
    exact, rounded = stateport.load(source)(x)[0], stateport.load(tmp_path / "q.onnx")(x)[0]
    assert np.abs(exact - rounded).max() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_model_streams_as_it_runs_whole(
    files: Files, tmp_path: Path, kind: str
) -> None:
    quantize(files[kind], tmp_path / "q.onnx")
    model = stateport.load(tmp_path / "q.onnx")
    assert model.precision == "int8"
    x = np.random.default_rng(0).standard_normal((1, 40, 12), np.float32)
    whole, _ = model(x)
    exact, _ = stateport.load(files[kind])(x)
    stream = model.stream()
    steps = np.concatenate([stream(x[:, t : t + 1]) for t in range(40)], axis=1)
    # Each call scales its values again, so that chunks differ in the noise alone.
    assert np.abs(steps - whole).max() < 0.1 * np.abs(whole).max()
    assert 0 < np.abs(whole - exact).max() < 0.1 * np.abs(exact).max()


def test_what_is_not_quantised_is_named_with_the_reason(tmp_path: Path, exported: Exported) -> None:
    from tests.exporter import stacks

    result = quantize(stacks.exported("convolved", tmp_path / "m.onnx"), tmp_path / "q.onnx")
    (conv,) = [one for one in result.outcomes if one.form is None]
    assert (conv.operator, conv.reason) == ("Conv", "Conv is left as it is")
    both = quantize(exported(bidirectional=True), tmp_path / "b.onnx")
    assert [one.form for one in both.outcomes] == ["DynamicQuantizeLSTM"]
    with pytest.raises(ExportError, match=r"nothing that can be quantised.*direction is bidirec"):
        quantize(exported(bidirectional=True), tmp_path / "b4.onnx", bits=4)
    assert not (tmp_path / "b4.onnx").exists()


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_no_int8_weight_can_saturate_a_product(files: Files, tmp_path: Path, kind: str) -> None:
    quantize(files[kind], tmp_path / "q.onnx", check=False)
    stored = onnx.load(tmp_path / "q.onnx").graph.initializer
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in stored]
    largest = max(np.abs(a.astype(int)).max() for a in arrays if a.dtype == np.int8)
    assert largest == LARGEST_INT8


def test_what_cannot_be_quantised_is_refused_and_nothing_is_written(
    files: Files, tmp_path: Path
) -> None:
    quantize(files["GRU"], tmp_path / "q.onnx")
    with pytest.raises(ExportError, match="is in int8 already; a file in float32 was expected"):
        quantize(tmp_path / "q.onnx", tmp_path / "qq.onnx")
    with pytest.raises(ExportError, match="bits is 3; 8 or 4 was expected"):
        quantize(files["GRU"], tmp_path / "qq.onnx", bits=3)
    with pytest.raises(ExportError, match="is the source itself; give the new file another name"):
        quantize(files["GRU"], files["GRU"])
    vectors_path(tmp_path / "q.onnx").unlink()
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(files["GRU"].read_bytes())
    with pytest.raises(ExportError, match=r"no vectors .*alone\.vectors\.safetensors"):
        quantize(alone, tmp_path / "qq.onnx")
    assert not (tmp_path / "qq.onnx").exists()
    assert quantize(alone, tmp_path / "qq.onnx", check=False).report is None


def test_a_file_too_far_from_pytorch_is_not_written(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(precision.BUDGETS, "int8", 90.0)
    with pytest.raises(
        ExportError, match=r"too far from the recorded.* dB above the error at step"
    ):
        quantize(files["LSTM"], tmp_path / "q.onnx")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.patterns
@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_passes_as_a_plan(files: Files, tmp_path: Path, kind: str) -> None:
    vectors = Vectors.load(vectors_path(files[kind]))
    made = list(make_variants(files[kind], tmp_path, reduced=True))
    if kind == "a loop":
        reasons = [variant for variant in made if isinstance(variant, str)]
        assert [reason.partition(":")[0] for reason in reasons] == ["native operators"]
        made.remove(reasons[0])
    assert [v.name for v in made if isinstance(v, Variant)] == [
        "plain step",
        "int8",
        "int8, plain step",
        "step in blocks of 8 bits",
        "step in blocks of 4 bits",
        "float16",
    ]
    for variant in made:
        assert isinstance(variant, Variant)
        whole, step = (None if p is None else PlanFile.of(p) for p in (variant.whole, variant.step))
        place = tmp_path / "plan.json"
        Plan(sha256(files[kind]), "ort-cpu", 1, whole=whole, step=step).save(place)
        model = stateport.load(files[kind], plan=place)
        assert model.precision == variant.precision
        report = measure_model(model, vectors, name=variant.name)
        assert report.passed, variant.name


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_step_has_no_recurrent_operator_and_no_copying_transpose(
    files: Files, tmp_path: Path, kind: str
) -> None:
    made = next(v for v in make_variants(files[kind], tmp_path, reduced=False))
    assert isinstance(made, Variant)
    assert made.step is not None
    operators = read(made.step).operators
    assert not {"LSTM", "GRU", "RNN", "Scan", "Transpose"} & {*operators}, operators
    contract = stateport.load(made.step).contract
    assert contract.inputs[0].shape == ("batch", 1, 12)


def test_a_network_that_is_no_single_step_says_why(exported: Exported, tmp_path: Path) -> None:
    (said,) = make_variants(exported(bidirectional=True), tmp_path, reduced=False)
    assert isinstance(said, str)
    assert "its direction is bidirectional" in said

"""tract, onnx's reference and engines of other distributions: used as any engine is."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import stateport
from stateport import EngineError, EngineUnavailable, InputError, engines
from stateport.engines.choice import EngineChoice
from stateport.parity.engine_report import measure_model
from stateport.parity.matrix import run_matrix
from stateport.parity.vectors import Vectors, vectors_path
from tests.chunks import check_like_ort_cpu
from tests.conftest import Exported
from tests.plugins import install

OTHERS = ("tract", "onnx-reference")
LIBRARIES = {"tract": "tract", "onnx-reference": "onnx.reference"}


@pytest.fixture
def abacus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an engine that another distribution brings."""
    monkeypatch.syspath_prepend(install(tmp_path))
    yield "abacus"
    sys.modules.pop("abacus", None)


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize(
    "arguments", [{}, {"num_layers": 2, "batch_first": False}, {"bidirectional": True}]
)
def test_it_passes_the_verification(
    exported: Exported, engine: str, arguments: dict[str, object]
) -> None:
    path = exported(**arguments)
    report = measure_model(stateport.load(path, engine=engine), Vectors.load(vectors_path(path)))
    assert report.passed
    assert report.engine == engine


@pytest.mark.parametrize("engine", [*OTHERS, "abacus"])
def test_models_streams_and_pools_are_as_on_any_engine(
    reference: Path, engine: str, abacus: str
) -> None:
    check_like_ort_cpu(reference, engine)


@pytest.mark.parametrize("engine", OTHERS)
def test_what_it_has_not_is_refused(reference: Path, engine: str) -> None:
    with pytest.raises(InputError, match=f"{engine} has no option 'turbo'; it takes none"):
        stateport.load(reference, engine=engine, turbo=True)
    with pytest.raises(InputError, match=f"{engine} computes in one thread"):
        stateport.load(reference, engine=engine, threads=2)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_missing_library_is_refused_with_how_to_get_it(
    reference: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARIES[engine], None)
    with pytest.raises(EngineUnavailable, match=rf"pip install 'stateport\[{engine}\]'"):
        stateport.load(reference, engine=engine)
    assert f"stateport[{engine}]" in str(engines.status(engine).problem)


@pytest.mark.parametrize("engine", OTHERS)
def test_a_graph_that_it_refuses_is_an_engine_error(
    counter: Path, tmp_path: Path, engine: str
) -> None:
    path = tmp_path / "unknown.onnx"
    path.write_bytes(counter.read_bytes().replace(b"Gather", b"Gothic"))
    with pytest.raises(EngineError, match=r"Gothic") as refusal:
        stateport.load(path, engine=engine)(np.zeros(1, np.int64))
    assert "\n" not in str(refusal.value)


def test_a_call_that_it_stumbles_over_leaves_the_stream_as_it_was(counter: Path) -> None:
    """tract takes the process down instead: a panic in Rust, that its C interface cannot report."""
    stream = stateport.load(counter, engine="onnx-reference").stream()
    stream(np.array([1], np.int64))
    before = stream.state
    with pytest.raises(EngineError, match="failed"):
        stream(np.array([99], np.int64))
    assert stream.state == before


def test_an_engine_of_another_distribution_is_there_once_it_is_installed(
    reference: Path, abacus: str
) -> None:
    assert abacus in engines.engine_names()
    assert engines.status(abacus) == engines.Status(abacus, "abacus 1.0", None)
    assert stateport.load(reference, engine=abacus).engine_version == "abacus 1.0"


def test_one_that_cannot_be_loaded_says_so(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, name="abacus-broken")
    (tmp_path / "abacus_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineUnavailable, match=r"'abacus-broken'.*a_module_that_is_not_there"):
        stateport.load(reference, engine="abacus-broken")
    assert "a_module_that_is_not_there" in str(engines.status("abacus-broken").problem)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("return answers[:-1]", "gave 2 outputs; 3 were asked for: y, hn, cn"),
        ("return [answers[0][:, :1], *answers[1:]]", r"gave float32\[2, 1, 10\] for 'y'"),
        ("return [a.astype('float64') for a in answers]", r"gave float64\[2, 7, 10\] for 'y'"),
    ],
)
def test_answers_of_the_wrong_kind_are_an_error_in_a_stream(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, says: str
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, run=run, name="abacus-wrong"))
    monkeypatch.delitem(sys.modules, "abacus_wrong", raising=False)
    model = stateport.load(reference, engine="abacus-wrong")
    with pytest.raises(EngineError, match=says):
        model.stream()(np.zeros((2, 7, 5), np.float32))
    if "gave 2 outputs" in says:
        with pytest.raises(EngineError, match=says):
            model(np.zeros((2, 7, 5), np.float32))


def test_a_choice_is_read_and_written_as_people_write_it() -> None:
    choice = EngineChoice.parse("openvino:precision=bf16,streams=2")
    assert choice == EngineChoice("openvino", {"precision": "bf16", "streams": 2})
    assert str(choice) == "openvino:precision=bf16,streams=2"
    assert str(EngineChoice("tract", python="/usr/bin/python3")) == "tract in /usr/bin/python3"
    for text in ("openvino:", "openvino:precision", "openvino:=1", "openvino:a=", ":a=1"):
        with pytest.raises(InputError, match="NAME:OPTION=VALUE"):
            EngineChoice.parse(text)


LIBRARY = """
import onnxruntime

__version__ = "2.0"


class Graph:
    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path)

    def compute(self, name, **inputs):
        return self.session.run([name], inputs)[0]


load = Graph
"""


def test_the_engine_that_the_page_shows_works(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "engines.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (declared,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (group,) = tomllib.loads(declared)["project"]["entry-points"].items()
    (tmp_path / "abacus.py").write_text(LIBRARY)
    (tmp_path / "abacus_stateport.py").write_text(code)
    info = tmp_path / "abacus-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus\nVersion: 2.0\n")
    lines = [f"[{group[0]}]", *(f"{name} = {module}" for name, module in group[1].items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for name in ("abacus", "abacus_stateport"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert engines.status("abacus").version == "abacus 2.0"
    matrix = run_matrix(
        reference, vectors_path(reference), [EngineChoice("abacus"), EngineChoice("ort-cpu")]
    )
    assert matrix.passed
    assert len(matrix.carried) == 2
    monkeypatch.delitem(sys.modules, "abacus", raising=False)
    (tmp_path / "abacus.py").unlink()
    assert "pip install abacus" in str(engines.status("abacus").problem)


def test_the_page_names_every_engine_and_extra() -> None:
    page = (Path(__file__).parents[3] / "docs" / "engines.md").read_text(encoding="utf-8")
    project = tomllib.loads(
        (Path(__file__).parents[3] / "runtime" / "pyproject.toml").read_text(encoding="utf-8")
    )
    others = {"serve", "serve-traces", "data", "ray"}
    engines = set(project["project"]["optional-dependencies"]) - others
    for extra in engines:
        assert f"`stateport[{extra}]`" in page
    for name in ("ort-cpu", "ort-cuda", "openvino", *OTHERS):
        assert f"| `{name}` |" in page

"""The engine `c`: the same as any other engine, and libraries that are kept."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

import stateport
from stateport import EngineError, EngineUnavailable, InputError, engines
from stateport.axes import resolve
from stateport.engines import c_compiler, compiled_c
from stateport.parity.engine_report import measure_model
from stateport.parity.vectors import Vectors, vectors_path
from stateport_exporter import Spec, export
from tests.chunks import check_like_ort_cpu
from tests.conftest import Exported
from tests.exporter.patterns import PATTERNS, seeded


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the libraries of these tests."""
    folder = tmp_path_factory.mktemp("libraries")
    folder.chmod(0o700)
    patch = pytest.MonkeyPatch()
    patch.setenv("STATEPORT_C_CACHE", str(folder))
    yield folder
    patch.undo()


@pytest.mark.parametrize("arguments", [{}, {"num_layers": 2, "batch_first": False}])
def test_it_passes_the_verification(exported: Exported, arguments: dict[str, object]) -> None:
    path = exported(**arguments)
    report = measure_model(stateport.load(path, engine="c"), Vectors.load(vectors_path(path)))
    assert report.passed
    assert report.engine == "c"


def test_models_streams_and_pools_are_as_on_any_engine(reference: Path) -> None:
    check_like_ort_cpu(reference, "c")


def test_sums_in_any_order_are_an_option(reference: Path) -> None:
    x = np.ones((1, 4, 5), np.float32)
    fast, exact = (stateport.load(reference, engine="c", fast=fast) for fast in (True, False))
    np.testing.assert_allclose(fast(x)[0], exact(x)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"turbo": True}, "c has no option 'turbo'; it takes cache, compiler, fast"),
        ({"fast": 1}, "fast is 1; True or False"),
        ({"cache": 1}, "cache is 1; a path"),
        ({"compiler": 1}, "compiler is 1; the name of a program"),
        ({"threads": 2}, "c computes in one thread"),
    ],
)
def test_wrong_options_are_refused(reference: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        stateport.load(reference, engine="c", **options)  # type: ignore[arg-type]


def test_a_missing_compiler_is_refused_with_what_to_do(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_compiler, "_PROGRAMS", ("a-compiler-that-is-not-there",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EngineUnavailable, match=r"needs a C compiler.*STATEPORT_CC=PROGRAM"):
        stateport.load(reference, engine="c")
    assert "needs a C compiler" in str(engines.status("c").problem)
    with pytest.raises(EngineUnavailable, match=r"the compiler /bin/false does not work"):
        stateport.load(reference, engine="c", compiler="/bin/false")


def test_a_missing_generator_is_refused_with_how_to_get_it(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_c, "entry_points", lambda **_: [])
    with pytest.raises(EngineUnavailable, match=r"pip install 'stateport-exporter\[c\]'"):
        stateport.load(reference, engine="c")
    assert not engines.status("c").installed


def test_the_exporter_names_the_generator() -> None:
    (entry,) = importlib.metadata.entry_points(group=compiled_c.GROUP, name="c")
    assert entry.value == "stateport_exporter.emit.generator"


def test_a_library_is_used_again_and_never_beside_the_model(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    before = {*copied.parent.iterdir()}
    stateport.load(copied, engine="c", cache=folder)
    (library,) = folder.iterdir()
    assert {*copied.parent.iterdir()} - before == {folder}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it compiles again")

    monkeypatch.setattr(c_compiler.Compiler, "compile", never)
    stateport.load(copied, engine="c", cache=folder)
    assert [*folder.iterdir()] == [library]
    copied.write_bytes(copied.read_bytes().replace(b"stateport.origin", b"stateport.orygin"))
    with pytest.raises(AssertionError, match="it compiles again"):
        stateport.load(copied, engine="c", cache=folder)
    assert [*folder.iterdir()] == [library]


def test_a_folder_that_others_may_write_to_is_refused(reference: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(EngineError, match="other users may write there"):
        stateport.load(reference, engine="c", cache=tmp_path)


def test_a_folder_that_is_made_belongs_to_the_user_alone(reference: Path, tmp_path: Path) -> None:
    stateport.load(reference, engine="c", cache=tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_damaged_library_is_an_error(reference: Path, tmp_path: Path) -> None:
    stateport.load(reference, engine="c", cache=tmp_path / "good")
    (library,) = (tmp_path / "good").iterdir()
    damaged = tmp_path / "damaged"
    damaged.mkdir(0o700)
    (damaged / library.name).write_bytes(b"no library")
    with pytest.raises(EngineError, match=r"cannot be loaded.*Remove the file"):
        stateport.load(reference, engine="c", cache=damaged)


def test_a_compiler_that_refuses_the_source_is_quoted(reference: Path, tmp_path: Path) -> None:
    compiler = tmp_path / "picky"
    compiler.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo picky 1.0; else echo "I do not like it" >&2;'
        " exit 1; fi\n"
    )
    compiler.chmod(0o755)
    with pytest.raises(EngineError, match=r"picky refuses the source.*I do not like it"):
        stateport.load(reference, engine="c", cache=tmp_path / "cache", compiler=compiler)
    assert not [*(tmp_path / "cache").iterdir()]


def test_whole_sequences_are_refused_with_the_reason(exported: Exported) -> None:
    with pytest.raises(EngineError, match=r"c cannot run .*bidirectional"):
        stateport.load(exported(bidirectional=True), engine="c")


def test_rows_that_depend_on_one_another_are_refused(tmp_path: Path) -> None:
    class Centred(nn.Module):
        """A layer on what is left when the mean of the batch is taken off."""

        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.gru(x - x.mean(0, keepdim=True))[0]
            return y

    export(Centred(), Spec("float32", "batch", "time", 3), tmp_path / "m.onnx", check=False)
    with pytest.raises(EngineError, match="the rows of 'y' depend on the other rows of the batch"):
        stateport.load(tmp_path / "m.onnx", engine="c")


def test_an_input_once_in_a_call_takes_calls_of_one_step(tmp_path: Path) -> None:
    name = "States: cleared by a mask at the start of a call"
    (pattern,) = (each for each in PATTERNS if str(each) == name)
    export(seeded(pattern.make), pattern.example, tmp_path / "m.onnx", check=False)
    model, other = (stateport.load(tmp_path / "m.onnx", engine=e) for e in ("c", "ort-cpu"))
    for time in (1, 2):
        inputs = {}
        for spec in model.contract.inputs:
            shape = resolve(spec.shape, {"batch": 2, "time": time})
            inputs[spec.name] = np.ones(shape, spec.dtype)
        if time == 1:
            answers, there = model.run(inputs)[0], other.run(inputs)[0]
            for key, array in answers.items():
                np.testing.assert_allclose(array, there[key], rtol=0, atol=1e-6)
        else:
            with pytest.raises(EngineError, match="once in each call; this call has 2 steps"):
                model.run(inputs)


def test_a_batch_in_another_axis_than_the_first(tmp_path: Path) -> None:
    """Parts that do not lie in one piece: two layers' states, and time before the batch."""
    import torch
    from torch import nn

    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, num_layers=2)

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y, h = self.gru(x.transpose(1, 2).contiguous(), h)
            return y.transpose(1, 2), h

    torch.manual_seed(0)
    spec = (Spec("float32", "time", 3, "batch"), Spec("float32", 2, "batch", 4))
    export(Cells().eval(), spec, tmp_path / "m.onnx")
    vectors = Vectors.load(vectors_path(tmp_path / "m.onnx"))
    assert measure_model(stateport.load(tmp_path / "m.onnx", engine="c"), vectors).passed

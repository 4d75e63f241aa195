"""Recorded data: what is read, what is refused and why, and which cases come of it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from stateport import FileError, InputError
from stateport.contract import ArraySpec, Contract, StateSpec, Streaming
from stateport.parity.recordings.cases import cases_of, cut_to_time
from stateport.parity.recordings.fitting import FittedRecording, cut, fit
from stateport.parity.recordings.reading import Recording, read_recordings

STATES = (StateSpec("h0", "hn", "float32", (1, "batch", 4)),)
#: A network over samples: frames of 10, a state, and one answer for each frame.
AUDIO = Contract(
    (ArraySpec("audio", "float32", ("batch", "time")),),
    (ArraySpec("speech", "float32", ("batch", "time//10")),),
    STATES,
    Streaming(chunk_multiple=10),
)
TWO_INPUTS = Contract(
    (
        ArraySpec("x", "float32", ("batch", "time", 3)),
        ArraySpec("speaker", "float32", ("batch", 2)),
    ),
    (ArraySpec("y", "float32", ("batch", "time", 1)), ArraySpec("last", "float32", ("batch",))),
    STATES,
)
STEPS = Contract(
    (ArraySpec("x", "float32", ("batch", 3)),),
    (ArraySpec("y", "float32", ("batch", 3)),),
    STATES,
)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def the_recording(path: Path, contract: Contract) -> FittedRecording:
    (recording,) = read_recordings(path, contract).recordings
    return fit(recording, contract)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "npy", "folder of x.npy", "folder"])
def test_every_kind_of_file_is_read(kind: str, tmp_path: Path) -> None:
    audio = floats(1, 200)
    path = tmp_path / f"take.{kind}"
    match kind:
        case "npz":
            np.savez_compressed(path, audio=audio)
        case "safetensors":
            safetensors.numpy.save_file({"audio": audio}, path)
        case "npy":
            np.save(path, audio)
        case "folder of x.npy":
            path.mkdir()
            np.save(path / "audio.npy", audio)
            np.save(path / "speech.npy", floats(1, 20))
        case "folder":
            path.mkdir()
            np.savez(path / "first.npz", audio=audio)

    recording = the_recording(path, AUDIO)
    assert np.array_equal(recording.inputs["audio"], audio)
    assert recording.steps == 200
    assert list(recording.answers) == (["speech"] if kind == "folder of x.npy" else [])


def test_a_folder_holds_recordings_of_several_lengths_and_other_files(tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", floats(1, 50))
    np.savez(tmp_path / "long.npz", audio=floats(2, 400))
    (tmp_path / "README.md").write_text("Recorded in the kitchen.")
    (tmp_path / ".hidden").write_text("")

    read = read_recordings(tmp_path, AUDIO)
    assert [recording.name for recording in read.recordings] == ["long.npz", "short.npy"]
    assert read.left_out is not None
    assert "README.md was not read" in read.left_out
    assert ".hidden" not in read.left_out


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "take.npz", **arrays)
    return folder


def wav(folder: Path) -> Path:
    (folder / "take.wav").write_bytes(b"RIFF")
    return folder / "take.wav"


def pickled_npy(folder: Path) -> Path:
    np.save(folder / "take.npy", np.array([{}], dtype=object), allow_pickle=True)
    return folder


def raw_pickle(folder: Path) -> Path:
    (folder / "take.npy").write_bytes(pickle.dumps([1, 2]))
    return folder


def cut_off(folder: Path) -> Path:
    save(folder, audio=floats(1, 2000))
    content = (folder / "take.npz").read_bytes()
    (folder / "take.npz").write_bytes(content[: len(content) // 2])
    return folder


def other_member(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "take.npz", "w") as archive:
        archive.writestr("notes.txt", "hello")
    return folder


def without_names(folder: Path) -> Path:
    np.savez(folder / "take.npz", floats(1, 200))
    return folder


def two_kinds_of_names(folder: Path) -> Path:
    np.save(folder / "audio.npy", floats(1, 200))
    np.save(folder / "spech.npy", floats(1, 20))
    return folder


NEVER = ["never loaded"]
#: What makes the file, the class of the error, and what it says.
UNUSABLE: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "empty folder": (lambda p: p, FileError, ["holds no recordings", "numpy.savez"]),
    "no folder": (lambda p: p / "nowhere", FileError, ["does not exist"]),
    "wav": (wav, FileError, ["unknown kind", ".npz"]),
    "pickled npy": (pickled_npy, FileError, NEVER),
    "pickled npz": (lambda p: save(p, audio=np.array([{}], dtype=object)), FileError, NEVER),
    "pickle": (raw_pickle, FileError, NEVER),
    "cut off": (cut_off, FileError, ["take.npz"]),
    "other member": (other_member, FileError, ["'notes.txt'"]),
    "name": (
        lambda p: save(p, audo=floats(1, 200)),
        InputError,
        ["'audo'", "Did you mean 'audio'?"],
    ),
    "no names": (without_names, InputError, ["'arr_0'", "numpy.savez(FILE, audio=...)"]),
    "two kinds": (two_kinds_of_names, InputError, ["spech.npy", "Did you mean 'speech'?"]),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_files_that_cannot_be_used_say_why(kind: str, tmp_path: Path) -> None:
    make, error, words = UNUSABLE[kind]
    with pytest.raises(error) as caught:
        read_recordings(make(tmp_path), AUDIO)
    for word in words:
        assert word in str(caught.value)


def test_an_archive_that_claims_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "take.npz"
    np.savez(path, audio=floats(1, 200))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")  # the entry in the directory; its sizes are behind
    content[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(FileError, match="claims more bytes"):
        read_recordings(path, AUDIO)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "take.npz", x=floats(1, 5, 3))
    with pytest.raises(InputError, match="lacks the input 'speaker'") as caught:
        read_recordings(tmp_path, TWO_INPUTS)
    assert "x=..., speaker=..." in str(caught.value)


def test_one_array_is_not_guessed_to_be_one_of_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "speakr.npy", floats(1, 2))
    with pytest.raises(InputError, match="Did you mean 'speaker'"):
        read_recordings(tmp_path / "speakr.npy", TWO_INPUTS)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"audio": floats(1, 200).astype("f8")}, ["float64[1, 200]", "astype('float32')"]),
        ({"audio": (floats(1, 200) * 99).astype("i2")}, ["int16[1, 200]", "astype('float32')"]),
        ({"audio": floats(200)}, ["1 dimension;", "numpy.expand_dims(audio, 0)"]),
        ({"audio": floats(1, 9)}, ["9 steps", "multiples of 10"]),
        ({"audio": floats(1, 0)}, ["'time' is empty"]),
        ({"audio": floats(1, 200), "h0": floats(1, 2, 4)}, ["'batch' is 2"]),
        ({"audio": floats(1, 200), "speech": floats(1, 200)}, ["'speech'", "float32[1, 20]"]),
        ({"audio": floats(1, 200), "speech": np.zeros((1, 20), int)}, ["'speech'", "int64[1, 20]"]),
    ],
)
def test_arrays_that_do_not_fit_say_why(arrays: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        fit(Recording("take.npz", arrays), AUDIO)
    for word in ["take.npz", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_found(number: float) -> None:
    audio = floats(2, 200)
    audio[1, 17] = number
    with pytest.raises(InputError, match=r"'audio' is (nan|-?inf) at \[1, 17\]"):
        fit(Recording("take.npz", {"audio": audio}), AUDIO)


def test_a_recording_is_cut_to_the_multiple_with_its_answers() -> None:
    arrays = {"audio": floats(1, 57), "speech": floats(1, 5)}
    recording = fit(Recording("take.npz", arrays), AUDIO)
    assert (recording.steps, recording.recorded_steps) == (50, 57)
    assert recording.inputs["audio"].shape == (1, 50)
    assert np.array_equal(recording.answers["speech"], arrays["speech"])


def test_a_recording_is_cut_to_the_limit_of_a_call() -> None:
    limited = Contract(AUDIO.inputs, AUDIO.outputs, STATES, AUDIO.streaming, (("time", 40),))
    recording = fit(Recording("a", {"audio": floats(1, 57), "speech": floats(1, 5)}), limited)
    assert recording.steps == 40
    assert recording.answers["speech"].shape == (1, 4)


def test_answers_at_the_end_of_a_recording_are_dropped_with_the_end() -> None:
    limited = Contract(TWO_INPUTS.inputs, TWO_INPUTS.outputs, STATES, Streaming(), (("time", 4),))
    arrays = {
        "x": floats(2, 6, 3),
        "speaker": floats(2, 2),
        "y": floats(2, 6, 1),
        "last": floats(2),
        "hn": floats(1, 2, 4),
    }
    assert list(fit(Recording("a", arrays), TWO_INPUTS).answers) == ["y", "last", "hn"]
    assert list(fit(Recording("a", arrays), limited).answers) == ["y"]


def test_cases_are_whole_ragged_and_step_by_step() -> None:
    recording = fit(Recording("a", {"x": floats(2, 200, 3), "speaker": floats(2, 2)}), TWO_INPUTS)
    whole, chunks, steps = cases_of(recording, TWO_INPUTS)
    assert (whole.chunks, whole.through) == ((200,), "model")
    assert sum(chunks.chunks) == 200
    assert len(chunks.chunks) == 9
    assert (steps.chunks, steps.through) == ((1,) * 64, "stream")
    # An input without time comes with every call.
    assert chunks.inputs["speaker"].shape == (9, 2, 2)
    assert whole.name == "recorded whole, a 2x200"


def test_a_network_that_needs_the_whole_sequence_gets_it_alone() -> None:
    contract = Contract(AUDIO.inputs, AUDIO.outputs, STATES, Streaming(False, "it looks back"))
    recording = fit(Recording("a", {"audio": floats(1, 57)}), contract)
    (case,) = cases_of(recording, contract)
    assert case.chunks == (57,)


def test_a_network_without_time_is_called_once_for_each_step() -> None:
    recording = fit(Recording("a", {"x": floats(7, 2, 3), "y": floats(7, 2, 3)}), STEPS)
    (case,) = cases_of(recording, STEPS)
    assert case.chunks == (1,) * 7
    assert case.sizes == {"batch": 2}
    assert fit(Recording("a", {"x": floats(2, 3)}), STEPS).steps == 1


def test_calls_that_differ_in_number_are_refused() -> None:
    contract = Contract(
        (*STEPS.inputs, ArraySpec("mask", "float32", ("batch",))), STEPS.outputs, STATES
    )
    with pytest.raises(InputError, match="x has 7, mask has 6"):
        fit(Recording("a", {"x": floats(7, 2, 3), "mask": floats(6, 2)}), contract)


def test_a_part_of_a_first_state_is_refused() -> None:
    states = (*STATES, StateSpec("c0", "cn", "float32", (1, "batch", 4)))
    contract = Contract(AUDIO.inputs, AUDIO.outputs, states, AUDIO.streaming)
    with pytest.raises(InputError, match="h0 without c0"):
        fit(Recording("a", {"audio": floats(1, 50), "h0": floats(1, 1, 4)}), contract)


def test_long_recordings_are_cut_to_a_time_and_it_is_said() -> None:
    now = 0.0

    def run(recording: FittedRecording) -> None:
        nonlocal now
        now += recording.steps / 1000  # a thousand steps in a second

    recordings = [
        fit(Recording(name, {"audio": floats(1, steps)}), AUDIO)
        for name, steps in (("short", 500), ("long", 100_000))
    ]
    kept, sentence = cut_to_time(recordings, AUDIO, 18.0, 3, run, lambda: now)
    # 3 s for one run. 160 doubled: 2,560 steps take 2.56 s, and twice as many would be too long.
    assert [recording.steps for recording in kept] == [500, 2560]
    assert sentence == (
        "long (100,000 steps) was cut to 2,560 steps, so that all runs take no more than 18 s"
    )


def test_recordings_that_fit_are_not_cut() -> None:
    recording = fit(Recording("a", {"audio": floats(1, 5000)}), AUDIO)
    kept, sentence = cut_to_time([recording], AUDIO, 3.0, 1, lambda _: None, lambda: 0.0)
    assert (kept, sentence) == ([recording], None)


def test_rows_end_where_a_recording_is_cut() -> None:
    contract = Contract(
        (*TWO_INPUTS.inputs[:1], ArraySpec("lengths", "int64", ("batch",), "time")),
        TWO_INPUTS.outputs[:1],
        STATES,
    )
    arrays = {"x": floats(2, 200, 3), "lengths": np.array([200, 7])}
    recording = fit(Recording("a", arrays), contract)
    assert cut(recording, contract, 30).inputs["lengths"].tolist() == [30, 7]
    assert [case.chunks for case in cases_of(recording, contract)] == [(200,)]

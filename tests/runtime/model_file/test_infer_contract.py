"""Files without a contract: their states by well-known names, or as the caller says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import stateport
from stateport import ArraySpec, ContractError, InputError, State
from stateport.model_file.infer_contract import match_state_names
from stateport.model_file.onnx_outline import OnnxFile
from tests.bare import Shape, written

PAIRS = [
    ("h0", "hn"), ("h_0", "h_n"), ("h", "hn"), ("state", "stateN"), ("state", "next_state"),
    ("state_in", "state_out"), ("past_hidden", "present_hidden"), ("cache", "new_cache"),
    ("in_mem", "out_mem"), ("input_states", "output_states"), ("prev_h", "h"), ("ctx", "ctx_out"),
    ("hiddenStateIn", "hiddenStateOut"), ("H_IN", "H_OUT"), ("h0", "hN"), ("prevH", "nextH"),
    ("lstm/h_in:0", "lstm/h_out:0"), ("hIn", "hOut"), ("PastKey", "PresentKey"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "gives"), PAIRS)
def test_well_known_names_tell(tmp_path: Path, given: str, gives: str) -> None:
    path = written(tmp_path / "m.onnx", {given: gives})
    model = stateport.load(path, constants={"rate": 2})
    assert [(s.input, s.output) for s in model.contract.states] == [(given, gives)]
    assert model.contract.states[0].shape == (1, "batch", 3)
    assert [(s.name, s.shape) for s in model.contract.inputs] == [("x", ("batch", "time", 3))]
    stream, pool = model.stream(), model.pool(2)
    x = np.ones((2, 4, 3), np.float32)
    for number in range(3):
        np.testing.assert_array_equal(stream(x), np.full((2, 4, 3), 2.0 + 2 * number))
    np.testing.assert_array_equal(pool.step(pool.open(2), x), np.full((2, 4, 3), 2.0))


def test_what_the_caller_says_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", {"a": "b", "c": "d"})
    model = stateport.load(path, states={"a": "b", "c": "d"})
    assert [(s.input, s.output) for s in model.contract.states] == [("a", "b"), ("c", "d")]
    x = np.ones((1, 2, 3), np.float32)
    _, state = model.run({"x": x, "rate": np.array(1)})
    assert isinstance(state, State)
    np.testing.assert_array_equal(state["a"], np.ones((1, 1, 3)))
    part = stateport.load(path, states={"a": "b"}).contract
    assert [spec.name for spec in part.inputs] == ["x", "c", "rate"]
    none = stateport.load(path, states={}).contract
    assert none.states == ()


@pytest.mark.parametrize(
    ("pairs", "extra", "says"),
    [
        ({"a": "b"}, (), "no names of its inputs"),
        (
            {"h": "hn"},
            ("h_out",),
            "match more than one pairing of states: 'h' with 'hn' or 'h_out'",
        ),
    ],
)
def test_names_that_tell_nothing_or_several_things_are_refused(
    tmp_path: Path, pairs: dict[str, str], extra: tuple[str, ...], says: str
) -> None:
    path = written(tmp_path / "m.onnx", pairs, extra=extra)
    with pytest.raises(ContractError) as refusal:
        stateport.load(path)
    assert says in str(refusal.value)
    assert "Declare them" in str(refusal.value)
    assert "--state input=output" in str(refusal.value)


Ports = dict[str, Shape | None]
SOUND: Shape = [1, 160]


def outline(inputs: Ports, outputs: Ports) -> OnnxFile:
    """The outline of a file with these arrays of float32; None is a number, the rate."""
    given, gives = specs(inputs), specs(outputs)
    return OnnxFile(Path("m.onnx"), 1, 10, "", {}, {}, given, gives, Counter(), (), {})


def specs(ports: Ports) -> tuple[ArraySpec, ...]:
    return tuple(
        ArraySpec(name, "int64", (1,))
        if shape is None
        else ArraySpec(
            name, "float32", tuple(str(a) if isinstance(a, str) else a or 0 for a in shape)
        )
        for name, shape in ports.items()
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "states"),
    [
        ({"a_in": SOUND, "h_in": [1, 64]}, {"a_out": SOUND, "h_out": [1, 64]}, {"h_in": "h_out"}),
        (
            {"audio_in": SOUND, "state_in": SOUND, "sr": None},
            {"audio_out": SOUND, "state_out": SOUND},
            {"state_in": "state_out"},
        ),
        (
            {"audio_in": ["N", "samples"], "mask": SOUND, "cache_in": ["N", 64]},
            {"audio_out": ["N", "samples"], "vad": SOUND, "cache_out": ["N", 64]},
            {"cache_in": "cache_out"},
        ),
        (
            {"input": SOUND, "input_hidden": SOUND},
            {"output": SOUND, "output_hidden": SOUND},
            {"input_hidden": "output_hidden"},
        ),
        ({"x_in": SOUND}, {"x_out": SOUND}, {}),
        ({"X_IN": SOUND, "H": SOUND}, {"X_OUT": SOUND, "HN": SOUND}, {"H": "HN"}),
        ({"audioIn": SOUND, "hIn": SOUND}, {"audioOut": SOUND, "hOut": SOUND}, {"hIn": "hOut"}),
        ({"h": SOUND, "sr": None}, {"hn": SOUND}, {}),
        ({"h": SOUND, "x": SOUND}, {"hn": SOUND}, {}),
    ],
)
def test_a_signal_is_no_state_whatever_it_is_called(
    inputs: Ports, outputs: Ports, states: dict[str, str]
) -> None:
    assert match_state_names(outline(inputs, outputs)) == states


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"a_in": SOUND, "b_in": SOUND}, {"a_out": SOUND, "b_out": SOUND}),
        ({"x": SOUND, "a_in": SOUND}, {"y": SOUND, "a_out": SOUND}),
        (
            {"a_in": SOUND, "mask": SOUND, "h_in": SOUND},
            {"a_out": SOUND, "vad": SOUND, "h_out": SOUND},
        ),
        ({"in_a": SOUND, "in_b": SOUND, "h": SOUND}, {"out_a": SOUND, "out_b": SOUND, "hn": SOUND}),
        ({"h": SOUND, "c": SOUND}, {"hn": SOUND, "cn": SOUND}),
        ({"x": SOUND, "hIn": SOUND}, {"y": SOUND, "hOut": SOUND, "h_out": SOUND}),
    ],
)
def test_names_that_may_mean_a_signal_or_a_state_are_asked_about(
    inputs: Ports, outputs: Ports
) -> None:
    with pytest.raises(
        ContractError, match="its names match more than one pairing of states: "
    ) as refusal:
        match_state_names(outline(inputs, outputs))
    assert "--state input=output" in str(refusal.value)


def test_what_does_not_fit_is_no_state(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", {"h": "hn"})
    model = onnx.load(path)
    model.graph.output[1].type.tensor_type.shape.dim[2].dim_value = 4
    onnx.save(model, path)
    with pytest.raises(ContractError, match="no names of its inputs"):
        stateport.load(path)
    with pytest.raises(InputError, match="'h' and 'hn' cannot be one state: the input is"):
        stateport.load(path, states={"h": "hn"})


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ({"z": "hn"}, "no input 'z' to be a state; it has x: float32"),
        ({"h": "z"}, "no output 'z' to be a state; it has y: float32"),
        ({"h": "hn", "rate": "cn"}, "'rate' and 'cn' cannot be one state"),
        ({"h": "hn", "c": "hn"}, "'hn' is named as the next value of two states"),
    ],
)
def test_misnamed_states_are_refused(tmp_path: Path, states: dict[str, str], says: str) -> None:
    path = written(tmp_path / "m.onnx", {"h": "hn", "c": "cn"})
    with pytest.raises(InputError) as refusal:
        stateport.load(path, states=states)
    assert says in str(refusal.value)


def test_a_file_with_a_contract_speaks_for_itself(reference: Path) -> None:
    with pytest.raises(InputError, match=r"says itself what its states are\. Leave states out"):
        stateport.load(reference, states={"h0": "hn"})


@pytest.mark.parametrize(
    ("x", "state", "axes", "rows"),
    [
        ([None, None, 3], [1, None, 3], ("batch", "time", 3), "batch"),
        (["a", "b", 3], [1, "a", 3], ("batch", "b", 3), "batch"),
        ([1, "seq_len", 3], [1, 1, 3], (1, "time", 3), 1),
        (["batch_size", "num_frames", 3], [1, "batch_size", 3], ("batch", "time", 3), "batch"),
    ],
)
def test_axes_are_called_what_they_are(
    tmp_path: Path, x: Shape, state: Shape, axes: tuple[object, ...], rows: object
) -> None:
    contract = stateport.load(written(tmp_path / "m.onnx", {"h": "hn"}, x=x, state=state)).contract
    assert contract.inputs[0].shape == axes
    assert contract.states[0].shape == (1, rows, 3)


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        ({"rat": 1}, "no input 'rat' to hold a constant; the model takes x: float32"),
        ({"h": 1}, "no input 'h' to hold a constant"),
        ({"rate": 1.5}, "'rate' is 1.5, which cannot be represented exactly as int64"),
        ({"rate": "fast"}, "'rate' is 'fast', which cannot be represented exactly as int64"),
        ({"rate": [1, 2]}, "'rate' has the shape (2,); the model takes rate: int64[]"),
    ],
)
def test_constants_that_do_not_fit_are_refused(
    tmp_path: Path, constants: dict[str, object], says: str
) -> None:
    path = written(tmp_path / "m.onnx", {"h": "hn"})
    with pytest.raises(InputError) as refusal:
        stateport.load(path, constants=constants)
    assert says in str(refusal.value)


def test_a_constant_of_a_file_with_a_contract(reference: Path) -> None:
    x = np.ones((1, 2, 5), np.float32)
    model = stateport.load(reference, constants={"x": x})
    zeros = {name: np.zeros((1, 1, 10), np.float32) for name in ("h0", "c0")}
    y, _ = model.run({}, State(zeros))
    np.testing.assert_array_equal(y["y"], stateport.load(reference)(x)[0])


def test_constants_stay_out_of_the_way_on_every_engine(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", {"h": "hn"})
    x = np.ones((2, 3, 3), np.float32)
    one = stateport.load(path, constants={"rate": 3}).stream()
    other = stateport.load(path, engine="openvino", constants={"rate": 3}).stream()
    for _ in range(3):
        np.testing.assert_allclose(other(x), one(x), rtol=1e-6)

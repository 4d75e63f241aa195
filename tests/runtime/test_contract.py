"""The contract: what it reads, what it refuses, and how it is compared with a graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import helper

import stateport
from stateport import ArraySpec, Contract, ContractError, InputError, StateSpec, Streaming
from stateport.contract import CONTRACT_KEY, check_limits, names_in, resolve
from stateport.model_file.onnx_outline import read
from stateport.model_file.read_contract import read_contract

Build = Callable[..., Path]
Document = dict[str, Any]

DTYPES = ["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "uint64", "bool"]
KNOWN = {np.dtype(code).name for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
LSTM = Contract(
    inputs=(ArraySpec("x", "float32", ("batch", "time", 5)),),
    outputs=(ArraySpec("y", "float32", ("batch", "time", 10)),),
    states=(
        StateSpec("h0", "hn", "float32", (1, "batch", 10)),
        StateSpec("c0", "cn", "float32", (1, "batch", 10)),
    ),
)

names = st.text(min_size=1, max_size=8)
shapes = st.lists(st.integers(0, 60) | names, max_size=4).map(tuple)


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    free = draw(st.lists(names, min_size=8, max_size=8, unique=True))
    counts = [draw(st.integers(0, 2)) for _ in range(3)]

    def array(name: str) -> ArraySpec:
        return ArraySpec(name, draw(st.sampled_from(DTYPES)), draw(shapes))

    inputs = tuple(array(free.pop()) for _ in range(counts[0]))
    outputs = tuple(array(free.pop()) for _ in range(counts[1]))
    states = tuple(
        StateSpec(free.pop(), free.pop(), draw(st.sampled_from(DTYPES)), draw(shapes))
        for _ in range(counts[2])
    )
    streaming = draw(
        st.builds(
            Streaming,
            st.just(True),
            st.none() | st.text(),
            st.integers(1, 2**31 - 1),
            st.integers(0, 2**31 - 1),
        )
        | st.builds(Streaming, st.just(False), st.text(min_size=1))
    )
    return Contract(inputs, outputs, states, streaming)


@given(contracts())
def test_every_contract_comes_back_from_its_json_text(contract: Contract) -> None:
    assert Contract.from_json(contract.to_json()) == contract


def test_the_json_text_is_the_documented_one() -> None:
    assert json.loads(LSTM.to_json()) == {
        "version": 1,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", "time", 5]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", "time", 10]}],
        "states": [
            {
                "input": state.input,
                "output": state.output,
                "dtype": "float32",
                "shape": [1, "batch", 10],
                "initial": "zeros",
            }
            for state in LSTM.states
        ],
        "streaming": {"ok": True},
    }


def test_multiple_and_delay_are_said_where_they_are_not_the_usual_ones() -> None:
    streaming = Streaming(True, None, chunk_multiple=8, lookahead=7)
    document = json.loads(replace(LSTM, streaming=streaming).to_json())
    assert document["streaming"] == {"ok": True, "multiple": 8, "delay": 7}


@pytest.mark.parametrize(
    "wrong", [{"multiple": 0}, {"multiple": "8"}, {"delay": -1}, {"delay": 1.5}]
)
def test_a_multiple_or_delay_that_is_no_number_of_steps_is_refused(wrong: Document) -> None:
    document = json.loads(LSTM.to_json())
    document["streaming"] |= wrong
    with pytest.raises(ContractError, match="must say 'multiple' and 'delay' in steps"):
        Contract.from_json(json.dumps(document))


def test_limits_are_said_where_there_are_some() -> None:
    limited = replace(LSTM, limits=(("batch", 8), ("time", 700)))
    assert json.loads(limited.to_json())["limits"] == {"batch": 8, "time": 700}
    assert Contract.from_json(limited.to_json()) == limited


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "'limits' must be an object"),
        ({"time": "700"}, "'limits' must give a size for each axis"),
        ({"time": True}, "'limits' must give a size for each axis"),
        ({"time": 0}, "a size of at least 1"),
        ({"frames": 700}, "limits the axis 'frames' to 700; it must be an axis of an input"),
    ],
)
def test_limits_that_are_none_are_refused(wrong: object, message: str) -> None:
    document = json.loads(LSTM.to_json()) | {"limits": wrong}
    with pytest.raises(ContractError, match=message):
        Contract.from_json(json.dumps(document))


def test_minimums_are_said_where_there_are_some() -> None:
    limited = replace(LSTM, minimums=(("time", 400),))
    assert json.loads(limited.to_json())["minimums"] == {"time": 400}
    assert Contract.from_json(limited.to_json()) == limited
    assert "minimums" not in json.loads(LSTM.to_json())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "'minimums' must be an object"),
        ({"time": "400"}, "'minimums' must give a size for each axis"),
        ({"time": True}, "'minimums' must give a size for each axis"),
        ({"time": 0}, "a size of at least 1"),
        ({"frames": 4}, "limits the axis 'frames' to 4; it must be an axis of an input"),
        ({"time": 701}, "'time' is at least 701 and at most 700"),
    ],
)
def test_minimums_that_are_none_are_refused(wrong: object, message: str) -> None:
    document = json.loads(LSTM.to_json()) | {"limits": {"time": 700}, "minimums": wrong}
    with pytest.raises(ContractError, match=message):
        Contract.from_json(json.dumps(document))


def test_a_call_below_a_minimum_is_refused() -> None:
    limited = replace(LSTM, minimums=(("time", 400),))
    check_limits(limited, {"batch": 1, "time": 400})
    with pytest.raises(InputError, match=r"'time' is 399 in this call; .*at least 400"):
        check_limits(limited, {"batch": 1, "time": 399})


def test_multiples_are_said_where_there_are_some() -> None:
    streaming = Streaming(chunk_multiple=320)
    framed = replace(LSTM, multiples=(("time", 160),), streaming=streaming)
    assert json.loads(framed.to_json())["multiples"] == {"time": 160}
    assert Contract.from_json(framed.to_json()) == framed
    assert framed.step_multiple == 320
    assert "multiples" not in json.loads(LSTM.to_json())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "'multiples' must be an object"),
        ({"time": "160"}, "'multiples' must give a size for each axis"),
        ({"time": 0}, "a size of at least 1"),
        ({"frames": 4}, "limits the axis 'frames' to 4; it must be an axis of an input"),
        ({"time": 160}, "chunks are multiples of 1 steps and calls multiples of 160"),
    ],
)
def test_multiples_that_are_none_are_refused(wrong: object, message: str) -> None:
    document = json.loads(LSTM.to_json()) | {"multiples": wrong}
    with pytest.raises(ContractError, match=message):
        Contract.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("time", "advice"),
    [(7, "Fill it up with 153 more"), (330, "Cut it to 320, or fill it up with 150 more")],
)
def test_a_call_that_is_no_multiple_is_refused(time: int, advice: str) -> None:
    framed = replace(LSTM, multiples=(("time", 160),), streaming=Streaming(chunk_multiple=160))
    check_limits(framed, {"batch": 1, "time": 320})
    with pytest.raises(InputError, match=rf"'time' is {time} .*multiples of 160 alone.*{advice}"):
        check_limits(framed, {"batch": 1, "time": time})


def test_a_call_beyond_a_limit_is_refused() -> None:
    limited = replace(LSTM, limits=(("time", 700),))
    check_limits(limited, {"batch": 9, "time": 700})
    with pytest.raises(InputError, match=r"'time' is 701 in this call; .*at most 700.*chunks"):
        check_limits(limited, {"batch": 9, "time": 701})


@pytest.mark.parametrize(
    ("axis", "size"),
    [
        (3, 3),
        ("time", 20),
        ("2*time", 40),
        ("batch*time", 60),
        ("8*((time//8))", 16),
        ("((time - 1)//2) + 1", 10),
        ("-batch + time", 17),
    ],
)
def test_an_axis_may_be_computed_from_others(axis: int | str, size: int) -> None:
    assert resolve((axis,), {"batch": 3, "time": 20}) == (size,)
    assert names_in(axis) <= {"batch", "time"}


@pytest.mark.parametrize(
    "axis",
    [
        *("other", "time/2", "time**2", "time//0", "max(time, 2)", "time.real", "1.5", "time[0]"),
        *("2*", "a b", "(" * 5000, "__import__('os')", "-" * 200_000 + "1"),
    ],
)
def test_an_axis_that_is_no_such_expression_has_no_size(axis: str) -> None:
    with pytest.raises(KeyError):
        resolve((axis,), {"batch": 3, "time": 20})


def test_a_contract_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        LSTM.inputs = ()  # type: ignore[misc]


def test_a_contract_tells_its_axes() -> None:
    assert LSTM.axes == {"batch", "time"}


def test_the_states_stand_among_the_graphs_inputs_and_outputs() -> None:
    assert LSTM.state_inputs[1] == ArraySpec("c0", "float32", (1, "batch", 10))
    assert LSTM.state_outputs[1] == ArraySpec("cn", "float32", (1, "batch", 10))


def test_specs_read_as_people_write_them() -> None:
    assert str(LSTM.inputs[0]) == "x: float32[batch, time, 5]"
    assert str(LSTM.states[0]) == "h0 -> hn: float32[1, batch, 10]"


@pytest.mark.parametrize("version", [2, 0, "1", None, 1.5, True])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(ContractError, match=r"version .*; this stateport reads version 1"):
        Contract.from_json(changed(lambda d: d.update(version=version)))


def test_a_contract_without_a_version_is_refused() -> None:
    with pytest.raises(ContractError, match="version None"):
        Contract.from_json(changed(lambda d: d.pop("version")))


@pytest.mark.parametrize("text", ["", "{", "contract", '{"version": 1,}', "[" * 100_000])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="not JSON"):
        Contract.from_json(text)


@pytest.mark.parametrize("text", ["null", "[]", "1", '"text"'])
def test_json_that_is_not_an_object_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="the contract must be an object"):
        Contract.from_json(text)


@pytest.mark.parametrize("key", ["inputs", "outputs", "states"])
@pytest.mark.parametrize("value", [None, {}, "x", 1])
def test_a_list_that_is_no_list_is_named(key: str, value: object) -> None:
    with pytest.raises(ContractError, match=f"'{key}' must be a list"):
        Contract.from_json(changed(lambda d: d.update({key: value})))


@pytest.mark.parametrize("key", ["inputs", "outputs", "states", "streaming"])
def test_a_missing_part_is_named(key: str) -> None:
    with pytest.raises(ContractError, match=f"'{key}' must be"):
        Contract.from_json(changed(lambda d: d.pop(key)))


@pytest.mark.parametrize("key", ["inputs", "outputs", "states"])
def test_an_entry_that_is_no_object_is_named(key: str) -> None:
    with pytest.raises(ContractError, match=f"every entry of '{key}' must be an object"):
        Contract.from_json(changed(lambda d: d[key].append("x")))


@pytest.mark.parametrize("value", [None, 1, "", ["x"]])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("inputs", "name"),
        ("inputs", "dtype"),
        ("outputs", "name"),
        ("outputs", "dtype"),
        ("states", "input"),
        ("states", "output"),
        ("states", "dtype"),
        ("states", "initial"),
    ],
)
def test_a_name_that_is_no_name_is_named(part: str, key: str, value: object) -> None:
    with pytest.raises(ContractError, match=f"'{key}' must be a name"):
        Contract.from_json(changed(lambda d: d[part][0].update({key: value})))


@pytest.mark.parametrize("shape", [None, "batch", {}, [1.5], [True], [-1], [None], [""], [[1]]])
@pytest.mark.parametrize("part", ["inputs", "outputs", "states"])
def test_a_shape_that_is_no_shape_is_named(part: str, shape: object) -> None:
    with pytest.raises(ContractError, match="'shape' must be a list of sizes and axis names"):
        Contract.from_json(changed(lambda d: d[part][0].update(shape=shape)))


@given(st.text(min_size=1, max_size=12).filter(lambda text: text not in KNOWN))
@example("float99")
@example("f4")
@example("float")
@example("complex64")
@example("object")
@example("str")
@example("a8")
@example("i4,i4")
@example("M8[ns]")
@example("99999999999999999999f4")
def test_an_unknown_dtype_is_refused_with_the_name_of_its_array(dtype: str) -> None:
    with pytest.raises(ContractError, match="gives 'h0' the unknown dtype"):
        Contract.from_json(changed(lambda d: d["states"][0].update(dtype=dtype)))


@pytest.mark.parametrize(
    "streaming", [None, [], {}, {"ok": "yes"}, {"ok": None}, {"ok": True, "because": 1}]
)
def test_streaming_that_says_nothing_is_refused(streaming: object) -> None:
    with pytest.raises(ContractError, match="'streaming' must"):
        Contract.from_json(changed(lambda d: d.update(streaming=streaming)))


def test_a_network_that_cannot_stream_has_to_say_why() -> None:
    with pytest.raises(ContractError, match="cannot stream, but not why"):
        replace(LSTM, streaming=Streaming(ok=False))


def test_an_unknown_first_state_is_refused() -> None:
    with pytest.raises(ContractError, match="State 'h0' starts from 'ones'"):
        Contract.from_json(changed(lambda d: d["states"][0].update(initial="ones")))


@pytest.mark.parametrize(
    ("part", "key", "name"), [("inputs", "name", "h0"), ("outputs", "name", "cn")]
)
def test_a_name_that_stands_twice_is_refused(part: str, key: str, name: str) -> None:
    with pytest.raises(ContractError, match=f"names '{name}' twice"):
        Contract.from_json(changed(lambda d: d[part][0].update({key: name})))


def test_keys_that_are_not_known_are_left_alone() -> None:
    assert Contract.from_json(changed(lambda d: d.update(note="later"))) == LSTM


SPEC = Contract(
    inputs=(ArraySpec("x", "float32", ("batch", 2)),),
    outputs=(ArraySpec("y", "float32", ("batch", 2)),),
)
IDENTITY = helper.make_node("Identity", ["x"], ["y"])


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        (
            replace(SPEC, inputs=(ArraySpec("z", "float32", ("batch", 2)),)),
            "the graph has an input 'x' that the contract has not",
        ),
        (
            replace(SPEC, inputs=(*SPEC.inputs, ArraySpec("a", "float32", (1,)))),
            "the contract has an input 'a' that the graph has not",
        ),
        (
            replace(SPEC, outputs=()),
            "the graph has an output 'y' that the contract has not",
        ),
        (
            replace(SPEC, states=(StateSpec("h0", "hn", "float32", ("batch", 2)),)),
            "the contract has an input 'h0' that the graph has not",
        ),
        (
            replace(SPEC, inputs=(ArraySpec("x", "float64", ("batch", 2)),)),
            r"promises the input x: float64.*, but the graph has x: float32",
        ),
        (
            replace(SPEC, outputs=(ArraySpec("y", "int8", ("batch", 2)),)),
            r"promises the output y: int8.*, but the graph has y: float32",
        ),
        (
            replace(SPEC, inputs=(ArraySpec("x", "float32", ("batch", 3)),)),
            r"promises the input x: float32\[batch, 3\], but the graph has x: float32\[batch, 2\]",
        ),
        (
            replace(SPEC, outputs=(ArraySpec("y", "float32", ("batch",)),)),
            r"promises the output y: float32\[batch\], but the graph has",
        ),
    ],
)
def test_a_contract_that_its_graph_does_not_keep_is_refused(
    build: Build, contract: Contract, says: str
) -> None:
    path = build(SPEC, [IDENTITY], text=contract.to_json())
    with pytest.raises(ContractError, match=says):
        stateport.load(path)


def test_a_contract_that_its_graph_keeps_is_taken(build: Build) -> None:
    assert stateport.load(build(SPEC, [IDENTITY])).contract == SPEC


def test_a_malformed_contract_in_a_file_is_refused(build: Build) -> None:
    with pytest.raises(ContractError, match="not JSON"):
        stateport.load(build(SPEC, [IDENTITY], text="{"))


def test_a_file_without_a_contract_is_refused_with_what_to_say(
    build: Build, tmp_path: Path
) -> None:
    model = onnx.load(build(SPEC, [IDENTITY]))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ContractError, match=r"carries no contract, .*states=\{'input': 'output'\}"):
        stateport.load(tmp_path / "bare.onnx")
    with pytest.raises(ContractError, match=rf"carries no contract \(metadata key '{CONTRACT_KEY}"):
        read_contract(read(tmp_path / "bare.onnx"))


def changed(change: Callable[[Document], object]) -> str:
    document = json.loads(LSTM.to_json())
    change(document)
    return json.dumps(document)

"""`stateport inspect`: what a file says about itself, for people and for programs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

import stateport
from stateport import ArraySpec, Contract
from stateport.cli.inspect import _streaming_text
from stateport.contract import CONTRACT_KEY, ORIGIN_KEY
from tests.bare import written

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_text_names_inputs_outputs_states_axes_and_operators(
    command: Command, reference: Path
) -> None:
    outcome = command("inspect", reference)
    text = " ".join(outcome.stdout.split())
    assert (outcome.returncode, outcome.stderr) == (0, "")
    for part in (
        "input x: float32[batch, time, 5]",
        "output y: float32[batch, time, 10]",
        "state h0 -> hn: float32[1, batch, 10], starts from zeros",
        "state c0 -> cn: float32[1, batch, 10], starts from zeros",
        "streams yes",
        "precision float32",
        "dynamic axes batch, time",
        "opset ai.onnx 20",
        "LSTM 1",
        "made by stateport",
    ):
        assert part in text


def test_lengths_of_rows_and_limits_are_shown(command: Command, tmp_path: Path) -> None:
    array = ArraySpec("lengths", "int64", ("batch",), lengths_of="time")
    x = ArraySpec("x", "float32", ("batch", "time"))
    contract = Contract((x, array), (), limits=(("time", 700),))
    info = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "time"]),
        helper.make_tensor_value_info("lengths", onnx.TensorProto.INT64, ["batch"]),
    ]
    model = helper.make_model(helper.make_graph([], "lengths", info, []))
    helper.set_model_props(model, {CONTRACT_KEY: contract.to_json()})
    onnx.save(model, tmp_path / "m.onnx")
    outcome = command("inspect", tmp_path / "m.onnx")
    text = " ".join(outcome.stdout.split())
    assert "input lengths: int64[batch], row lengths along time" in text
    document = json.loads(command("inspect", tmp_path / "m.onnx", "--json").stdout)
    assert document["contract"]["inputs"][1]["lengths_of"] == "time"
    assert "at most time 700 in one call" in text
    assert document["contract"]["limits"] == {"time": 700}


def test_json_is_one_document_and_nothing_else(command: Command, reference: Path) -> None:
    outcome = command("inspect", reference, "--json")
    document, model = json.loads(outcome.stdout), onnx.load(reference)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert document["file"] == str(reference)
    assert document["bytes"] == reference.stat().st_size
    assert document["opsets"] == {"ai.onnx": 20}
    assert document["precision"] == "float32"
    assert document["ir_version"] == model.ir_version
    assert document["axes"] == ["batch", "time"]
    assert document["operators"]["LSTM"] == 1
    assert sum(document["operators"].values()) == len(model.graph.node)
    assert document["contract"] == json.loads(stateport.load(reference).contract.to_json())
    assert [spec["name"] for spec in document["inputs"]] == ["x", "h0", "c0"]
    assert [spec["name"] for spec in document["outputs"]] == ["y", "hn", "cn"]
    assert document["weights"]["external_files"] == []
    assert document["weights"]["bytes"] >= 4 * (40 * 5 + 40 * 10 + 80)
    assert document["origin"]["stateport"] == stateport.__version__


def test_a_network_that_cannot_stream_says_why(
    command: Command, exported: Callable[..., Path]
) -> None:
    path = exported(bidirectional=True)
    text = " ".join(command("inspect", path).stdout.split())
    assert "streams no: lstm is bidirectional: its backward half needs the whole sequence" in text
    document = json.loads(command("inspect", path, "--json").stdout)
    assert document["contract"]["streaming"]["ok"] is False


def test_a_file_without_a_contract_is_shown_all_the_same(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path / "bare.onnx", {"a": "b"})
    outcome = command("inspect", path)
    assert outcome.returncode == 0
    assert "contract none" in " ".join(outcome.stdout.split())
    document = json.loads(command("inspect", path, "--json").stdout)
    assert document["contract"] is None
    assert document["origin"] is None
    assert [spec["name"] for spec in document["inputs"]] == ["x", "a", "rate"]


@pytest.mark.parametrize("origin", ["by hand", "[1, 2]", '"text"', "3", "null", '{"by": ["hand"]}'])
def test_an_origin_that_somebody_else_wrote_is_shown_as_it_is(
    command: Command, reference: Path, tmp_path: Path, origin: str
) -> None:
    model = onnx.load(reference)
    properties = {p.key: p.value for p in model.metadata_props}
    del model.metadata_props[:]
    helper.set_model_props(model, {**properties, ORIGIN_KEY: origin})
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    assert command("inspect", path).returncode == 0
    document = json.loads(command("inspect", path, "--json").stdout)
    assert document["origin"] == (origin if origin == "by hand" else json.loads(origin))


def test_weights_beside_the_file_are_named(
    command: Command, reference: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(
        onnx.load(reference), path, save_as_external_data=True, location="w.bin", size_threshold=64
    )
    assert "w.bin" in command("inspect", path).stdout
    document = json.loads(command("inspect", path, "--json").stdout)
    assert document["weights"]["external_files"] == ["w.bin"]


def test_the_real_command_inspects(process: Command, reference: Path) -> None:
    outcome = process("inspect", reference, "--json")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout)["producer"].startswith("stateport")


WITHIN_A_CHUNK = (
    "yes, in chunks of multiples of 160 steps; an output step needs up to 159 later steps, all of "
    "them in the same 160 steps: no chunk waits for the next one"
)


@pytest.mark.parametrize(
    ("streaming", "text"),
    [
        ({"ok": True}, "yes"),
        ({"ok": True, "multiple": 4}, "yes, in chunks of multiples of 4 steps"),
        ({"ok": True, "multiple": 160, "delay": 159}, WITHIN_A_CHUNK),
        (
            {"ok": True, "multiple": 4, "delay": 8},
            "yes, in chunks of multiples of 4 steps, with a look-ahead of 8 steps",
        ),
    ],
)
def test_a_look_ahead_within_a_chunk_is_none_beyond_it(
    streaming: dict[str, object], text: str
) -> None:
    assert _streaming_text(streaming) == text

# SPDX-License-Identifier: Apache-2.0
"""The repositories for Triton, read with the messages of Triton's own client.

`make triton-check` runs the one for the Python backend in Triton.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import helper
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelSequenceBatching

import stateport
from stateport import ArraySpec, Contract, ContractError, FileError, InputError, StateportError
from stateport.contract import StateSpec
from stateport.deploy.triton import batch_first
from stateport.deploy.triton.batch_first import check_same_streams
from stateport.deploy.triton.check import check_repository
from stateport.deploy.triton.configuration import Settings
from stateport.deploy.triton.repository import name_of, write_repository
from tests.conftest import Exported
from tests.runtime.conftest import Build


def configuration(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())


def test_the_python_backend_has_all_it_needs(reference: Path, tmp_path: Path) -> None:
    settings = Settings("lstm", capacity=7, batch=3, idle=1.5, threads=2)
    folder = write_repository(reference, tmp_path / "repository", settings)

    config = configuration(folder)
    assert folder == tmp_path / "repository" / "lstm"
    assert (config.name, config.backend, config.max_batch_size) == ("lstm", "python", 3)
    assert [(each.name, [*each.dims]) for each in config.input] == [("x", [-1, 5])]
    assert [(each.name, [*each.dims]) for each in config.output] == [("y", [-1, 10])]
    assert config.input[0].data_type == DataType.TYPE_FP32
    batching = config.sequence_batching
    assert batching.max_sequence_idle_microseconds == 1_500_000
    assert batching.oldest.max_candidate_sequences == 7
    control = ModelSequenceBatching.Control
    assert [each.control[0].kind for each in batching.control_input] == [
        control.CONTROL_SEQUENCE_START,
        control.CONTROL_SEQUENCE_END,
        control.CONTROL_SEQUENCE_READY,
    ]
    assert config.parameters["threads"].string_value == "2"

    assert (folder / "1" / "model.onnx").read_bytes() == reference.read_bytes()
    compile((folder / "1" / "model.py").read_text(), "model.py", "exec")
    contract = Contract.from_json((folder / "contract.json").read_text())
    assert contract == stateport.load(reference).contract
    assert check_repository(tmp_path / "repository", idle=1).findings == ()


def test_implicit_states_are_paired_and_begin_with_zeros(reference: Path, tmp_path: Path) -> None:
    folder = write_repository(reference, tmp_path, Settings("lstm"), backend="onnxruntime")

    config = configuration(folder)
    assert config.backend == "onnxruntime"
    assert not config.sequence_batching.control_input
    states = config.sequence_batching.state
    assert [(each.input_name, each.output_name) for each in states] == [("h0", "hn"), ("c0", "cn")]
    for state in states:
        [initial] = state.initial_state
        assert [*state.dims] == [*initial.dims] == [1, 10]
        assert state.data_type == initial.data_type == DataType.TYPE_FP32
        assert initial.zero_data
    assert check_repository(folder).findings == ()


def test_the_copy_has_the_batch_first_and_gives_the_same_streams(
    exported: Exported, tmp_path: Path
) -> None:
    path = exported(num_layers=2, batch_first=False)
    folder = write_repository(path, tmp_path, Settings("lstm"), backend="onnxruntime")

    copy = stateport.load(folder / "1" / "model.onnx")
    assert [spec.shape for spec in copy.contract.inputs] == [("batch", "time", 5)]
    assert [spec.shape for spec in copy.contract.state_inputs] == [("batch", 2, 10)] * 2
    x = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(np.float32)
    y, state = stateport.load(path)(x)
    turned, turned_state = copy(np.ascontiguousarray(x.swapaxes(0, 1)))
    assert np.array_equal(y, turned.swapaxes(0, 1))
    assert np.array_equal(state["h0"], turned_state["h0"].swapaxes(0, 1))
    onnx.checker.check_model(folder / "1" / "model.onnx", full_check=True)


def test_first_values_of_the_file_are_written_for_triton(learned: Path, tmp_path: Path) -> None:
    folder = write_repository(learned, tmp_path / "r", Settings("sum"), backend="onnxruntime")

    [state] = configuration(folder).sequence_batching.state
    [initial] = state.initial_state
    content = (folder / "initial_state" / initial.data_file).read_bytes()
    assert np.frombuffer(content, np.float32).tolist() == [3, 4]
    assert [*initial.dims] == [1, 2]
    stream = stateport.load(folder / "1" / "model.onnx").stream()
    assert stream(np.ones((1, 2), np.float32)).tolist() == [[4, 5]]
    assert check_repository(folder).findings == ()


def test_one_number_for_each_row_is_reshaped(counter: Path, tmp_path: Path) -> None:
    folder = write_repository(counter, tmp_path / "r", Settings("counter"), backend="onnxruntime")
    [given] = configuration(folder).input
    assert [*given.dims] == [1]
    assert given.HasField("reshape")
    assert [*given.reshape.shape] == []
    assert check_repository(folder).findings == ()


def test_weights_beside_the_file_are_copied(counter: Path, tmp_path: Path) -> None:
    model = onnx.load(counter)
    path = tmp_path / "outside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    folder = write_repository(path, tmp_path / "r", Settings("counter"))
    assert (folder / "1" / "weights.bin").is_file()
    assert stateport.load(folder / "1" / "model.onnx").pool(1).capacity == 1


def test_what_is_there_is_kept(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "lstm").mkdir()
    with pytest.raises(FileError, match="is there already"):
        write_repository(reference, tmp_path, Settings("lstm"))
    assert [each.name for each in tmp_path.iterdir()] == ["lstm"]


def test_nothing_is_left_where_the_work_fails(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_first, "entry_points", lambda **_: [])
    with pytest.raises(StateportError, match="pip install stateport-exporter"):
        write_repository(reference, tmp_path, Settings("lstm"), backend="onnxruntime")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "-x"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no name for a model"):
        name_of(Path("model.onnx"), name)


def test_a_name_that_is_too_long_is_refused() -> None:
    assert name_of(Path("model.onnx"), "x" * 128)
    with pytest.raises(InputError, match="has 129 letters; at most 128 were expected"):
        name_of(Path("model.onnx"), "x" * 129)


def test_a_state_that_grows_is_left_to_the_python_backend(build: Build, tmp_path: Path) -> None:
    contract = Contract(
        inputs=(ArraySpec("x", "float32", ("batch", "time", 2)),),
        outputs=(ArraySpec("y", "float32", ("batch", "time", 2)),),
        states=(StateSpec("h", "hn", "float32", ("batch", "past", 2)),),
    )
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Identity", ["h"], ["hn"]),
    ]
    with pytest.raises((ContractError, StateportError), match="past"):
        write_repository(
            build(contract, nodes), tmp_path / "r", Settings("cache"), backend="onnxruntime"
        )


def test_a_copy_that_gives_something_else_is_noticed(reference: Path, wrong: Path) -> None:
    with pytest.raises(StateportError, match="gives another 'y' in call"):
        check_same_streams(stateport.load(reference), stateport.load(wrong))


def test_the_contract_beside_the_model_is_json(reference: Path, tmp_path: Path) -> None:
    folder = write_repository(reference, tmp_path / "r", Settings("lstm"))
    assert json.loads((folder / "contract.json").read_text())["version"] == 1

# SPDX-License-Identifier: Apache-2.0
"""Repositories that somebody wrote by hand: each mistake is found, and right ones pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stateport import FileError
from stateport.deploy.triton.check import check_repository
from stateport.deploy.triton.configuration import Settings
from stateport.deploy.triton.repository import write_repository

Change = tuple[str, str]

H0 = 'state { input_name: "h0" output_name: "hn"'
C0 = 'state { input_name: "c0" output_name: "cn"'
INITIAL_H0 = 'initial_state { name: "h0" data_type: TYPE_FP32 dims: [1, 10] zero_data: true }'
IDLE = "max_sequence_idle_microseconds: 600000000"


@pytest.fixture(scope="module")
def right(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("right")
    write_repository(reference, folder, Settings("ort"), backend="onnxruntime")
    write_repository(reference, folder, Settings("py"))
    return folder


@pytest.fixture
def changed(right: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of one model's folder with texts replaced in its configuration."""

    def make(model: str, *changes: Change) -> Path:
        folder = tmp_path / model
        shutil.copytree(right / model, folder)
        config = folder / "config.pbtxt"
        text = config.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        config.write_text(text)
        return folder

    return make


def findings(folder: Path, **options: float) -> list[str]:
    return [each.text for each in check_repository(folder, **options).findings]


def test_right_ones_pass(right: Path) -> None:
    report = check_repository(right)
    assert (report.models, report.findings) == (2, ())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            [(H0, 'state { input_name: "h0" output_name: "cn"')],
            "states are crossed: 'h0' gets its next value from 'cn'; by the contract it comes",
        ),
        ([(INITIAL_H0, "")], "'h0' has no initial_state: a sequence would begin with whatever"),
        (
            [(INITIAL_H0, INITIAL_H0.replace("zero_data: true", ""))],
            "'h0' has an initial_state without values",
        ),
        (
            [(INITIAL_H0, INITIAL_H0.replace("[1, 10]", "[-1, 10]"))],
            "the initial_state of 'h0' is TYPE_FP32 [-1, 10]; TYPE_FP32 [1, 10] was expected",
        ),
        (
            [(INITIAL_H0, INITIAL_H0.replace("zero_data: true", 'data_file: "h0"'))],
            "the first value of 'h0' is missing: there is no file",
        ),
        (
            [(IDLE, "")],
            "max_sequence_idle_microseconds is not set: Triton ends a",
        ),
        ([(IDLE, "max_sequence_idle_microseconds: 2000000")], "a sequence ends after 2 s"),
        ([('name: "x"', 'name: "X"')], "the input 'X' is not in the file, which has x."),
        ([('name: "x"', 'name: "X"')], "the input 'x' of the file is missing"),
        ([("output {", "# output {")], "the output 'y' of the file is missing"),
        (
            [("TYPE_FP32 dims: [-1, 5]", "TYPE_FP16 dims: [-1, 5]")],
            "the input 'x' has data_type TYPE_FP16; in the file it is TYPE_FP32",
        ),
        (
            [("dims: [-1, 5]", "dims: [-1, -1, 5]")],
            "the input 'x' has dims [-1, -1, 5]; in the file they are [-1, 5], without the batch",
        ),
        ([("dims: [-1, 10]", "dims: [-1, -1]")], "the output 'y' has dims [-1, -1]"),
        (
            [(f"{H0} data_type: TYPE_FP32", f"{H0} data_type: TYPE_INT32")],
            "the state 'h0' has data_type TYPE_INT32",
        ),
        ([(f"{C0} data_type: TYPE_FP32 dims: [1, 10]", f"{C0} dims: [10]")], "'c0' has dims [10]"),
        ([('input_name: "h0"', 'input_name: "h"')], "'h' is a state here, but not in the file"),
        ([('input_name: "h0"', 'input_name: "h"')], "the state 'h0' of the file is missing"),
        ([('input_name: "h0"', 'input_name: "c0"')], "the state 'c0' is there 2 times"),
        (
            [
                ('input_name: "h0"', 'input_name: "h"'),
                ("output {", 'input { name: "h0" data_type: TYPE_FP32 dims: [1, 10] } output {'),
            ],
            "the state 'h0' is an ordinary input: every client would have to send it",
        ),
        (
            [("output {", 'input { name: "h0" data_type: TYPE_FP32 dims: [1, 10] } output {')],
            "the state 'h0' is an ordinary input too",
        ),
        (
            [("output {", 'input { name: "x" data_type: TYPE_FP32 dims: [-1, 5] } output {')],
            "the input 'x' is there 2 times",
        ),
        ([('name: "ort"', 'name: "other"')], "the name is 'other', and the folder is 'ort'"),
        (
            [("max_batch_size: 256", "max_batch_size: 256 max_batch_size: 8")],
            "the configuration has the field max_batch_size 2 times",
        ),
        (
            [("max_batch_size: 256", "max_batch_size: 99999999999")],
            "a number of 32 bits was expected",
        ),
        (
            [(INITIAL_H0, INITIAL_H0.replace("zero_data: true", 'data_file: "/etc/passwd"'))],
            "data_file is '/etc/passwd', which leads out of the model's folder",
        ),
        (
            [("parameters {", 'default_model_filename: "../../m.onnx" parameters {')],
            "default_model_filename is '../../m.onnx', which leads out",
        ),
        (
            [("oldest {", 'control_input [ { name: "START" } ] oldest {')],
            "the control input 'START' is not an input of the file",
        ),
        ([("sequence_batching", "sequence_batch")], "a field 'sequence_batch', which Triton does"),
        ([("sequence_batching", "sequence_batch")], "there is no sequence_batching"),
        ([("zero_data", "zero_dat")], "an initial_state has a field 'zero_dat'"),
        ([('backend: "onnxruntime"', 'backend: "tensorrt"')], "the backend is tensorrt"),
        ([('backend: "onnxruntime"', "")], "the backend is not named"),
        (
            [("sequence_batching {", "dynamic_batching { } sequence_batching {")],
            "has dynamic_batching and sequence_batching; Triton takes one of them",
        ),
        ([("oldest {", "direct {")], "direct has a field 'max_candidate_sequences'"),
        (
            [("oldest {", "control_input { control { kind: CONTROL_SEQUENCE_BEGIN } } oldest {")],
            "a control has the kind 'CONTROL_SEQUENCE_BEGIN'; one of CONTROL_SEQUENCE_START",
        ),
        ([("max_batch_size: 256", "max_batch_size: -5")], "is -5; 0 or more was expected"),
        (
            [("parameters {", "version_policy { specific { versions: [1, 3] } } parameters {")],
            "version_policy names version 3, and there is no such folder",
        ),
        (
            [("parameters {", "version_policy { all {} latest { num_versions: 2 } } parameters {")],
            "version_policy has all and latest; one of them was expected",
        ),
        (
            [("parameters {", "version_policy { newest { num_versions: 2 } } parameters {")],
            "version_policy has a field 'newest'",
        ),
        ([("max_batch_size: 256", "max_batch_size: many")], "max_batch_size is 'many'; a whole"),
        ([("max_batch_size: 256", "max_batch_size: 0")], "the input 'x' has dims [-1, 5]; in the"),
        ([("parameters {", 'default_model_filename: "m.onnx" parameters {')], "no file m.onnx"),
        ([("sequence_batching {", "sequence_batching [")], "config.pbtxt, line"),
    ],
)
def test_a_mistake_is_found(changed: Callable[..., Path], changes: list[Change], says: str) -> None:
    assert any(says in text for text in findings(changed("ort", *changes)))


@pytest.mark.parametrize("name", ["capacity", "threads"])
def test_a_parameter_that_is_no_number_is_found(changed: Callable[..., Path], name: str) -> None:
    folder = changed(
        "py",
        (f'key: "{name}" value {{ string_value: "', f'key: "{name}" value {{ string_value: "x'),
    )
    assert any(f"the parameter {name} is 'x" in text for text in findings(folder))


def test_parameters_that_stateport_cannot_run_with_are_found(
    changed: Callable[..., Path],
) -> None:
    folder = changed(
        "py",
        ('key: "threads" value { string_value: "1"', 'key: "threads" value { string_value: "0"'),
        ('string_value: "ort-cpu"', 'string_value: "ort-cuba"'),
    )
    threads, engine = findings(folder)
    assert threads.startswith("the parameter threads is '0'; a whole number of at least 1")
    assert engine.startswith("the parameter engine is 'ort-cuba'; one of ort-cpu, ")
    assert engine.endswith("Did you mean 'ort-cuda'?")


@pytest.mark.parametrize("name", ["engine", "threads", "capacity"])
def test_parameters_that_stateport_needs_are_missed(
    changed: Callable[..., Path], name: str
) -> None:
    folder = changed("py", (f'key: "{name}"', f'key: "{name}y"'))
    assert f"the parameter {name} is missing, which model.py reads. Add it." in findings(folder)
    (folder / "1" / "model.py").write_text("# another one")
    assert findings(folder) == []


def test_one_mistake_is_one_finding(changed: Callable[..., Path]) -> None:
    crossed = [(H0, H0.replace("hn", "??")), (C0, C0.replace("cn", "hn")), ("??", "cn")]
    texts = findings(changed("ort", *crossed))
    assert len(texts) == 2
    assert all("states are crossed" in text for text in texts)


def test_a_batch_axis_that_is_not_first_is_found(
    changed: Callable[..., Path], reference: Path
) -> None:
    folder = changed("ort")
    shutil.copy(reference, folder / "1" / "model.onnx")
    assert any(
        "first axis of h0: float32[1, batch, 10] is not the batch" in text
        for text in findings(folder)
    )


def test_without_batching_the_whole_shapes_are_right(
    changed: Callable[..., Path], reference: Path
) -> None:
    folder = changed(
        "ort",
        ("max_batch_size: 256", "max_batch_size: 0"),
        ("dims: [-1, 5]", "dims: [-1, -1, 5]"),
        ("dims: [-1, 10]", "dims: [-1, -1, 10]"),
        ("dims: [1, 10]", "dims: [1, 1, 10]"),
    )
    shutil.copy(reference, folder / "1" / "model.onnx")
    assert findings(folder) == []


def test_a_first_value_of_another_size_is_found(
    changed: Callable[..., Path],
) -> None:
    folder = changed("ort", (INITIAL_H0, INITIAL_H0.replace("zero_data: true", 'data_file: "h0"')))
    (folder / "initial_state").mkdir()
    (folder / "initial_state" / "h0").write_bytes(bytes(36))
    assert findings(folder) == ["the first value of 'h0' has 36 bytes in h0; 40 were expected."]
    (folder / "initial_state" / "h0").write_bytes(bytes(40))
    assert findings(folder) == []


def test_zeros_in_place_of_values_of_the_file_are_found(learned: Path, tmp_path: Path) -> None:
    folder = write_repository(learned, tmp_path / "r", Settings("sum"), backend="onnxruntime")
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace('data_file: "state_0.bin"', "zero_data: true"))
    [text] = findings(folder)
    assert "begins with zeros; by the contract it begins with values of the file" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([(IDLE, "")], "max_sequence_idle_microseconds is not set"),
        ([("dims: [-1, 5]", "dims: [-1, 6]")], "the input 'x' has dims [-1, 6]"),
        ([("max_candidate_sequences: 1024", "max_candidate_sequences: 2048")], "would be dropped"),
    ],
)
def test_the_python_backend_is_checked_as_well(
    changed: Callable[..., Path], changes: list[Change], says: str
) -> None:
    assert any(says in text for text in findings(changed("py", *changes)))


def test_files_that_are_missing_are_found(changed: Callable[..., Path], reference: Path) -> None:
    folder = changed("py")
    (folder / "1" / "model.onnx").unlink()
    [text] = findings(folder)
    assert "nothing of it can be checked" in text

    (folder / "1" / "model.py").unlink()
    assert findings(folder) == ["version 1 has no file model.py."]
    shutil.rmtree(folder / "1")
    assert findings(folder) == [
        "there is no version: a folder with a number as its name, 1, was expected."
    ]
    shutil.copytree(folder, folder.parent / "other")
    (folder / "config.pbtxt").unlink()
    assert any("there is no config.pbtxt" in text for text in findings(folder.parent))


def test_the_expected_time_between_two_chunks_decides(right: Path) -> None:
    assert findings(right, idle=600) == []
    assert len(findings(right, idle=601)) == 2


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has no model with a config\.pbtxt"):
        check_repository(tmp_path)
    with pytest.raises(FileError, match="is no folder"):
        check_repository(tmp_path / "missing")

# SPDX-License-Identifier: Apache-2.0
"""The text format, read as Google's own parser reads it."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from stateport import FileError
from stateport.deploy.triton.read_configuration import FIELDS, KINDS
from stateport.deploy.triton.text_format import Message, parse, quoted

EVERY_FORM = r"""
# A comment with "quotes" and { braces }.
name: "a" 'b' "\x63\144\n\"" max_batch_size: 0x10;
input [ { name: "x", data_type: TYPE_FP32 dims: [ -1, 5 ] }, < name: 'z' dims: -1 dims: 3 > ],
output: [ { name: "y" data_type: TYPE_FP32 dims: [] } ]
sequence_batching: { state { input_name: "h" initial_state { zero_data: true } } }
parameters { key: "k" value { string_value: "v # no comment" } }
"""


def test_every_form_is_read_as_by_google() -> None:
    ours = parse(EVERY_FORM, "config.pbtxt")
    theirs = text_format.Parse(EVERY_FORM, ModelConfig())

    assert ours.text("name") == theirs.name == 'abcd\n"'
    assert int(ours.text("max_batch_size"), 0) == theirs.max_batch_size == 16
    inputs = [
        (each.text("name"), [*map(int, each.texts("dims"))]) for each in ours.messages("input")
    ]
    assert inputs == [(each.name, [*each.dims]) for each in theirs.input]
    assert inputs == [("x", [-1, 5]), ("z", [-1, 3])]
    assert [each.texts("dims") for each in ours.messages("output")] == [[]]

    [state] = (ours.message("sequence_batching") or Message()).messages("state")
    assert (state.message("initial_state") or Message()).text("zero_data") == "true"
    [parameter] = ours.messages("parameters")
    assert (parameter.message("value") or Message()).text("string_value") == "v # no comment"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name", "a colon or '{' was expected"),
        ("name:", "the end of the file came; a value was expected"),
        ("input { name: 'x'", "the name of a field was expected"),
        ("\n\ndims: [ 1 2 ]", "line 3: '2' came; a comma or ']' was expected"),
        ("} ", "the name of a field was expected"),
        ('name: "x', "is not in the text format"),
        ("input { " * 40, "more than 32 messages"),
        ("\x00", "is not in the text format"),
    ],
)
def test_what_is_not_the_format_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(FileError, match=r"config\.pbtxt, line") as error:
        parse(text, "config.pbtxt")
    assert says in str(error.value)
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text, ModelConfig())


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_any_text_can_be_quoted(text: str) -> None:
    written = f"name: {quoted(text)}"
    assert text_format.Parse(written, ModelConfig()).name == text
    assert parse(written, "").text("name") == text


def test_the_fields_are_those_of_triton() -> None:
    batching = ModelConfig.DESCRIPTOR.fields_by_name["sequence_batching"].message_type
    state = batching.fields_by_name["state"].message_type
    control_input = batching.fields_by_name["control_input"].message_type
    control = control_input.fields_by_name["control"].message_type
    messages = {
        "ModelConfig": ModelConfig.DESCRIPTOR,
        "sequence_batching": batching,
        "state": state,
        "initial_state": state.fields_by_name["initial_state"].message_type,
        "direct": batching.fields_by_name["direct"].message_type,
        "oldest": batching.fields_by_name["oldest"].message_type,
        "control_input": batching.fields_by_name["control_input"].message_type,
        "control": control,
        "version_policy": ModelConfig.DESCRIPTOR.fields_by_name["version_policy"].message_type,
    }
    for name, fields in FIELDS.items():
        assert {*fields} == {field.name for field in messages[name].fields}
    assert {*KINDS} == {kind.name for kind in control.fields_by_name["kind"].enum_type.values}

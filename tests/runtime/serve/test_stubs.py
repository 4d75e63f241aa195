# SPDX-License-Identifier: Apache-2.0
"""The messages of gRPC are those that are published, and those that the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient.grpc import model_config_pb2, service_pb2

from stateport.serve.wire import open_inference

FOLDER = Path(open_inference.__file__).parent


def described(names: list[Any], prefix: str = "") -> dict[str, tuple[int, int, int, str]]:
    """Every field: number, type, label, and the name of its message, without the package."""
    fields = {}
    for message in names:
        full = f"{prefix}{message.name}"
        for field in message.field:
            kind = field.type_name.removeprefix(".stateport.open_inference.")
            kind = kind.removeprefix(".inference.")
            fields[f"{full}.{field.name}"] = (field.number, field.type, field.label, kind)
        fields |= described(message.nested_type, f"{full}.")
    return fields


def ours() -> FileDescriptorProto:
    return FileDescriptorProto.FromString((FOLDER / "open_inference.binpb").read_bytes())


def test_every_field_is_as_published() -> None:
    published: dict[str, tuple[int, int, int, str]] = {}
    for module in (service_pb2, model_config_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        published |= described(list(file.message_type))

    fields = described(list(ours().message_type))
    assert len(fields) > 100
    assert {name: published.get(name) for name in fields} == fields


def test_the_text_and_the_description_agree() -> None:
    text = (FOLDER / "open_inference.proto").read_text(encoding="utf-8")
    written = re.findall(r"(\w+) = (\d+);", text)
    described_pairs = [
        (name.rpartition(".")[2], str(field[0]))
        for name, field in described(list(ours().message_type)).items()
        if "Entry." not in name
    ]
    values = [(value.name, str(value.number)) for value in ours().enum_type[0].value]
    assert sorted(written) == sorted(described_pairs + values)


def test_a_process_may_have_tritons_client_as_well() -> None:
    request = open_inference.ModelInferRequest(model_name="m", raw_input_contents=[b"1"])
    theirs = service_pb2.ModelInferRequest.FromString(request.SerializeToString())
    assert theirs.model_name == "m"
    assert theirs.SerializeToString() == request.SerializeToString()

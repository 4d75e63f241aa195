# SPDX-License-Identifier: Apache-2.0
"""A `config.pbtxt` as somebody wrote it, read into what stateport compares with a model's file.

The names are those of `model_config.proto`
(https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import FileError
from ...files.paths import opened
from ...picking import without
from ...shown import shown
from ...suggestions import did_you_mean
from .text_format import Message, parse

#: The fields of the messages that are read here. Triton does not load a file with another one.
FIELDS: Final = {
    "ModelConfig": [
        "name", "platform", "backend", "runtime", "version_policy", "max_batch_size", "input",
        "output", "batch_input", "batch_output", "optimization", "dynamic_batching",
        "sequence_batching", "ensemble_scheduling", "instance_group", "default_model_filename",
        "cc_model_filenames", "metric_tags", "parameters", "model_warmup", "model_operations",
        "model_transaction_policy", "model_repository_agents", "response_cache", "model_metrics",
    ],
    "sequence_batching": [
        "direct", "oldest", "max_sequence_idle_microseconds", "control_input", "state",
        "iterative_sequence",
    ],
    "state": [
        "input_name", "output_name", "data_type", "dims", "initial_state",
        "use_same_buffer_for_input_output", "use_growable_memory",
    ],
    "initial_state": ["data_type", "dims", "zero_data", "data_file", "name"],
    "version_policy": ["latest", "all", "specific"],
    "direct": ["max_queue_delay_microseconds", "minimum_slot_utilization"],
    "oldest": [
        "max_candidate_sequences", "preferred_batch_size", "max_queue_delay_microseconds",
        "preserve_ordering",
    ],
    "control_input": ["name", "control"],
    "control": ["kind", "int32_false_true", "fp32_false_true", "bool_false_true", "data_type"],
}  # fmt: skip
#: What the field `kind` of a control may be.
KINDS: Final = (
    "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END",
    "CONTROL_SEQUENCE_CORRID",
)  # fmt: skip
#: Fields that have one value. Triton does not load a file in which one is there twice.
_SINGLE: Final = {
    "ModelConfig": [
        "name", "platform", "backend", "runtime", "version_policy", "max_batch_size",
        "sequence_batching", "default_model_filename",
    ],
    "sequence_batching": ["direct", "oldest", "max_sequence_idle_microseconds"],
    "state": ["input_name", "output_name", "data_type"],
    "initial_state": ["data_type", "zero_data", "data_file", "name"],
    "version_policy": ["latest", "all", "specific"],
}  # fmt: skip
#: Ways to join requests, of which a configuration has one.
_BATCHINGS: Final = ("dynamic_batching", "sequence_batching", "ensemble_scheduling")
#: The bits of numbers that have fewer than 64.
_BITS: Final = {"max_batch_size": 32, "max_candidate_sequences": 32}
#: A configuration is some kilobytes.
_MOST_BYTES: Final = 1 << 20
_PLATFORMS: Final = {"onnxruntime_onnx": "onnxruntime"}


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: its name.
        dtype: as TYPE_FP32.
        dims: its dims as the backend gets them: those of `reshape`, where there is one.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class InitialState:
    """The first value of a state: zeros unless `data_file` names a file.

    Attributes:
        dtype: as TYPE_FP32.
        dims: its dims.
        has_data: whether it says what the values are.
        data_file: the file with the values; empty for zeros.
    """

    dtype: str
    dims: tuple[int, ...]
    has_data: bool
    data_file: str


@dataclass(frozen=True)
class ImplicitState:
    """A state that Triton keeps."""

    input: str
    output: str
    dtype: str
    dims: tuple[int, ...]
    initial: InitialState | None


@dataclass(frozen=True)
class Configuration:
    """What is compared.

    Attributes:
        name: the model's name; empty where the folder's name is meant.
        backend: the backend, also where the older `platform` names it; empty where neither does.
        model_file: the file in a version's folder; empty for the backend's default.
        batch: `max_batch_size`.
        inputs: the inputs.
        outputs: the outputs.
        has_sequences: whether there is `sequence_batching`.
        idle: `max_sequence_idle_microseconds`; 0 where it is not set.
        candidates: `max_candidate_sequences`; 0 where it is not set.
        controls: the names of the control inputs.
        states: the implicit states.
        versions: the versions that `version_policy` names one by one.
        parameters: `parameters`.
        unknown: fields that Triton's configuration has not, or not twice, in words.
    """

    name: str
    backend: str
    model_file: str
    batch: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    has_sequences: bool
    idle: int
    candidates: int
    controls: tuple[str, ...]
    states: tuple[ImplicitState, ...]
    versions: tuple[str, ...]
    parameters: dict[str, str]
    unknown: tuple[str, ...]


def read_configuration(path: Path) -> Configuration:
    """Reads a configuration.

    Raises:
        FileError: it cannot be read, is not in the text format, or has something else where a
            number is expected.
    """
    with opened(path, "a configuration") as file:
        content = file.read(_MOST_BYTES + 1)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise FileError(f"{path} is no text in UTF-8; a configuration was expected.") from None
    if len(content) > _MOST_BYTES:
        raise FileError(f"{path} has more than {_MOST_BYTES} bytes; a configuration was expected.")

    config = parse(text, str(path))
    sequences = config.message("sequence_batching")
    batching = sequences or Message()
    oldest = batching.message("oldest") or Message()
    platform = config.text("platform")
    return Configuration(
        name=config.text("name"),
        backend=config.text("backend") or _PLATFORMS.get(platform, platform),
        model_file=config.text("default_model_filename"),
        batch=_integer(config, "max_batch_size", path),
        inputs=tuple(_port(each, path) for each in config.messages("input")),
        outputs=tuple(_port(each, path) for each in config.messages("output")),
        has_sequences=sequences is not None,
        idle=_integer(batching, "max_sequence_idle_microseconds", path),
        candidates=_integer(oldest, "max_candidate_sequences", path),
        controls=tuple(each.text("name") for each in batching.messages("control_input")),
        states=tuple(_state(each, path) for each in batching.messages("state")),
        versions=tuple(_versions(config)),
        parameters=dict(_parameters(config)),
        unknown=tuple(_unknown(config)),
    )


def _port(message: Message, path: Path) -> Port:
    reshape = message.message("reshape")
    dims = _dims(message, "dims", path) if reshape is None else _dims(reshape, "shape", path)
    return Port(message.text("name"), message.text("data_type"), dims)


def _state(message: Message, path: Path) -> ImplicitState:
    first = message.message("initial_state")
    initial = None
    if first is not None:
        initial = InitialState(
            first.text("data_type"),
            _dims(first, "dims", path),
            bool(first.texts("zero_data") or first.texts("data_file")),
            first.text("data_file"),
        )
    return ImplicitState(
        message.text("input_name"),
        message.text("output_name"),
        message.text("data_type"),
        _dims(message, "dims", path),
        initial,
    )


def _versions(config: Message) -> Iterator[str]:
    policy = config.message("version_policy") or Message()
    specific = policy.message("specific") or Message()
    yield from specific.texts("versions")


def _parameters(config: Message) -> Iterator[tuple[str, str]]:
    for each in config.messages("parameters"):
        value = each.message("value") or Message()
        yield each.text("key"), value.text("string_value")


def _unknown(config: Message) -> Iterator[str]:
    """The fields that no such message has, each in words."""
    yield from _unknown_in(config, "ModelConfig", "the configuration")
    for batching in config.messages("sequence_batching"):
        yield from _unknown_in(batching, "sequence_batching", "sequence_batching")
        for strategy in ("direct", "oldest"):
            for message in batching.messages(strategy):
                yield from _unknown_in(message, strategy, strategy)
        for control_input in batching.messages("control_input"):
            yield from _unknown_control(control_input)
        for state in batching.messages("state"):
            yield from _unknown_in(state, "state", "a state")
            for initial in state.messages("initial_state"):
                yield from _unknown_in(initial, "initial_state", "an initial_state")
    batchings = [name for name in _BATCHINGS if config.messages(name)]
    if len(batchings) > 1:
        yield (
            f"the configuration has {' and '.join(batchings)}; Triton takes one of them. Leave "
            "sequence_batching."
        )
    for policy in config.messages("version_policy"):
        yield from _unknown_in(policy, "version_policy", "version_policy")
        if len(policy.fields) > 1:
            yield f"version_policy has {' and '.join(policy.fields)}; one of them was expected."


def _unknown_control(control_input: Message) -> Iterator[str]:
    """The fields and kinds that no control input has, each in words."""
    yield from _unknown_in(control_input, "control_input", "a control_input")
    for control in control_input.messages("control"):
        yield from _unknown_in(control, "control", "a control")
        for kind in without(control.texts("kind"), KINDS):
            yield (
                f"a control has the kind {shown(kind)}; one of {', '.join(KINDS)} was expected."
                f"{did_you_mean(kind, KINDS)}"
            )


def _unknown_in(message: Message, kind: str, words: str) -> Iterator[str]:
    for name in without(message.fields, FIELDS[kind]):
        yield (
            f"{words} has a field {shown(name)}, which Triton does not know, so that it does "
            f"not load the model.{did_you_mean(name, FIELDS[kind])}"
        )
    for name in _SINGLE.get(kind, ()):
        count = len(message.fields.get(name, ()))
        if count > 1:
            yield (
                f"{words} has the field {name} {count} times, so that Triton does not load the "
                "model. Leave one."
            )


def _dims(message: Message, name: str, path: Path) -> tuple[int, ...]:
    return tuple(_number(text, name, path) for text in message.texts(name))


def _integer(message: Message, name: str, path: Path) -> int:
    """The field as a number; 0 where it is not set, as everywhere in Protocol Buffers.

    Raises:
        FileError: it is no number, or a negative one.
    """
    number = _number(message.text(name, "0"), name, path)
    if number < 0:
        raise FileError(f"{path}: {name} is {number}; 0 or more was expected. Correct it.")
    return number


def _number(text: str, name: str, path: Path) -> int:
    bits = _BITS.get(name, 64)
    try:
        number = int(text, 0) if text.lower().startswith(("0x", "-0x")) else int(text)
    except ValueError:
        raise FileError(
            f"{path}: {name} is {shown(text)}; a whole number was expected. Correct it."
        ) from None
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise FileError(
            f"{path}: {name} is {shown(text)}; a number of {bits} bits was expected. Correct it."
        )
    return number

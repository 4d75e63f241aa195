# SPDX-License-Identifier: Apache-2.0
"""The text of `config.pbtxt` for a model, for each of the two backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ...contract import ArraySpec, Contract, StateSpec
from ...errors import ContractError
from .datatypes import TYPES, dims_of
from .text_format import quoted


@dataclass(frozen=True)
class Settings:
    """What a repository says beside what the model's contract says.

    Attributes:
        name: the model's name in Triton.
        capacity: the most live sequences.
        batch: the most sequences in one call of the backend.
        idle: the seconds after which a sequence that is not used ends.
        engine: stateport's engine, for the Python backend.
        threads: of the engine.
    """

    name: str
    capacity: int = 1024
    batch: int = 256
    idle: float = 600.0
    engine: str = "ort-cpu"
    threads: int = 1


_PYTHON: Final = """\
sequence_batching {{
  max_sequence_idle_microseconds: {idle}
  # No CORRID: the backend asks each request for its sequence's id. A control input for the id takes
  # integers or texts, never both, and fails for batches of texts.
  oldest {{ max_candidate_sequences: {capacity} max_queue_delay_microseconds: 0 }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "END" control [ {{ kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "READY" control [ {{ kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }} ] }}
  ]
}}
# One process holds the pool with the states; more instances would each have a pool of their own.
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "engine" value {{ string_value: {engine} }} }}
parameters {{ key: "threads" value {{ string_value: "{threads}" }} }}
parameters {{ key: "capacity" value {{ string_value: "{capacity}" }} }}
"""
_ONNXRUNTIME: Final = """\
sequence_batching {{
  max_sequence_idle_microseconds: {idle}
  oldest {{ max_candidate_sequences: {capacity} max_queue_delay_microseconds: 0 }}
  # Triton keeps these from request to request, paired as the model's contract pairs them.
{states}
}}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}
"""


def python_configuration(contract: Contract, settings: Settings) -> str:
    """The configuration for the Python backend, with stateport inside.

    Raises:
        ContractError: an input or output has no batch axis.
    """
    rest = _PYTHON.format(
        idle=_microseconds(settings.idle),
        capacity=settings.capacity,
        engine=quoted(settings.engine),
        threads=settings.threads,
    )
    return _head("python", contract, settings) + rest


def onnxruntime_configuration(
    contract: Contract, settings: Settings, initial_files: Mapping[str, str]
) -> str:
    """The configuration for the ONNX Runtime backend, with implicit state.

    Every state gets an `initial_state`: without one, Triton hands over memory as it finds it. The
    values of a state whose first value is in the file are read from a file of their own.

    Args:
        contract: the contract of the file that Triton loads.
        settings: what is not in the contract.
        initial_files: by state input, the name of the file in the folder `initial_state`.

    Raises:
        ContractError: an array has no batch axis or not first, or a state has another dynamic axis.
    """
    for spec in (*contract.inputs, *contract.outputs, *contract.state_inputs):
        _check_batch_first(spec)
    rest = _ONNXRUNTIME.format(
        idle=_microseconds(settings.idle),
        capacity=settings.capacity,
        threads=settings.threads,
        states="\n".join(_state(spec, initial_files.get(spec.input)) for spec in contract.states),
    )
    return _head("onnxruntime", contract, settings) + rest


def _head(backend: str, contract: Contract, settings: Settings) -> str:
    lines = [
        "# Written by `stateport deploy triton`.",
        f"name: {quoted(settings.name)}",
        f'backend: "{backend}"',
        f"max_batch_size: {settings.batch}",
        *_ports("input", contract.inputs),
        *_ports("output", contract.outputs),
    ]
    return "".join(f"{line}\n" for line in lines)


def _ports(kind: str, specs: tuple[ArraySpec, ...]) -> Iterator[str]:
    for spec in specs:
        if "batch" not in spec.shape:
            raise ContractError(
                f"The {kind} {spec} has no batch axis, and Triton batches every input and output. "
                "Export the network with one, or serve it with `stateport serve`."
            )
        dims = dims_of(spec.shape, batched=True)
        # An array with one number for each row: Triton has no empty `dims`.
        shape = f"dims: {dims}" if dims else "dims: [ 1 ] reshape { shape: [ ] }"
        yield f"{kind} {{ name: {quoted(spec.name)} data_type: {TYPES[spec.dtype]} {shape} }}"


def _check_batch_first(spec: ArraySpec) -> None:
    if "batch" not in spec.shape or spec.shape.index("batch") != 0:
        raise ContractError(
            f"{spec} has no batch axis in the first place, where Triton's ONNX Runtime backend "
            "takes it. Pass --backend python, which takes it anywhere."
        )


def _state(spec: StateSpec, file: str | None) -> str:
    """One entry `state`, which starts from zeros or from a file."""
    dims = dims_of(spec.shape, batched=True)
    if -1 in dims:
        raise ContractError(
            f"The state {spec} has a dynamic axis beside the batch; Triton counts it as 1 in a "
            "first state. Pass --backend python, which takes such states."
        )
    if not dims:
        raise ContractError(
            f"The state {spec} has no axis but the batch; Triton's states have one more. Pass "
            "--backend python, which takes such states."
        )

    kind = TYPES[spec.dtype]
    data = "zero_data: true" if file is None else f"data_file: {quoted(file)}"
    return (
        f"  state {{ input_name: {quoted(spec.input)} output_name: {quoted(spec.output)} "
        f"data_type: {kind} dims: {dims}\n"
        f"    initial_state {{ name: {quoted(spec.input)} data_type: {kind} dims: {dims} {data} }} "
        "}"
    )


def _microseconds(seconds: float) -> int:
    return max(round(seconds * 1e6), 1)

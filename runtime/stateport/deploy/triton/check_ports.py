# SPDX-License-Identifier: Apache-2.0
"""What would go wrong with the inputs and outputs of a configuration, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...contract import ArraySpec, Contract, by_name, names_of
from ...picking import without
from ...suggestions import did_you_mean
from .datatypes import TYPES, dims_of
from .read_configuration import Configuration, Port


def check_ports(config: Configuration, contract: Contract) -> Iterator[str]:
    """What is wrong with names, dtypes and dims of the inputs and outputs."""
    batched = config.batch > 0
    kept = {state.input for state in config.states}
    for port in config.inputs:
        if port.name in kept:
            yield (
                f"the state {port.name!r} is an ordinary input too, which every client would have "
                "to send. Leave it out of the inputs."
            )

    state_inputs = names_of(contract.state_inputs)
    inputs = [port for port in config.inputs if port.name not in state_inputs]
    yield from _check_kind("input", inputs, contract.inputs, batched)

    # A client may ask for the next values of states, which are then outputs as well.
    asked = {port.name for port in config.outputs}
    states = [spec for spec in contract.state_outputs if spec.name in asked]
    yield from _check_kind("output", config.outputs, [*contract.outputs, *states], batched)

    if config.backend == "onnxruntime":
        yield from _check_controls(config, contract)


def check_batch_axes(config: Configuration, contract: Contract) -> Iterator[str]:
    """Arrays of which Triton would take another axis for the batch."""
    if config.batch <= 0:
        return

    specs = (*contract.inputs, *contract.outputs, *contract.state_inputs)
    for spec in specs:
        if "batch" not in spec.shape:
            yield (
                f"max_batch_size is {config.batch}, and {spec} has no batch axis. Write "
                "max_batch_size: 0 and the whole shapes."
            )
        elif spec.shape.index("batch") != 0:
            yield (
                f"max_batch_size is {config.batch}, and the first axis of {spec} is not the batch: "
                "Triton would join sequences along the wrong axis. `stateport deploy triton "
                "--backend onnxruntime` writes a copy with the batch first."
            )


def _check_kind(
    kind: str, ports: Sequence[Port], specs: Sequence[ArraySpec], batched: bool
) -> Iterator[str]:
    """What is wrong with all inputs, or with all outputs."""
    known = by_name(specs)
    names = [port.name for port in ports]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"the {kind} {name!r} is there {names.count(name)} times. Leave one."

    for port in ports:
        if port.name in known:
            yield from _check_port(kind, port, known[port.name], batched)
        else:
            yield (
                f"the {kind} {port.name!r} is not in the file, which has {', '.join(known)}."
                f"{did_you_mean(port.name, known)}"
            )

    for name in known.keys() - {*names}:
        yield f"the {kind} {name!r} of the file is missing. Add it."


def _check_port(kind: str, port: Port, spec: ArraySpec, batched: bool) -> Iterator[str]:
    if port.dtype != TYPES[spec.dtype]:
        yield (
            f"the {kind} {port.name!r} has data_type {port.dtype or 'none'}; in the file it is "
            f"{TYPES[spec.dtype]}."
        )

    dims = dims_of(spec.shape, batched=batched)
    if not _fits([*port.dims], dims):
        yield (
            f"the {kind} {port.name!r} has dims {[*port.dims]}; in the file they are {dims}"
            f"{', without the batch axis' if batched else ', with the batch axis'}."
        )


def _fits(given: list[int], dims: list[int]) -> bool:
    """Whether the backend takes these dims: a dynamic axis of the file may be fixed."""
    if len(given) != len(dims):
        return False
    return all(size in (-1, axis) for axis, size in zip(given, dims, strict=True))


def _check_controls(config: Configuration, contract: Contract) -> Iterator[str]:
    """Control inputs that the graph does not have."""
    for name in without(config.controls, names_of(contract.inputs)):
        yield (
            f"the control input {name!r} is not an input of the file. Leave it out: with "
            "initial_state, implicit states need no controls."
        )

# SPDX-License-Identifier: Apache-2.0
"""One step of a model, in which every size is a number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir
from onnxscript import optimizer

from stateport.axes import Axis, resolve
from stateport.contract import ArraySpec, Contract, has_time
from stateport.errors import first_line

from ..errors import ExportError
from ..graph.dataflow import forget_shapes
from ..variants.single_step import single_step, write_out_single_steps
from .names import give_names

#: Constants that are computed beforehand are no larger than this, in elements.
_MOST_FOLDED: Final = 1 << 16


@dataclass(frozen=True)
class FixedStep:
    """One step of a model.

    Attributes:
        model: the graph, in which every input and output has a shape of numbers.
        contract: the contract, with the same numbers.
        open_contract: the contract as the file has it.
        batch: the rows of the batch.
        time: the entries along time that one step takes; 1 for most networks, and for those
            without a time axis.
        names: the names of inputs, outputs and states in C, by those in the contract.
    """

    model: onnx.ModelProto
    contract: Contract
    open_contract: Contract
    batch: int
    time: int
    names: Mapping[str, str]


def fixed_step(path: Path, contract: Contract, batch: int, prefix: str) -> FixedStep:
    """Makes one step of a model's file.

    Args:
        path: the model's file.
        contract: its contract.
        batch: the rows of the batch.
        prefix: what the names of the functions and the type in the header begin with.

    Raises:
        ExportError: the network has no step of a fixed size, with the reason.
    """
    _check_streams(contract)
    time = _steps_per_call(contract)
    sizes = {"batch": batch, "time": time}
    fixed = _fixed_contract(contract, sizes)

    model = _plain_step(path) if time == 1 else None
    if model is None:
        model = ir.load(path)
    _fix_shapes(model, fixed)
    _fold(model)
    if time > 1:
        with contextlib.suppress(ExportError):  # what has no such form stays a layer
            write_out_single_steps(model)
        _fold(model)
    proto = _without_defaults(ir.to_proto(model))
    names = give_names(proto, prefix)
    return FixedStep(proto, fixed, contract, batch, time, names)


def _check_streams(contract: Contract) -> None:
    """Refuses networks that need whole sequences, and rows of several lengths."""
    if contract.streaming.ok is not True:
        reason = contract.streaming.reason or "nobody knows whether it gives the same in chunks"
        raise ExportError(
            f"C source takes one step after the other, and this network cannot: {reason}."
        )

    for spec in contract.inputs:
        if spec.lengths_of is not None:
            raise ExportError(
                f"C source takes one step after the other, and {spec.name!r} holds the lengths of "
                "whole sequences. Export the network without lengths: a stream ends when you stop "
                "feeding it."
            )


def _steps_per_call(contract: Contract) -> int:
    """The entries along time that one step takes."""
    if not has_time(contract):
        return 1

    time = contract.step_multiple
    least = dict(contract.minimums).get("time", 1)
    if least > time:
        time *= -(-least // time)
    return time


def _fixed_contract(contract: Contract, sizes: dict[str, int]) -> Contract:
    """The contract with a number for every axis."""

    def fixed(name: str, shape: Iterable[Axis]) -> tuple[Axis, ...]:
        axes = (*shape,)
        try:
            return resolve(axes, sizes)
        except KeyError as error:
            raise ExportError(
                f"{name!r} has an axis {error.args[0]!r}, whose size in one step is not known: "
                "C source has fixed sizes. Export the network with a number for this axis."
            ) from error

    def of_arrays(specs: tuple[ArraySpec, ...]) -> tuple[ArraySpec, ...]:
        return tuple(replace(spec, shape=fixed(spec.name, spec.shape)) for spec in specs)

    states = tuple(
        replace(state, shape=fixed(state.input, state.shape)) for state in contract.states
    )
    return replace(
        contract,
        inputs=of_arrays(contract.inputs),
        outputs=of_arrays(contract.outputs),
        states=states,
        limits=(),
        minimums=(),
        multiples=(),
    )


def _plain_step(path: Path) -> ir.Model | None:
    """The step without recurrent operators; None where one of them is not written so."""
    model = ir.load(path)
    try:
        single_step(model, per_gate=False)
    except ExportError:
        return None
    return model


def _fix_shapes(model: ir.Model, contract: Contract) -> None:
    """Gives inputs and outputs their shapes, and forgets those of all other values."""
    specs = (
        *contract.inputs,
        *contract.outputs,
        *contract.state_inputs,
        *contract.state_outputs,
    )
    shapes = {spec.name: spec.shape for spec in specs}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in shapes:
            value.shape = ir.Shape(shapes[value.name])
    forget_shapes(model.graph)


def _fold(model: ir.Model) -> None:
    """Computes all that depends on sizes, in place."""
    try:
        optimizer.optimize_ir(model, output_size_limit=_MOST_FOLDED, input_size_limit=_MOST_FOLDED)
    except Exception as error:  # a graph may make it fail in any way
        raise ExportError(
            f"The step cannot be simplified: {first_line(error)}. Please report this file."
        ) from error


def _without_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without `direction="forward"`: a default that the generator misreads in a GRU."""
    for node in model.graph.node:
        for attribute in list(node.attribute):
            if attribute.name == "direction" and attribute.s == b"forward":
                node.attribute.remove(attribute)
    return model

# SPDX-License-Identifier: Apache-2.0
"""The contract in a model's file, compared with the file's graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..arguments import check_states
from ..axes import of_one_row
from ..contract import CONTRACT_KEY, ArraySpec, Contract, StateSpec, by_name, describe
from ..errors import ContractError, InputError
from .infer_contract import infer_contract, operator_with_state
from .onnx_outline import OnnxFile


def find_contract(file: OnnxFile, states: Mapping[str, str] | None = None) -> Contract:
    """The contract in a file; of a file without one, the contract by `states` or by its names.

    Raises:
        ContractError: as `read_contract`; or the names match no pairing of states.
        InputError: `states` are given for a file with a contract, or do not fit.
    """
    if states is not None:
        check_states(states)
    if CONTRACT_KEY not in file.metadata:
        return infer_contract(file, states)
    if states is not None:
        raise InputError(f"{file.path} says itself what its states are. Leave states out.")
    return read_contract(file)


def read_contract(file: OnnxFile) -> Contract:
    """The contract in a file, compared with the graph's own inputs and outputs.

    Raises:
        ContractError: there is none, or its names, dtypes or axes are not those of the graph.
    """
    text = file.metadata.get(CONTRACT_KEY)
    if text is None:
        operator = operator_with_state(file.operators)
        held = f" Its {operator} has a state, which may be hidden." if operator else ""
        raise ContractError(
            f"{file.path} carries no contract (metadata key {CONTRACT_KEY!r}), so which of its "
            f"inputs are states is unknown.{held} `stateport contract IN.onnx -o OUT.onnx --state "
            "INPUT=OUTPUT` writes one into a copy; `stateport lift` makes hidden states inputs "
            "and outputs; `stateport export` exports a PyTorch network."
        )

    contract = Contract.from_json(text)
    _compare_specs(file, "input", (*contract.inputs, *contract.state_inputs), file.inputs)
    _compare_specs(file, "output", (*contract.outputs, *contract.state_outputs), file.outputs)

    for state in contract.states:
        if state.initial == "file":
            _check_initial(file, state)
    return contract


def _check_initial(file: OnnxFile, state: StateSpec) -> None:
    """Refuses a file without the first values that the contract promises for a state."""
    shape = of_one_row(state.shape)
    initial = file.initial.get(state.input)
    if initial is None or initial.shape != shape or initial.dtype != np.dtype(state.dtype):
        raise ContractError(
            f"{file.path}: the contract says that the state {state.input!r} starts from values in "
            f"the file, but {describe(state.dtype, shape)} is not there. Export the network again."
        )


def _compare_specs(
    file: OnnxFile, what: str, promised: tuple[ArraySpec, ...], actual: tuple[ArraySpec, ...]
) -> None:
    """Compares the inputs, or the outputs, of a contract with those of its graph."""
    in_contract = by_name(promised)
    in_graph = by_name(actual)
    for name in sorted(in_contract.keys() ^ in_graph.keys()):
        has_it, lacks_it = "contract", "graph"
        if name in in_graph:
            has_it, lacks_it = lacks_it, has_it

        raise ContractError(
            f"{file.path}: the {has_it} has an {what} {name!r} that the {lacks_it} has not. "
            "Export the network again."
        )

    for name in sorted(in_contract):
        spec = in_contract[name]
        graph_spec = in_graph[name]
        if spec.dtype != graph_spec.dtype or not _has_axes(graph_spec, spec):
            raise ContractError(
                f"{file.path}: the contract promises the {what} {spec}, but the graph has "
                f"{graph_spec}. Export the network again."
            )


def _has_axes(actual: ArraySpec, promised: ArraySpec) -> bool:
    """Whether the graph leaves open what the contract does; it need not know its own shapes."""
    if not actual.shape:
        return True
    if len(promised.shape) != len(actual.shape):
        return False

    pairs = zip(promised.shape, actual.shape, strict=True)
    return all(axis == size for axis, size in pairs if isinstance(size, int))

"""The contract in a model's file, compared with the file's graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..arguments import check_states
from ..contract import CONTRACT_KEY, ArraySpec, Contract, StateSpec, describe
from ..errors import ContractError, InputError
from .infer_contract import infer_contract
from .onnx_outline import OnnxFile


def find_contract(file: OnnxFile, states: Mapping[str, str] | None = None) -> Contract:
    """The contract in a file; or of one that has none, what `states` or its names say.

    Raises:
        ContractError: as `read_contract`; or its names do not tell.
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
    """The contract in a file, held against the graph's own inputs and outputs.

    Raises:
        ContractError: there is none, or names, dtypes or axes are not those of the graph.
    """
    text = file.metadata.get(CONTRACT_KEY)
    if text is None:
        raise ContractError(
            f"{file.path} carries no contract (metadata key {CONTRACT_KEY!r}), so which of its "
            "inputs are states is unknown. Export the network with `stateport export`."
        )
    contract = Contract.from_json(text)
    _compare(file, "input", (*contract.inputs, *contract.state_inputs), file.inputs)
    _compare(file, "output", (*contract.outputs, *contract.state_outputs), file.outputs)
    for state in contract.states:
        if state.initial == "file":
            _check_initial(file, state)
    return contract


def _check_initial(file: OnnxFile, state: StateSpec) -> None:
    wanted = tuple(1 if isinstance(axis, str) else axis for axis in state.shape)
    found = file.initial.get(state.input)
    if found is None or found.shape != wanted or found.dtype != np.dtype(state.dtype):
        raise ContractError(
            f"{file.path}: the contract says that the state {state.input!r} starts from values in "
            f"the file, but {describe(state.dtype, wanted)} is not there. Export the network again."
        )


def _compare(
    file: OnnxFile, what: str, promised: tuple[ArraySpec, ...], found: tuple[ArraySpec, ...]
) -> None:
    want, have = ({spec.name: spec for spec in specs} for specs in (promised, found))
    for name in sorted(want.keys() ^ have.keys()):
        holder, other = ("contract", "graph") if name in want else ("graph", "contract")
        raise ContractError(
            f"{file.path}: the {holder} has an {what} {name!r} that the {other} has not. "
            "Export the network again."
        )
    for name in sorted(want):
        if want[name].dtype != have[name].dtype or not _same_axes(want[name], have[name]):
            raise ContractError(
                f"{file.path}: the contract promises the {what} {want[name]}, but the graph has "
                f"{have[name]}. Export the network again."
            )


def _same_axes(promised: ArraySpec, found: ArraySpec) -> bool:
    """Whether the graph leaves open what the contract does; it need not know its own shapes."""
    if not found.shape:
        return True
    return len(promised.shape) == len(found.shape) and all(
        not isinstance(have, int) or have == want
        for want, have in zip(promised.shape, found.shape, strict=True)
    )

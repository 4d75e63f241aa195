"""`lift`: an ONNX file with hidden states -> the same file with explicit ones, and a contract."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stateport import Contract, Model
from stateport.contract import CONTRACT_KEY, axis_sizes, resolve
from stateport.engines import open_engine
from stateport.engines.with_constants import ConstantInputs
from stateport.files.writing import check_place
from stateport.model_file.infer_contract import infer_contract, match_state_names
from stateport.model_file.onnx_outline import read
from stateport.parity.vectors import vectors_path
from stateport.validation import fixed_inputs

from . import __version__
from .errors import ExportError
from .foreign.lifted_file import LiftResult, write_lifted
from .foreign.whole_sequences import (
    Source,
)

Array = NDArray[Any]


def lift(
    source: str | PathLike[str],
    path: str | PathLike[str],
    *,
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
) -> LiftResult:
    """Makes the hidden states of an ONNX file explicit, and gives it a contract.

    LSTM, GRU and RNN operators whose first state is absent, zero or constant get it from an input
    and give the last one to an output; in branches too, and in loops that go round a fixed number
    of times. The new file is held against the old one: whole sequences, and chunks where these give
    the same. The old one's answers are written beside it as vectors.

    Args:
        source: an ONNX file, as any exporter writes it.
        path: the file to write.
        states: states that are inputs and outputs already, {"h": "hn"}; by default as names tell.
        constants: inputs that become constants of the file, {"sr": 16000}.

    Raises:
        FileError: a file cannot be read or written.
        ContractError: the names of inputs and outputs tell several things, and which.
        InputError: `states` or `constants` do not fit the file.
        EngineUnavailable: ONNX Runtime, which both files are run on, is not installed.
        EngineError: it cannot load the file.
        ExportError: there is nothing that can be lifted, and why; or the new file gives something
            else than the old one.
    """
    source, path = Path(source), Path(path)
    check_place(path)
    check_place(vectors_path(path))
    if path.exists() and path.samefile(source):
        raise ExportError(f"{path} is the file itself; give the new one another name.")
    file = read(source)
    if CONTRACT_KEY in file.metadata:
        raise ExportError(f"{source} says itself what its states are; there is nothing to lift.")
    known = match_state_names(file) if states is None else dict(states)
    before = infer_contract(file, known)
    fixed = fixed_inputs(before, constants or {})
    model = ir.load(source)
    _make_constant(model.graph, fixed)
    engine = ConstantInputs(open_engine("ort-cpu", file, None, {}), fixed)

    def ask(contract: Contract) -> Source:
        names = {spec.name for spec in file.inputs}
        # Arguments that are states now, and whose next values the file did not give.
        starts = [s for s in contract.state_inputs if s.name in names - known.keys()]
        states = tuple(state for state in contract.states if state.input in known)
        inputs = (*contract.inputs, *starts)
        old = Model(Contract(inputs, contract.outputs, states), engine)

        def whole(given: Mapping[str, Array]) -> dict[str, Array]:
            shapes = {spec.name: given[spec.name].shape for spec in contract.inputs}
            sizes = axis_sizes(contract.inputs, shapes)
            zeros = {s.name: np.zeros(resolve(s.shape, sizes), s.dtype) for s in starts}
            return old.run({**given, **zeros})[0]

        return whole

    origin = {"lifted": source.name, "stateport": __version__}
    return write_lifted(model, known, ask, path, origin)


def _make_constant(graph: ir.Graph, fixed: Mapping[str, Array]) -> None:
    for name, array in fixed.items():
        value = next(value for value in graph.inputs if value.name == name)
        graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        graph.register_initializer(value)

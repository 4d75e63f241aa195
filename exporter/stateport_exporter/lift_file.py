# SPDX-License-Identifier: Apache-2.0
"""`lift`: an ONNX file with hidden states -> the same file with explicit ones, and a contract."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stateport import Contract, Model
from stateport.contract import CONTRACT_KEY, axis_sizes, names_of, resolve
from stateport.engines import open_engine
from stateport.engines.with_constants import ConstantInputs
from stateport.model_file.infer_contract import infer_contract, match_state_names
from stateport.model_file.onnx_outline import OnnxFile, read
from stateport.validation import fixed_inputs

from . import __version__
from .errors import ExportError
from .foreign.lifted_file import LiftResult, write_lifted
from .foreign.over_time import write_over_time
from .foreign.source_cases import Source
from .foreign.usual_form import (
    inline_functions,
    make_constant,
    put_time_first,
    sort_nodes,
    take_weights_from_inputs,
)
from .foreign.wide_ports import wide_outline, widen_ports
from .graph.serialization import write
from .graph.verified_file import check_paths

Array = NDArray[Any]


def lift(
    source: str | PathLike[str],
    path: str | PathLike[str],
    *,
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
    over_time: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> LiftResult:
    """Makes the hidden states of an ONNX file explicit, and gives the file a contract.

    An LSTM, GRU or RNN operator whose first state is absent, zero or constant gets its first state
    from a new input and gives its last state to a new output. This includes operators in branches,
    and in loops with a fixed number of rounds.

    The new file is compared with the old one on whole sequences, and on chunks where these give the
    same. The answers of the old file are written beside the new one, as vectors. An operator with
    `layout=1`, which ONNX Runtime does not take, gets its axes transposed in both.

    Args:
        source: an ONNX file, as any exporter writes it.
        path: the file to write.
        states: states that are inputs and outputs already, {"h": "hn"}. By default they are
            recognised by their names.
        constants: inputs that become constants of the new file, {"sr": 16000}.
        over_time: a file that takes one step per call, such as (1, 1, n), becomes one that takes
            any number of steps: (time, 1, n). The step becomes the body of a `Scan`.
        progress: is called with a text before each part of the work: "part" or "part: detail".

    Raises:
        FileError: a file cannot be read or written.
        ContractError: the names of inputs and outputs match more than one pairing of states.
        InputError: `states` or `constants` do not fit the file.
        EngineUnavailable: ONNX Runtime, which runs both files, is not installed.
        EngineError: ONNX Runtime cannot load the file.
        ExportError: nothing in the file can be lifted, and why; or the answers of the new file
            differ from those of the old one.
    """
    source, path = Path(source), Path(path)
    check_paths(path, source)
    progress("reading")
    file = read(source)
    if CONTRACT_KEY in file.metadata:
        raise ExportError(
            f"{source} has a contract that names its states already, so there is nothing to lift. "
            "Use the file as it is."
        )

    known = match_state_names(file) if states is None else dict(states)
    fixed = fixed_inputs(infer_contract(wide_outline(file), known), constants or {})
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # the new file may lie in another folder
    inline_functions(model)
    take_weights_from_inputs(model)
    sort_nodes(model)
    rewritten = put_time_first(model)
    notes = widen_ports(model)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if rewritten or notes:
            file = _written(model, folder / source.name)
        engine = ConstantInputs(open_engine("ort-cpu", file, None, {}), fixed)

        make_constant(model.graph, fixed)
        progress("lifting")
        answers_for = functools.partial(_answers_of_source, file, engine, known, progress)
        origin = {"lifted": source.name, "stateport": __version__}
        if not over_time:
            # ONNX Runtime cannot load a file with `layout=1`, even one that has all of its states.
            lifted = write_lifted(model, known, answers_for, path, origin, required=not rewritten)
            return replace(lifted, notes=notes)

        step_path = folder / "step" / path.name
        step_path.parent.mkdir()
        required = not known and not rewritten
        step = write_lifted(model, known, answers_for, step_path, origin, required=required)
        result = write_over_time(step, path, origin)
        return replace(result, notes=(*notes, *result.notes))


def _written(model: ir.Model, path: Path) -> OnnxFile:
    """The outline of a model that has been written to a file."""
    write(model, path)
    return read(path)


def _answers_of_source(
    file: OnnxFile,
    engine: ConstantInputs,
    known: Mapping[str, str],
    progress: Callable[[str], None],
    contract: Contract,
) -> Source:
    """A function from a whole sequence to the old file's answers, for the new file's contract.

    `known` are the states that the old file has as inputs and outputs. `progress` is called with a
    text before each sequence.
    """
    own_names = {*names_of(file.inputs)}
    # States of the contract that the old file takes as plain arguments, without a next value.
    starts = []
    for state in contract.state_inputs:
        if state.name in own_names and state.name not in known:
            starts.append(state)

    states = tuple(state for state in contract.states if state.input in known)
    old_file = Model(Contract((*contract.inputs, *starts), contract.outputs, states), engine)
    numbers = count(1)

    def answer_whole(arrays: Mapping[str, Array]) -> dict[str, Array]:
        progress(f"comparing with {file.path.name}: {next(numbers)} sequences")
        shapes = {spec.name: arrays[spec.name].shape for spec in contract.inputs}
        sizes = axis_sizes(contract.inputs, shapes)
        zeros = {state.name: np.zeros(resolve(state.shape, sizes), state.dtype) for state in starts}
        outputs, _ = old_file.run({**arrays, **zeros})
        return outputs

    return answer_whole

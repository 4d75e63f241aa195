# SPDX-License-Identifier: Apache-2.0
"""`add_contract`: an ONNX file with states of its own -> a copy with a contract, and vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from stateport import Contract, Model
from stateport.contract import CONTRACT_KEY, Axis, Streaming, has_time
from stateport.engines import open_engine
from stateport.model_file.foreign.streaming import streaming_of
from stateport.model_file.infer_contract import infer_contract
from stateport.model_file.onnx_outline import OnnxFile, read
from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import vectors_path
from stateport.picking import sure
from stateport.probed_axes import find_batch, measure_outputs
from stateport.validation import fixed_inputs

from . import __version__
from .errors import ExportError
from .foreign.arguments import fixed_row_lengths, with_row_lengths
from .foreign.file_vectors import record_from_file
from .foreign.lifted_file import declare_shapes
from .foreign.named_axes import with_named_axes
from .foreign.precision import declare_precision
from .foreign.source_cases import AcceptedSizes, input_axes
from .foreign.source_sizes import accepted_sizes, with_measured_outputs
from .foreign.usual_form import (
    inline_functions,
    make_constant,
    sort_nodes,
    take_weights_from_inputs,
)
from .foreign.whole_sequences import measure_source_streaming
from .foreign.wide_ports import wide_outline, widen_ports
from .graph.serialization import write
from .graph.verified_file import check_paths, write_verified
from .states.naming import set_contract

Array = NDArray[Any]


@dataclass(frozen=True)
class ContractResult:
    """What `add_contract` wrote.

    Attributes:
        path: the new file.
        vectors: the file of its vectors.
        contract: its contract.
        truth: "float64" where the vectors are the file's answers in float64; "float32" where they
            are ONNX Runtime's, because the file cannot be evaluated in float64.
        report: the result of verifying the file on `ort-cpu`.
        notes: which inputs and outputs have another dtype than in the source; and what was recorded
            less of, because it would have taken too long.
    """

    path: Path
    vectors: Path
    contract: Contract
    truth: str
    report: EngineReport
    notes: tuple[str, ...] = ()


def add_contract(
    source: str | PathLike[str],
    path: str | PathLike[str],
    *,
    states: Mapping[str, str] | None = None,
    axes: Mapping[str, Sequence[Axis]] | None = None,
    constants: Mapping[str, object] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ContractResult:
    """Writes a copy of an ONNX file with a contract, so that every command works on it.

    The graph stays as it is: its states have to be inputs and outputs. (`lift` makes them so.) Only
    inputs and outputs in a dtype that NumPy lacks, such as bfloat16, become float32. An axis that
    the file leaves open without a usable name is found by running the file at two sizes.

    The vectors beside the copy are the answers of the graph itself in float64, evaluated node by
    node; `verify` then shows how far an engine is from them.

    Args:
        source: an ONNX file without a contract.
        path: the file to write.
        states: by state input, the output that gives its next value: {"h_in": "h_out"}. By default
            they are recognised by their names, as `load` does. {} says that there are none.
        axes: by input or output, its axes: {"x": ("batch", "time", 5)}. "batch" and "time" have a
            meaning; any other name is an axis of its own.
        constants: inputs that become constants of the copy, {"sr": 16000}.
        progress: is called with a text before each part of the work: "part" or "part: detail".

    Raises:
        FileError: a file cannot be read or written.
        ContractError: the names of inputs and outputs match no pairing of states, or more than
            one; or a state grows with every call.
        InputError: `states`, `axes` or `constants` do not fit the file.
        EngineUnavailable: ONNX Runtime, which runs the file, is not installed.
        EngineError: ONNX Runtime cannot load the file.
        ExportError: the file has a contract already, it takes nothing that was tried, or the copy
            fails verification.
    """
    source, path = Path(source), Path(path)
    check_paths(path, source)
    file = read(source)
    if CONTRACT_KEY in file.metadata:
        raise ExportError(
            f"{source} has a contract already; a file without one was expected. Use it as it is."
        )

    known = infer_contract(wide_outline(with_named_axes(file, axes or {})), states)
    fixed = fixed_inputs(known, constants or {})
    model = ir.load(source)
    ir.external_data.load_to_model(model)  # the copy may lie in another folder
    inline_functions(model)
    take_weights_from_inputs(model)
    sort_nodes(model)
    notes = widen_ports(model)
    make_constant(model.graph, fixed)
    precision = declare_precision(model)

    with tempfile.TemporaryDirectory() as name:
        usual = Path(name) / source.name
        write(model, usual)
        file = with_named_axes(read(usual), axes or {})
        progress("trying sizes")
        contract, sizes = _measured_contract(
            file, model, infer_contract(file, states), precision, are_named=bool(states)
        )
        progress("evaluating the file")
        is_exact = precision == "float32"
        vectors, left_out = record_from_file(usual, contract, sizes, double=is_exact)

    declare_shapes(model.graph, contract)
    set_contract(model, contract, {"contract": source.name, "stateport": __version__})
    # `ort-cpu` is installed: the file has run on it above.
    report = sure(
        write_verified(
            model,
            path,
            lambda _: vectors,
            check=True,
            fault="ONNX Runtime does not give the answers that the file gives in float64",
            advice="Please report this file.",
            progress=progress,
        )
    )
    return ContractResult(
        path, vectors_path(path), contract, vectors.truth, report, (*notes, *left_out)
    )


def _measured_contract(
    file: OnnxFile, model: ir.Model, contract: Contract, precision: str, *, are_named: bool
) -> tuple[Contract, AcceptedSizes]:
    """The contract, with what running the file shows; and the sizes that it takes."""
    engine = open_engine("ort-cpu", file, None, {})
    contract = with_row_lengths(find_batch(contract, engine), model.graph)
    contract = measure_outputs(contract, engine)
    runner = Model(contract, engine, precision=precision)

    def answer_whole(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return runner.run(arrays)[0]

    is_timed = has_time(contract)
    lengths = {} if is_timed else fixed_row_lengths(model.graph)
    sizes = accepted_sizes(answer_whole, contract, lengths)
    _check_batch(contract, sizes)
    contract = with_measured_outputs(answer_whole, contract, sizes)
    runner = Model(contract, engine, precision=precision)
    streaming = streaming_of(file, contract)
    if streaming.ok is not False and is_timed:
        streaming = measure_source_streaming(answer_whole, runner, sizes)
    elif streaming.ok is None:  # a call is a step; the caller may have named its states
        streaming = Streaming() if are_named else Streaming(False, streaming.reason)
    return replace(contract, streaming=streaming), sizes


def _check_batch(contract: Contract, sizes: AcceptedSizes) -> None:
    """Refuses a contract with a batch of any size, if the file takes a single size.

    Raises:
        ExportError: with the inputs as the contract has them.
    """
    if "batch" not in input_axes(contract) or len(sizes.batches) > 1:
        return

    (batch,) = sizes.batches
    named = "; ".join(map(str, (*contract.inputs, *contract.state_inputs)))
    raise ExportError(
        f"The file took a batch of {batch} and no other that was tried, so the axis 'batch' is "
        f"wrong in {named}. Name the axes as the file's operators take them, or give the batch its "
        "size: --axes x=time,batch,5 or --axes x=4,time,5."
    )

# SPDX-License-Identifier: Apache-2.0
"""`export`: a PyTorch network -> model.onnx and its vectors.

The steps are in `export_steps`, in the order in which `export` calls them: check the arguments,
trace the network, build it with explicit states, look at other sizes. Then PyTorch's answers are
recorded, and the file is written, verified against them, and appears.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

import torch
from torch import nn

from stateport import Contract, FileError, Streaming
from stateport.parity.engine_report import EngineReport
from stateport.parity.soundness import check_vectors
from stateport.parity.vectors import Vectors, vectors_path

from . import __version__
from .capture.complex_numbers import split_parameters
from .errors import CheckError, ExportError
from .export_steps.arguments import (
    check_arguments,
    check_operators,
    check_parameters,
    check_script_options,
    checked_dtype,
    checked_path,
    existing_path,
    weights_path,
)
from .export_steps.attempts import Wishes, time_by_its_name, try_to_build
from .export_steps.building import BuiltNetwork
from .export_steps.narrowing import at_multiples_asked_for
from .export_steps.writing import Form, write_file
from .foreign.torchscript import export_script
from .graph.verified_file import check_paths
from .memory.caches import check_caches, uncached
from .memory.kept import unchanged_shared
from .network.blame import told
from .network.example import Example, ExampleLike
from .network.higher_order import control_flow_in_python
from .network.isolation import (
    evaluation_twin,
    interruptible,
    no_idle_warnings,
    unchanged_globals,
    unchanged_process,
    usual_settings,
)
from .network.weights import load_weights
from .network.wrappers import unwrap_parts, unwrapped
from .network.written_arguments import copy_written_arguments
from .sizes.beyond import Beyond
from .sizes.shortest import refused_lengths
from .states.declared import Declared
from .states.possible import PossibleState
from .vectors.allowance import Allowance
from .vectors.record import record
from .vectors.recorded import NO_RECORDINGS, recorded_cases

DEFAULT_OPSET: Final = 20


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote: the model, PyTorch's answers beside it, and what the model promises.

    Attributes:
        path: the model.
        vectors: PyTorch's answers, beside the model.
        contract: the inputs, outputs and states of the model, and whether it can stream.
        lifted: the inputs of the states that the network keeps to itself, and that the file has as
            inputs and outputs.
        report: the result of verifying the file, None where it was not verified.
        possible_states: arguments and results that look like states and were not taken as such.
        notes: one sentence each for what was done to make the weights fit, for checks of values
            that are not in the file, for states that start from other values than zeros, for
            states that all rows share, for recorded data that was cut, and for what was recorded
            shorter than usual because the network is slow.
    """

    path: Path
    vectors: Path
    contract: Contract
    lifted: tuple[str, ...]
    report: EngineReport | None
    possible_states: tuple[PossibleState, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        contract = self.contract
        inputs = ", ".join(map(str, (*contract.inputs, *contract.state_inputs)))
        outputs = ", ".join(map(str, (*contract.outputs, *contract.state_outputs)))
        verified = "not verified" if self.report is None else "verified"
        return f"<stateport_exporter.ExportResult {self.path}: {inputs} -> {outputs}, {verified}>"


def export(
    module: nn.Module,
    example: ExampleLike,
    path: str | PathLike[str],
    *,
    opset: int = DEFAULT_OPSET,
    weights: str | PathLike[str] | None = None,
    weights_key: str | None = None,
    strip_prefix: str | None = None,
    method: str = "forward",
    states: Declared | None = None,
    lift: bool = True,
    check: bool = True,
    dtype: str = "float32",
    keep_float32: Collection[str] = (),
    operators: str = "onnx",
    trace_time: int | None = None,
    vectors_from: str | PathLike[str] | None = None,
    origin: Mapping[str, object] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ExportResult:
    """Exports a recurrent network to an ONNX file with explicit state inputs and outputs.

    `model.vectors.safetensors` is written beside `model.onnx`. It holds PyTorch's own answers in
    float64, against which `stateport verify` checks engines. Weights of more than 2 GB are written
    to `model.onnx.data`. All files appear at the end, or none does. The caller's module does not
    change: a copy of it is exported, in evaluation mode.

    Args:
        module: the network. Its parameters are float32.
        example: the arguments of `forward`, at any size: a function of (batch, time), or `Spec`s.
        path: the file to write.
        opset: the version of ONNX's operators, 18 or newer.
        weights: a file of weights to load into the network: .safetensors, a state_dict or a
            training checkpoint that torch.save wrote (.pt, .pth, .bin, .ckpt, .pth.tar), or the
            index of weights in several files (model.safetensors.index.json).
        weights_key: the entry of a checkpoint that holds the weights, such as "ema"; by default
            the one that fits the network.
        strip_prefix: the text to take from the front of the names of the weights. Weights without
            it are left out. By default the prefixes of common wrappers are taken off.
        method: the method that is exported, if it is not `forward`.
        states: for each argument that is a state, the result that gives its next value; None for
            an argument that is not a state: {"past_k": "k", "mask": None}. A result is named by its
            key or field, by the variable in the return statement, or by its number, from 1. A part
            of a container is named by its path, "state.0". States that are left out are found by
            following the data, and by names.
        lift: whether states that the network makes itself, or does not return, become inputs and
            outputs. If not, such a layer starts from its first state in every call.
        check: whether the file is verified on `ort-cpu` before it appears, where ONNX Runtime is
            installed. A file that differs from PyTorch is then not written. It is verified in any
            case where PyTorch's exporter may have narrowed the sizes of an axis.
        dtype: "float32", or "float16" for GPUs: the dtype of weights and values, and of inputs,
            outputs and states.
        keep_float32: those of "inputs", "outputs" and "states" that stay float32, with
            dtype="float16".
        operators: "onnx", or "native": loops that compute linear attention become an operator of
            ONNX Runtime's own, which takes less time. Other engines cannot load such a file.
        trace_time: the number of time steps that the network is traced at. By default it is the
            length of the example's file, if there is one that the network can be traced at, and
            else follows from the network's strides and kernels.
        vectors_from: inputs that people recorded, on which answers are recorded besides those on
            random ones: an .npz, .npy or .safetensors file, or a folder of them, with arrays by the
            names of the file's inputs. Long recordings are cut, which `notes` says.
        origin: notes for the file on where the network came from.
        progress: is called with a text before each part of the work: "part" or "part: detail".

    Raises:
        ExportError: the network, the example or the weights cannot be exported, and why; or
            `states` names something that does not exist or does not fit.
        FileError: the files cannot be written, or recorded data cannot be read.
        InputError: recorded data does not fit the network.
    """
    module = unwrapped(module)
    check_arguments(module, opset, method)
    dtype = checked_dtype(dtype, keep_float32)
    check_operators(operators, dtype)
    path = checked_path(path)
    check_paths(path)
    recordings = None if vectors_from is None else existing_path(vectors_from)
    notes = {**(origin or {}), "stateport": __version__, "torch": torch.__version__}

    with contextlib.ExitStack() as stack:
        stack.enter_context(_isolated(module))
        if isinstance(module, torch.jit.ScriptModule):
            has_weights = (weights, weights_key, strip_prefix) != (None, None, None)
            check_script_options(
                weights=has_weights,
                method=method != "forward",
                states=bool(states),
                lift=not lift,
                check=not check,
                dtype=dtype != "float32",
                operators=operators != "onnx",
                vectors_from=vectors_from is not None,
            )
            return _export_script(module, example, path, opset, notes)

        twin = evaluation_twin(module, share_parameters=weights is None)
        unwrap_parts(twin)
        changes = _load(twin, weights, weights_key, strip_prefix)
        split_parameters(twin)
        sample = Example(getattr(twin, method), example)
        check_caches(twin, method, sample)
        stack.enter_context(uncached(twin))
        with unchanged_shared(twin):
            changes += copy_written_arguments(twin, method, sample)
        result = _build_and_write(
            twin,
            method,
            sample,
            Wishes(opset, lift, trace_time, states or {}, progress),
            Form(path, dtype, keep_float32, operators, notes, check),
            recordings,
        )
    return replace(result, notes=(*changes, *result.notes))


def _build_and_write(
    twin: nn.Module,
    method: str,
    sample: Example,
    wishes: Wishes,
    form: Form,
    recordings: Path | None,
) -> ExportResult:
    """Builds the network and writes the files, for multiples of some steps alone if need be.

    Raises:
        ExportError: the network cannot be exported, and why.
    """
    progress = wishes.progress
    with time_by_its_name(sample):
        built, beyond, answered = try_to_build(twin, method, sample, wishes)
    contract = _with_limits(built.contract, beyond)
    refused = refused_lengths(twin, method, sample, contract)

    # PyTorch's answers, which the file has to give.
    recorded = NO_RECORDINGS
    if recordings is not None:
        recorded = recorded_cases(built.network, contract, recordings)
    allowance = Allowance()
    cases = (*beyond.cases, *recorded.cases)
    vectors = record(built.network, contract, cases, allowance, progress)

    try:
        _check_answers(vectors)
        written = write_file(built.captured, contract, vectors, beyond, form, progress)
    except CheckError:
        coarser = at_multiples_asked_for(sample, built.captured)
        if coarser is None:
            raise
        with contextlib.suppress(ExportError, FileError):
            return _build_and_write(twin, method, coarser, wishes, form, recordings)
        raise

    return ExportResult(
        form.path,
        vectors_path(form.path),
        written.contract,
        built.lifted,
        written.report,
        built.possible,
        (
            *answered,
            *refused,
            *_kept_starts(contract, built),
            *_shared_by_rows(contract),
            *recorded.notes,
            *allowance.notes,
            *written.notes,
        ),
    )


def _check_answers(vectors: Vectors) -> None:
    """Checks that PyTorch's answers have the shapes that the contract says.

    Raises:
        CheckError: an answer has another shape.
    """
    try:
        check_vectors(vectors)
    except ValueError as error:
        raise CheckError(
            f"Forward gives other results than its graph says, so nothing was written: {error}. A "
            "loop with a number of passes that follows from the length does that, or a branch on a "
            "size. Let forward do the same at every size."
        ) from error


@contextlib.contextmanager
def _isolated(module: nn.Module) -> Iterator[None]:
    """Leaves the caller's process as it was, and does not depend on anything that is set in it."""
    with (
        interruptible(),
        unchanged_process(),
        unchanged_globals(),
        usual_settings(),
        no_idle_warnings(),
        control_flow_in_python(),
        unchanged_shared(module),
        told(module),
    ):
        yield


def _export_script(
    module: torch.jit.ScriptModule,
    example: ExampleLike,
    path: Path,
    opset: int,
    notes: Mapping[str, object],
) -> ExportResult:
    """Exports TorchScript, which has no Python code to look into: its graph is lifted."""
    result = export_script(module, example, path, opset, notes)
    return ExportResult(
        result.path,
        result.vectors,
        result.contract,
        result.lifted,
        result.report,
        result.possible_states,
    )


def _kept_starts(contract: Contract, built: BuiltNetwork) -> list[str]:
    """A note for each state that starts from what the network keeps in an attribute now."""
    kept = set(map(str, built.network.example.remembered))

    reasons = []
    for state in contract.states:
        if state.initial == "file" and state.input in kept:
            reasons.append(
                "a sequence starts from the values that the network keeps for "
                f"{state.input!r}, which are not zeros"
            )
    return reasons


def _shared_by_rows(contract: Contract) -> list[str]:
    """A note for each state that all rows of a batch share, where the network streams."""
    is_batched = any("batch" in spec.shape for spec in contract.inputs)
    if not contract.streaming.ok or not is_batched:
        return []

    reasons = []
    for state in contract.states:
        if "batch" not in state.shape:
            reasons.append(
                f"the state {state.input!r} is one value for all rows of a batch, so that a pool, "
                "and stateport serve, take no streams of this file: let the network keep a value "
                "for each row, in a tensor with a batch axis"
            )
    return reasons


def _load(
    twin: nn.Module,
    weights: str | PathLike[str] | None,
    key: str | None,
    prefix: str | None,
) -> tuple[str, ...]:
    """Loads a file of weights into the network, if there is one; what was done to them."""
    changes: tuple[str, ...] = ()
    if weights is not None:
        changes = load_weights(twin, weights_path(weights), key=key, prefix=prefix)
    elif key is not None or prefix is not None:
        raise ExportError("weights_key and strip_prefix apply only to a file of weights=.")

    check_parameters(twin)
    return changes


def _with_limits(contract: Contract, beyond: Beyond) -> Contract:
    """The contract with the sizes at which its network ends."""
    streaming = contract.streaming
    if streaming.ok and beyond.streams_end is not None:
        streaming = Streaming(ok=False, reason=beyond.streams_end)
    return replace(contract, limits=tuple(sorted(beyond.limits.items())), streaming=streaming)

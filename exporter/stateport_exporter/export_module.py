"""module -> capture -> lift -> stamp -> model.onnx + vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from stateport import Contract
from stateport.contract import PRECISION_KEY
from stateport.files.writing import check_place, written_together
from stateport.parity.engine_report import EngineReport
from stateport.parity.vectors import Vectors, vectors_path

from . import __version__
from .capture.capture import Captured, capture, check_runs, longer
from .capture.recorders import DOMAIN
from .capture.refusals import FixedTimeError
from .dtypes import DTYPES, KINDS
from .errors import ExportError
from .evaluation.trace import trace
from .foreign.torchscript import export_script
from .graph.opset import NEWEST_CAPTURED, lower_ir_version, raise_opset
from .graph.serialization import save
from .graph.transposes import fold_transposes
from .graph.verified_file import write_vectors
from .layers import expand, find
from .loops import RolledNetwork, check_memory, roll_loops
from .memory.check import check_kept
from .memory.kept import unchanged_shared
from .network.blame import told
from .network.example import Example, ExampleLike
from .network.explicit import Explicit
from .network.isolation import (
    evaluation_twin,
    no_idle_warnings,
    unchanged_globals,
    unchanged_process,
    usual_settings,
)
from .network.returned import named_results
from .network.trace_length import at_trace_length
from .network.weights import load_weights
from .sizes.beyond import Beyond, check_loops, look_beyond
from .sizes.comparisons import Comparison, compared
from .sizes.shortest import shortest_time
from .sizes.tables import ends_of_tables
from .states.checks import (
    check_carried,
    check_chance,
    check_default_start,
    check_padding,
    check_repeatable,
)
from .states.convolutions import NO_CONTEXTS, ConvolutionContexts, find_contexts
from .states.declared import Declared, positions_of
from .states.hidden import Hidden, find_hidden, make_explicit
from .states.naming import contract_from_graph, stamp, store_initial, write_metadata
from .states.pairing import Wish, drop_spare_outputs, find_states, why_not_carried, why_whole_only
from .states.possible import PossibleState, possible_states
from .states.row_lengths import packed, with_row_lengths
from .streaming.measure import measure_streaming
from .streaming.reasons import why_tied
from .variants.float16 import float16_contract, port_names, to_float16
from .vectors.record import record
from .vectors.torch_reference import Network

DEFAULT_OPSET: Final = 20
OLDEST_OPSET: Final = 18
#: So many lines of an author's are named in one message.
_MOST_LINES: Final = 4


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote: the model, PyTorch's answers beside it, and what the model promises.

    `lifted` are the inputs of the states that the network keeps to itself, and that the file has
    as inputs and outputs. `report` is what verifying the file said, None where it was not done.
    `possible_states` are arguments and results that look like states and were not taken as such.
    """

    path: Path
    vectors: Path
    contract: Contract
    lifted: tuple[str, ...]
    report: EngineReport | None
    possible_states: tuple[PossibleState, ...] = ()


def export(
    module: nn.Module,
    example: ExampleLike,
    path: str | PathLike[str],
    *,
    opset: int = DEFAULT_OPSET,
    weights: str | PathLike[str] | None = None,
    method: str = "forward",
    states: Declared | None = None,
    lift: bool = True,
    check: bool = True,
    dtype: str = "float32",
    keep_float32: Collection[str] = (),
    origin: Mapping[str, object] | None = None,
) -> ExportResult:
    """Exports a recurrent network to an ONNX file with explicit state inputs and outputs.

    Beside `model.onnx` stand `model.vectors.safetensors`, PyTorch's own answers in float64, which
    `stateport verify` checks engines against, and for more than 2 GB of weights `model.onnx.data`.
    All are written at the end, or none. Nothing of the caller's is changed: the module is exported
    in evaluation mode, from a copy.

    Args:
        module: the network. Its parameters are float32.
        example: what `forward` takes, at any size: a function of (batch, time), or `Spec`s.
        path: the file to write.
        opset: the version of ONNX's operators, 18 or newer.
        weights: a .safetensors file, or a .pt file of plain weights, for the module to take.
        method: the method that is exported, where it is not `forward`.
        states: the result that gives the next value of each argument that is a state, or None for
            an argument that is none: {"past_k": "k", "mask": None}. Results are called by their
            key or field, by the variable that the return statement names, or by their number from
            1; what stands in a container by its path, "state.0". What is left out is found by
            following the data, and by names.
        lift: whether states that the network makes itself, or does not return, become inputs and
            outputs. Without, such a layer starts anew in every call.
        check: whether the file is verified on `ort-cpu` before it appears, where ONNX Runtime is
            installed. A file that differs from PyTorch is then not written.
        dtype: "float32", or "float16" for GPUs. It is what weights and values are kept in, and the
            dtype of inputs, outputs and states.
        keep_float32: of "inputs", "outputs" and "states", those that stay float32 where all else is
            float16.
        origin: what to note in the file about where the network came from.

    Raises:
        ExportError: the network, the example or the weights cannot be exported, and why; or
            `states` names what there is not, or what does not fit.
        FileError: the files cannot be written.
    """
    _check_arguments(module, opset, method)
    dtype = _checked_dtype(dtype, keep_float32)
    path = Path(path)
    check_place(path)
    check_place(vectors_path(path))
    noted = {**(origin or {}), **_versions()}
    with _apart(module):
        if isinstance(module, torch.jit.ScriptModule):
            usual = (weights is None, method == "forward", not states, lift, check)
            return _export_script(module, example, path, opset, noted, (*usual, dtype == "float32"))
        twin = evaluation_twin(module, share_parameters=weights is None)
        if weights is not None:
            load_weights(twin, Path(weights))
        _check_dtypes(twin)
        seen = _trace(twin, method, Example(getattr(twin, method), example), opset, lift=lift)
        found = find_contexts(seen.explicit, seen.sample) if lift else NO_CONTEXTS
        made = _make_streaming(seen, found, opset, states or {})
        beyond = _look_beyond(seen, made)
        contract = replace(made.contract, limits=tuple(sorted(beyond.limits.items())))
        vectors = record(made.network, contract, beyond.cases)
        if dtype == "float16":
            keep = port_names(contract, keep_float32)
            to_float16(made.captured.model, keep)
            contract = float16_contract(contract, keep)
        write_metadata(made.captured.model, contract, noted)
        if dtype != "float32":
            made.captured.model.metadata_props[PRECISION_KEY] = dtype
        report = _write(made.captured, vectors, path, beyond, check=check)
        return ExportResult(path, vectors_path(path), contract, made.lifted, report, made.left)


@contextlib.contextmanager
def _apart(module: nn.Module) -> Iterator[None]:
    """Leaves the caller's world as it was, and depends on nothing that is set in it."""
    with (
        unchanged_process(),
        unchanged_globals(),
        usual_settings(),
        no_idle_warnings(),
        unchanged_shared(module),
        told(module),
    ):
        yield


def _export_script(
    module: torch.jit.ScriptModule,
    example: ExampleLike,
    path: Path,
    opset: int,
    origin: Mapping[str, object],
    usual: tuple[bool, ...],
) -> ExportResult:
    """Exports TorchScript, of which nothing but the usual can be asked."""
    names = ("weights", "method", "states", "lift", "check", "dtype")
    for name, is_usual in zip(names, usual, strict=True):
        if not is_usual:
            raise ExportError(f"A TorchScript module is exported as it is; leave out {name!r}.")
    made = export_script(module, example, path, opset, origin)
    written = (made.path, made.vectors, made.contract, made.lifted, made.report)
    return ExportResult(*written, possible_states=made.possible_states)


@dataclass(frozen=True)
class _Traced:
    """A network as its author wrote it, captured; and the states that it hides.

    `folded` stands in its place where it has loops over time.
    """

    twin: nn.Module
    method: str
    explicit: Explicit
    sample: Example
    captured: Captured
    hidden: Sequence[Hidden]
    folded: RolledNetwork | None


def _trace(twin: nn.Module, method: str, sample: Example, opset: int, *, lift: bool) -> _Traced:
    explicit, folded = Explicit(twin, method).eval(), None
    sample = at_trace_length(explicit, sample)
    written = min(opset, NEWEST_CAPTURED)
    try:
        sample, captured = _capture_at_some_length(explicit, sample, written)
    except FixedTimeError as error:
        folded = roll_loops(twin, method, sample, error)
        explicit = Explicit(folded).eval()
        captured = capture(explicit, sample, written)
    sample = with_row_lengths(explicit, sample, captured)
    check_runs(explicit, sample)
    hidden = find_hidden(explicit, sample, captured) if lift else []
    return _Traced(twin, method, explicit, sample, captured, hidden, folded)


def _capture_at_some_length(
    explicit: Explicit, sample: Example, opset: int
) -> tuple[Example, Captured]:
    """Captures a network at the usual length, or where it does not take that, at a greater one."""
    try:
        return sample, capture(explicit, sample, opset)
    except FixedTimeError:
        raise
    except ExportError:
        other = longer(explicit, sample)
        if other is not None:
            with contextlib.suppress(ExportError):
                return other, capture(explicit, other, opset)
        raise


@dataclass(frozen=True)
class _Built:
    """A finished graph, the network that it is held against, and what it promises.

    `because` says why chunks may differ from the whole, if a reason is seen. `left` may be states,
    and `others` are levels of sureness with which other pairs would be.
    """

    captured: Captured
    network: Network
    contract: Contract
    lifted: tuple[str, ...]
    reason: str | None
    left: tuple[PossibleState, ...]
    others: tuple[tuple[str, ...], ...]


def _make_streaming(
    seen: _Traced, found: ConvolutionContexts, opset: int, declared: Declared
) -> _Built:
    """Makes the network with the states that let it be fed in chunks, if any do."""
    names = named_results(getattr(seen.twin, seen.method), seen.captured.output_paths)
    arguments = seen.captured.input_paths
    wish = Wish(positions_of(declared, seen.captured.model.graph, arguments, names), names)
    made = _build(seen, found, opset, wish)
    if made.contract.streaming.ok:
        return made
    for levels in made.others:
        other = _build(seen, found, opset, replace(wish, levels=levels), again=True)
        if other.contract.streaming.ok:
            return other
    if found.contexts:
        # Whole sequences are all that it can take, and those need no steps from before.
        made = _build(seen, found.without_contexts(), opset, wish, made)
    return made


def _build(
    seen: _Traced,
    found: ConvolutionContexts,
    opset: int,
    wish: Wish,
    before: _Built | None = None,
    *,
    again: bool = False,
) -> _Built:
    """Brings hidden states and contexts into the open, finishes the graph, and tries chunks.

    `before` was made with other contexts, and cannot be fed in chunks. `again` says that the graph
    as it was first captured is finished already.
    """
    explicit, sample, captured = seen.explicit, seen.sample, seen.captured
    if seen.hidden or found.contexts:
        explicit, sample = make_explicit(explicit, sample, seen.hidden, found)
    if seen.hidden or found.contexts or again:
        captured = capture(explicit, sample, min(opset, NEWEST_CAPTURED))
    if seen.folded is not None:
        calls = [one.call for one in seen.hidden]
        check_memory(seen.twin, seen.method, seen.folded, sample, calls)
    check_repeatable(explicit, sample)
    check_chance(captured.model)
    check_padding(explicit, sample, [str(layer) for layer in packed(captured)])
    check_carried(explicit, sample, seen.hidden)
    if before is None and not again:
        _check_kept(seen, explicit, sample)
    finished = _finish(captured, opset, seen.hidden, found, sample.lengths, wish)
    check_default_start(seen.twin, seen.method, sample, finished.state_parameters)
    network = Network(explicit, sample, finished.inputs, finished.results, finished.initial)
    if before is None:
        reason = finished.reason
        streaming = measure_streaming(network, finished.contract, reason, found.multiple)
    else:
        reason = before.reason or finished.reason
        streaming = before.contract.streaming
    if reason is not None and not streaming.ok and finished.contract.streaming.ok:
        streaming = replace(streaming, reason=reason)
    contract = replace(finished.contract, streaming=streaming)
    shortest = shortest_time(network, contract)
    if shortest > streaming.chunk_multiple:
        contract = replace(contract, minimums=(("time", shortest),))
    others = finished.others if finished.contract.streaming.ok else ()
    return _Built(captured, network, contract, finished.lifted, reason, finished.left, others)


def _check_kept(seen: _Traced, explicit: Explicit, sample: Example) -> None:
    """Checks that nothing else is kept from call to call than the states that are lifted."""
    arguments = sample.make(sample.sizes)
    if seen.folded is None:
        given = dict(zip(explicit.lifted, arguments.states, strict=False))
        check_kept(seen.twin, seen.method, sample, given)
        return
    with unchanged_globals(seed=1), torch.no_grad():
        _, lasts = Explicit(seen.folded).eval()(arguments.args, arguments.kwargs, ())
    lifted = [state for one in seen.hidden for state in lasts[one.call]]
    check_kept(seen.twin, seen.method, sample, {}, lifted)


def _look_beyond(seen: _Traced, made: _Built) -> Beyond:
    """The sizes besides the usual ones at which the network may do otherwise."""
    loops = Beyond()
    if seen.folded is not None:
        loops = check_loops(seen.twin, seen.method, seen.folded, seen.sample)
    network: nn.Module = seen.twin if seen.folded is None else seen.folded
    method = seen.method if seen.folded is None else "forward"

    def ask(sizes: Mapping[str, int]) -> Sequence[Comparison]:
        return compared(network, method, seen.sample, sizes)

    guards = [Comparison(one, axes, None, direct=False) for one, axes in made.captured.guards]
    ends = ends_of_tables(network, method, seen.sample)
    beyond = look_beyond(made.network, made.contract, [*ends, *guards], ask)
    for axis, most in loops.limits.items():
        beyond.limit(axis, most)
    return beyond


@dataclass(frozen=True)
class _Finished:
    """A finished graph's contract and names: of its inputs, and of every result, kept or not.

    `because` says why it may be that chunks differ from the whole.
    """

    contract: Contract
    reason: str | None
    inputs: tuple[str, ...]
    results: tuple[str | None, ...]
    initial: Mapping[str, NDArray[Any]]
    lifted: tuple[str, ...]
    state_parameters: tuple[str, ...]
    left: tuple[PossibleState, ...]
    others: tuple[tuple[str, ...], ...]


def _finish(
    captured: Captured,
    opset: int,
    hidden: Sequence[Hidden],
    found: ConvolutionContexts,
    lengths: Collection[int],
    wish: Wish,
) -> _Finished:
    """Gives a captured graph its states and names, and writes its layers in ONNX."""
    model, graph = captured.model, captured.model.graph
    author, count = len(captured.output_paths), len(graph.outputs)
    layers = find(graph)
    values = [value for one in hidden for value in one.initial] + [*found.initial]
    count_lifted = len(values)
    contexts = [context.name for context in found.contexts]
    seen = find_states(graph, layers, captured, count_lifted, wish, contexts)
    states, left = seen.pairs, possible_states(seen.left)
    whole_only = why_whole_only(layers)
    reason = why_not_carried(graph, layers, states) or why_tied(graph) or seen.unclear
    states, kept = drop_spare_outputs(graph, states, author)
    expand(graph, layers, captured.loops, min(opset, NEWEST_CAPTURED))
    graph.opset_imports.pop(DOMAIN, None)
    raise_opset(model, opset)
    lower_ir_version(model)
    fold_transposes(model)
    inputs, outputs = stamp(graph, captured, states)
    names = dict(zip(kept, outputs, strict=True))
    made = inputs[len(inputs) - len(values) :]
    initial = {name: v for name, v in zip(made, values, strict=True) if v is not None}
    store_initial(graph, initial)
    lifted = [inputs[s.input] for s in states if inputs[s.input] in made]
    return _Finished(
        contract=contract_from_graph(
            graph, states, whole_only, initial, [graph.inputs[i] for i in lengths]
        ),
        reason=reason,
        inputs=tuple(inputs),
        results=tuple(names.get(position) for position in range(count)),
        initial=initial,
        lifted=tuple(lifted),
        state_parameters=tuple(
            captured.input_paths[state.input][0]
            for state in states
            if state.input < len(captured.input_paths) - count_lifted
        ),
        left=left,
        others=seen.others,
    )


def _check_arguments(module: object, opset: int, method: str) -> None:
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"{type(module).__qualname__} is not a torch.nn.Module; pass the network itself."
        )
    if isinstance(module, torch.jit.ScriptModule):
        return
    if any(isinstance(one, torch.jit.ScriptModule) for one in module.modules()):
        raise ExportError(
            "A part of the network is TorchScript, which PyTorch's exporter cannot look into. Pass "
            "the nn.Module that it was made from, or make all of it TorchScript."
        )
    if not callable(getattr(module, method, None)):
        raise ExportError(f"{type(module).__qualname__} has no method {method!r}.")
    if method == "forward" and type(module).forward is nn.Module.forward:
        raise ExportError(
            f"{type(module).__qualname__} has no forward. Say which method is to be exported: "
            "method='step', say."
        )
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ExportError(
            f"Opset {opset} is not among {OLDEST_OPSET} to {newest}, which the installed onnx "
            f"{onnx.__version__} knows."
        )


def _checked_dtype(dtype: str, keep_float32: Collection[str]) -> str:
    """The dtype's full name; `ExportError` where it or `keep_float32` is none that is known."""
    if dtype not in DTYPES:
        raise ExportError(f"dtype is {dtype!r}; 'float32' or 'float16' was expected.")

    if keep_float32 and DTYPES[dtype] == "float32":
        raise ExportError(
            "keep_float32 applies only with dtype='float16'; this export writes float32 alone."
        )

    unknown = {*keep_float32} - {*KINDS}
    if unknown:
        raise ExportError(
            f"keep_float32 names {min(unknown)!r}; it takes any of {', '.join(KINDS)}."
        )
    return DTYPES[dtype]


def _check_dtypes(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(
                f"{name!r} is {str(tensor.dtype).removeprefix('torch.')}; float32 was expected. "
                "Convert the network first: module.float()."
            )
        if tensor.device.type == "meta":
            raise ExportError(
                f"{name!r} is on the device meta, where it has no values. Make the network on the "
                "CPU, or give it memory first and load its weights: module.to_empty(device='cpu')."
            )
        if tensor.device.type != "cpu":
            raise ExportError(
                f"{name!r} is on the device {tensor.device}; the CPU was expected. "
                "Move the network first: module.cpu()."
            )


def _versions() -> dict[str, object]:
    return {"stateport": __version__, "torch": torch.__version__}


def _write(
    captured: Captured, vectors: Vectors, path: Path, beyond: Beyond, *, check: bool
) -> EngineReport | None:
    """Writes model, weights and vectors, checks them, and lets them appear together."""
    advice = _advice(captured.narrowed, vectors.contract)
    if beyond.lines:
        lines = "; at ".join(beyond.lines[:_MOST_LINES])
        advice = f"Its sizes decide what it does: at {lines}. {advice}"
    with written_together(path) as folder:
        place = folder / path.name
        save(captured.model, place)
        return write_vectors(
            place,
            replace(vectors, trace=trace(place, vectors)),
            name=str(path),
            check=check,
            refusal=lambda said: (
                f"The exported file does not give PyTorch's answers, so it was not written. {said} "
                f"{advice} check=False writes the file anyway."
            ),
        )


def _advice(narrowed: str | None, contract: Contract) -> str:
    if any(spec.lengths_of is not None for spec in contract.inputs):
        return (
            "Of a packed sequence, forward may compute with each step's data by itself, and must "
            "keep sorted_indices and unsorted_indices where it makes another of them. If it does, "
            "please report this network;"
        )
    return narrowed or "Please report this network;"

# SPDX-License-Identifier: Apache-2.0
"""The model: one loaded network, `(x, state) -> (y, state)`, immutable and thread-safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from .arguments import path_of
from .axes import is_count
from .contract import CONTRACT_KEY, PRECISION_KEY, Contract, names_of
from .engines import Engine, check_threads, open_engine
from .engines.base import answers
from .engines.step_and_whole import StepAndWhole
from .engines.with_constants import ConstantInputs
from .errors import ContractError, InputError, StateportError, StreamingError
from .mixed_rows import find_mixed_rows
from .model_file.foreign.streaming import streaming_of
from .model_file.onnx_outline import OnnxFile, read
from .model_file.read_contract import find_contract, read_contract
from .plan import Plan
from .pool import Pool
from .precision import lowest
from .probed_axes import find_batch
from .rewindable_stream import RewindableStream
from .state import State
from .stream import Stream
from .validation import (
    Array,
    check_inputs,
    check_state,
    fixed_inputs,
    initial_state,
    named_input,
    single,
)


def load(
    path: str | PathLike[str],
    *,
    engine: str | None = None,
    threads: int | None = None,
    states: Mapping[str, str] | None = None,
    constants: Mapping[str, object] | None = None,
    plan: str | PathLike[str] | None = None,
    **engine_options: object,
) -> Model:
    """Loads a model file into an engine.

    Args:
        path: an ONNX file with a contract, as `stateport export` writes it, or any ONNX file with
            `states`.
        engine: "ort-cpu", "ort-cuda", "openvino", "tract", "onnx-reference", "ort-node",
            "ort-web", "c", or an engine that another distribution adds (docs/engines.md). By
            default "ort-cpu". stateport never falls back to another engine.
        threads: how many threads one call may use. By default 1, which is the fastest for the
            single steps of all but very large networks.
        states: for a file without a contract, the output that holds the next value of each state
            input: {"state": "stateN"}. Such states start from zeros. By default the states are
            matched by well-known names, if those match exactly one pairing.
        constants: values of inputs that are the same in every call: {"sr": 16000}.
        plan: a file that `stateport tune` wrote for this model. It sets the engine, its options and
            threads, and may name files that are run in place of the model's.
        engine_options: for "ort-cuda": `device`, the number of the GPU, and `graphs`, whether each
            stream and pool replays one CUDA graph per chunk size (the graphs stay in memory as
            long as the model); for "openvino": `precision`, "float32" or "bfloat16"; for
            "ort-node": `modules`, the folder with node_modules, and `node`, the program; for
            "ort-web": `modules`, and `browser`, the program; for "c": `compiler`, `cache` and
            `fast` (docs/devices.md).

    Raises:
        FileError: the file is missing, truncated, not ONNX, or has weights outside its folder.
        ContractError: the file has no contract and its names match no states, or its contract
            contradicts its graph.
        EngineUnavailable: the engine is unknown, or does not work on this machine.
        EngineError: the engine refuses the file.
        InputError: the engine does not support `threads` or an option; an argument is given that
            the plan sets; `states` or `constants` do not fit the file; or a state of a file without
            a contract grows with every call.
    """
    check_threads(threads)
    path = path_of(path)
    if plan is not None:
        if engine is not None or threads is not None or engine_options:
            raise InputError(
                "A plan sets the engine, its options and its threads. Leave them out, or leave out "
                "the plan."
            )
        if states is not None or constants is not None:
            raise InputError(
                "A plan is for a file with a contract, which has no use for states and constants. "
                "Leave them out."
            )
        plan_path = path_of(plan)
        return _load_plan(path, Plan.load(plan_path), plan_path)

    if engine is None:
        engine = "ort-cpu"
    return _load_file(path, engine, threads, engine_options, states=states, constants=constants)


def _load_file(
    path: Path,
    engine: str,
    threads: int | None,
    engine_options: Mapping[str, object],
    *,
    states: Mapping[str, str] | None,
    constants: Mapping[str, object] | None,
) -> Model:
    file = read(path)
    contract = find_contract(file, states)
    fixed = fixed_inputs(contract, {} if constants is None else constants)
    opened = open_engine(engine, file, threads, engine_options)

    if fixed:
        opened = ConstantInputs(opened, fixed)

        free_inputs = []
        for spec in contract.inputs:
            if spec.name not in fixed:
                free_inputs.append(spec)

        variable = tuple(free_inputs)
        contract = replace(contract, inputs=variable)
    if CONTRACT_KEY not in file.metadata:
        contract = _with_batch(file, contract, opened)

    return Model(contract, opened, file.initial, _weight_precision(file), threads or 1)


def _with_batch(file: OnnxFile, contract: Contract, engine: Engine) -> Contract:
    """The contract of a file without one; each input's batch has the name of the states'."""
    found = find_batch(contract, engine)
    if found is contract:
        return contract
    return replace(found, streaming=streaming_of(file, found))


def _load_plan(path: Path, plan: Plan, plan_path: Path) -> Model:
    contract = read_contract(read(path))
    whole, step = plan.files(path, plan_path)

    file = read(whole)
    if read_contract(file) != contract:
        raise ContractError(
            f"{whole} has another contract than {path}. Run `stateport tune` again."
        )
    opened = open_engine(plan.engine, file, plan.threads, plan.options)
    precisions = [_weight_precision(file)]

    if step is not None:
        step_file = read(step)
        precisions.append(_weight_precision(step_file))
        step_engine = open_engine(plan.engine, step_file, plan.threads, plan.options)
        opened = StepAndWhole(contract, opened, step_engine)

    return Model(contract, opened, file.initial, lowest(*precisions), plan.threads)


def _weight_precision(file: OnnxFile) -> str:
    return file.metadata.get(PRECISION_KEY, "float32")


class Model:
    """One loaded network.

    A call takes the state and returns the next one; the model itself does not change. Several
    threads may call it at the same time.
    """

    def __init__(
        self,
        contract: Contract,
        engine: Engine,
        initial: Mapping[str, Array] | None = None,
        precision: str = "float32",
        threads: int = 1,
    ) -> None:
        self._contract = contract
        self._engine = engine
        self._initial = initial or {}
        self._threads = threads
        self._precision = lowest(precision, engine.precision)
        outputs = (*contract.outputs, *contract.state_outputs)
        self._outputs = names_of(outputs)

    @property
    def contract(self) -> Contract:
        """What the file promises."""
        return self._contract

    @property
    def engine(self) -> str:
        """The name of the engine that executes the graph."""
        return self._engine.name

    @property
    def engine_version(self) -> str:
        """The engine's library and its version."""
        return self._engine.version

    @property
    def threads(self) -> int:
        """How many threads one call may use."""
        return self._threads

    @property
    def precision(self) -> str:
        """The lowest precision in use: "float32", "float16", "bfloat16", "int8" or "int4"."""
        return self._precision

    def __call__(self, x: Array, state: State | None = None) -> tuple[Any, State]:
        """Calls a network that has one input.

        Args:
            x: the input, with the dtype and shape of the contract, e.g. float32 (batch, time, 5).
            state: the state to start from, as an earlier call returned it. By default the initial
                state of a sequence, which is zero for most networks.

        Returns:
            The output as an array, or several outputs as a dict by name; and the state after the
            last step. Where the network takes a multiple of steps and the call has another number,
            the state lacks the last ones: it can be looked at, but neither passed on nor saved.

        Raises:
            InputError: `x` does not fit the contract, or the network has several inputs.
            StateError: the state does not fit the contract or the batch size of `x`.
            EngineError: the engine failed.
        """
        outputs, state = self.run(named_input(self._contract, x), state)
        return single(outputs), state

    def run(
        self, inputs: Mapping[str, Array], state: State | None = None
    ) -> tuple[dict[str, Array], State]:
        """Calls the network with inputs and outputs by name; see `__call__`."""
        sizes = check_inputs(self._contract, inputs)
        if state is None:
            state = initial_state(self._contract, self._initial, sizes)
        else:
            check_state(self._contract, state, sizes)

        outputs = answers(self._engine, {**inputs, **state}, self._outputs)
        next_state = {spec.input: outputs.pop(spec.output) for spec in self._contract.states}
        leftover = sizes.get("time", 0) % self._contract.streaming.chunk_multiple
        return outputs, State._adopt(next_state, leftover)

    def stream(self, *, history: int = 0) -> Stream:
        """A new sequence that holds its state itself, and starts from the initial state.

        Args:
            history: the number of last calls that `stream.rewind` can undo. Each call then costs a
                copy of the state more, and the states are in the host's memory.

        Raises:
            StreamingError: the contract says that this network cannot stream.
            InputError: `history` is not a number of calls, 0 or more.
        """
        if not is_count(history, 0):
            raise InputError(f"history is {history!r}; a number of calls was expected, 0 or more.")

        if history == 0:
            return Stream(self._contract, self._engine, self._initial)
        return RewindableStream(self._contract, self._engine, self._initial, self.run, history)

    def pool(self, capacity: int) -> Pool:
        """A pool of up to `capacity` sequences that step together.

        Raises:
            StreamingError: the network cannot stream, has no batch axis, or computes something over
                the rows of the batch, so that streams would see each other.
            InputError: `capacity` is not a positive whole number.
        """
        pool = Pool(self._contract, self._engine, self._initial, capacity)
        if self._mixed_rows is not None:
            raise StreamingError(
                f"The rows of {self._mixed_rows!r} depend on the other rows of the batch, as by a "
                "mean over them, so that the streams of a pool would see each other. Feed each "
                "sequence to a stream of its own: model.stream()."
            )
        return pool

    @cached_property
    def _mixed_rows(self) -> str | None:
        """The first output or state whose rows depend on other rows; None if none was seen."""
        return find_mixed_rows(self._contract, self._engine, self._precision)

    def __copy__(self) -> Model:
        """The model itself: it never changes."""
        return self

    def __deepcopy__(self, memo: object) -> Model:
        """The model itself: it never changes."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuses pickles.

        Raises:
            StateportError: always.
        """
        raise StateportError(
            "A model cannot be pickled, because the engine holds it in its own memory. Pass the "
            "path of its file, and load that in the other process."
        )

    def __repr__(self) -> str:
        ports = [*self._contract.inputs, *self._contract.state_inputs]
        return f"<stateport.Model {', '.join(map(str, ports))} on {self.engine}>"

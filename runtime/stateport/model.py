"""The model: one loaded network, immutable and thread-safe, `(x, state) -> (y, state)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from .arguments import path_of
from .contract import PRECISION_KEY, Contract
from .engines import Engine, check_threads, open_engine
from .engines.base import answers
from .engines.step_and_whole import StepAndWhole
from .engines.with_constants import ConstantInputs
from .errors import ContractError, InputError, StateportError
from .model_file.onnx_outline import OnnxFile, read
from .model_file.read_contract import find_contract, read_contract
from .plan import Plan
from .pool import Pool
from .precision import lowest
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
        path: an ONNX file; with a contract, as `stateport export` writes it, or with `states`.
        engine: "ort-cpu", "ort-cuda", "openvino", "tract", "onnx-reference", or one that another
            distribution adds (docs/engines.md); by default "ort-cpu". There is never a silent fall
            back from one to another.
        threads: how many threads one call may use; by default 1, which is the fastest for the
            single steps of all but very large networks.
        states: of a file without a contract, the output that gives the next value of each input
            that is a state: {"state": "stateN"}. By default the names tell, if they tell one thing.
            Such states start from zeros.
        constants: inputs that are the same in every call, and what they are: {"sr": 16000}.
        plan: a file that `stateport tune` wrote for this model; it says the engine, its options
            and threads, and may bring files that are run in place of the model's.
        engine_options: for "ort-cuda": `device`, the number of the GPU, and `graphs`, whether
            streams and pools replay CUDA graphs, one for each chunk size of each of them (they are
            kept until the model is gone); for "openvino": `precision`, "float32" or "bfloat16".

    Raises:
        FileError: the file is missing, truncated, not ONNX, or keeps weights outside its folder.
        ContractError: the file has no contract and its names tell no states, or it has one that
            its graph does not keep.
        EngineUnavailable: the engine is unknown, or does not work on this machine.
        EngineError: the engine refuses the file.
        InputError: `threads` or an engine option is not what the engine takes, or is given beside
            a plan; `states` or `constants` do not fit the file.
    """
    check_threads(threads)
    path = path_of(path)
    if plan is not None:
        if engine is not None or threads is not None or engine_options:
            raise InputError(
                "A plan says the engine, its options and its threads; give these or the plan."
            )
        if states is not None or constants is not None:
            raise InputError("A plan is for a file with a contract, without states and constants.")
        place = path_of(plan)
        return _load_plan(path, Plan.load(place), place)
    file = read(path)
    contract = find_contract(file, states)
    fixed = fixed_inputs(contract, {} if constants is None else constants)
    opened = open_engine("ort-cpu" if engine is None else engine, file, threads, engine_options)
    if fixed:
        opened = ConstantInputs(opened, fixed)
        rest = tuple(spec for spec in contract.inputs if spec.name not in fixed)
        contract = replace(contract, inputs=rest)
    return Model(contract, opened, file.initial, _precision(file), threads or 1)


def _load_plan(path: Path, plan: Plan, place: Path) -> Model:
    contract = read_contract(read(path))
    whole, step = plan.files(path, place)
    file = read(whole)
    if read_contract(file) != contract:
        raise ContractError(
            f"{whole} has another contract than {path}. Run `stateport tune` again."
        )
    options = (plan.threads, plan.options)
    opened = open_engine(plan.engine, file, *options)
    precisions = [_precision(file)]
    if step is not None:
        step_file = read(step)
        precisions.append(_precision(step_file))
        opened = StepAndWhole(contract, opened, open_engine(plan.engine, step_file, *options))
    return Model(contract, opened, file.initial, lowest(*precisions), plan.threads)


def _precision(file: OnnxFile) -> str:
    return file.metadata.get(PRECISION_KEY, "float32")


class Model:
    """One loaded network.

    Calling it carries no state from call to call: the state goes in and comes out. It may be
    called from many threads at once.
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
        self._outputs = [s.name for s in (*contract.outputs, *contract.state_outputs)]

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
        """In what it computes: "float32", or "float16", "bfloat16", "int8", "int4"."""
        return self._precision

    def __call__(self, x: Array, state: State | None = None) -> tuple[Any, State]:
        """One call of a network with one input: the output, and the state after the last step.

        Args:
            x: the input, with dtype and shape as the contract says, e.g. float32 (batch, time, 5).
            state: the state to go on from, as an earlier call returned it; by default the one that
                a sequence starts from, zeros for most networks.

        Returns:
            The output as one array, or a dict by name where there are several; and the new state.

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
        """One call with inputs and outputs by name; otherwise as calling the model itself."""
        sizes = check_inputs(self._contract, inputs)
        if state is None:
            state = initial_state(self._contract, self._initial, sizes)
        else:
            check_state(self._contract, state, sizes)
        named = answers(self._engine, {**inputs, **state}, self._outputs)
        after = {spec.input: named.pop(spec.output) for spec in self._contract.states}
        return named, State._adopt(after)

    def stream(self) -> Stream:
        """A new live sequence that carries its state itself, starting from the initial state.

        Raises:
            StreamingError: the contract says that this network cannot stream.
        """
        return Stream(self._contract, self._engine, self._initial)

    def pool(self, capacity: int) -> Pool:
        """Many live sequences that step together, up to `capacity` of them.

        Raises:
            StreamingError: the network cannot stream, or has no batch axis.
            InputError: `capacity` is not a positive whole number.
        """
        return Pool(self._contract, self._engine, self._initial, capacity)

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
            "A model cannot be pickled: an engine holds it in memory of its own. Pass on the path "
            "of its file, and load that in the other process."
        )

    def __repr__(self) -> str:
        ports = [*self._contract.inputs, *self._contract.state_inputs]
        return f"<stateport.Model {', '.join(map(str, ports))} on {self.engine}>"

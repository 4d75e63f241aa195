"""The contract: what a model file promises about its inputs, outputs and states.

It travels inside the ONNX file, in `metadata_props` under the key `stateport.contract`, as the JSON
object that docs/contract.md describes. Everything here is a frozen value.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Final, TypeVar

import numpy as np

from .axes import SIZE_LIMIT, impossible
from .axes import Axis as Axis
from .axes import names_in as names_in
from .axes import resolve as resolve
from .errors import ContractError, InputError, StreamingError
from .files.reading import MOST_DIMENSIONS, parse_json
from .shown import shown

CONTRACT_KEY: Final = "stateport.contract"
ORIGIN_KEY: Final = "stateport.origin"
#: In what the file's weights are kept, where that is less than float32: "float16", "int8", "int4".
PRECISION_KEY: Final = "stateport.precision"
#: Before a state input's name: the initializer that holds its first value.
INITIAL_PREFIX: Final = "stateport.initial."
VERSION: Final = 1

#: The dtypes of arrays, by NumPy's names.
DTYPES: Final = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)

#: Inputs, outputs or states of one contract.
MOST_ARRAYS: Final = 2048
#: Bytes of all states of one sequence, as far as their sizes are fixed.
MOST_STATE: Final = 1 << 28
_LONGEST_NAME: Final = 1024

_T = TypeVar("_T")


@dataclass(frozen=True)
class ArraySpec:
    """One input or output: its name, NumPy dtype name, and one size or axis name per dimension.

    `lengths_of` says of an integer input that it holds the length of each row along that axis, as
    padded batches need: from 1 to the axis's size. None for all other arrays.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    lengths_of: str | None = None

    @property
    def time_axis(self) -> int | None:
        """The dimension that grows with time: "time" itself, or "batch*time", "2*time"."""
        if "time" in self.shape:
            return self.shape.index("time")
        grows = (i for i, axis in enumerate(self.shape) if re.search(r"\btime\b", str(axis)))
        return next(grows, None)

    def __str__(self) -> str:
        return f"{self.name}: {describe(self.dtype, self.shape)}"


@dataclass(frozen=True)
class StateSpec:
    """One state: the input that takes it, the output that gives the next one.

    `initial` says what a sequence starts from: "zeros", or "file": the values in the file's
    initializer `stateport.initial.` and the input's name, with a batch axis of size 1.
    """

    input: str
    output: str
    dtype: str
    shape: tuple[Axis, ...]
    initial: str = "zeros"

    def __str__(self) -> str:
        return f"{self.input} -> {self.output}: {describe(self.dtype, self.shape)}"


@dataclass(frozen=True)
class Streaming:
    """Whether feeding a sequence chunk by chunk gives the answers of the whole.

    Attributes:
        ok: whether it does; None where that is not known, as of some files without a contract.
        reason: why it does not, or why that is not known. The key in the file is `because`.
        chunk_multiple: the length of every chunk is a multiple of this many steps. The key in the
            file is `multiple`.
        lookahead: output step t depends on no input step later than t + lookahead. The key in the
            file is `delay`.
    """

    ok: bool | None = True
    reason: str | None = None
    chunk_multiple: int = 1
    lookahead: int = 0

    def to_document(self) -> dict[str, object]:
        """The entry of the contract's JSON document. Usual values are left out."""
        document: dict[str, object] = {"ok": self.ok}
        if self.reason is not None:
            document["because"] = self.reason
        if self.chunk_multiple != 1:
            document["multiple"] = self.chunk_multiple
        if self.lookahead:
            document["delay"] = self.lookahead
        return document


@dataclass(frozen=True)
class Contract:
    """What a model file promises: inputs and outputs without the states, states, streaming.

    `limits` are the largest sizes that axes may have in one call, by name, where there are such.
    """

    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    states: tuple[StateSpec, ...] = ()
    streaming: Streaming = Streaming()
    limits: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def state_inputs(self) -> tuple[ArraySpec, ...]:
        """The states as the graph's inputs."""
        return tuple(ArraySpec(s.input, s.dtype, s.shape) for s in self.states)

    @property
    def state_outputs(self) -> tuple[ArraySpec, ...]:
        """The states as the graph's outputs."""
        return tuple(ArraySpec(s.output, s.dtype, s.shape) for s in self.states)

    @property
    def axes(self) -> frozenset[str]:
        """The names of all dynamic axes."""
        shapes = [spec.shape for spec in (*self.inputs, *self.outputs)]
        shapes += [state.shape for state in self.states]
        return frozenset(axis for shape in shapes for axis in shape if isinstance(axis, str))

    def to_json(self) -> str:
        """The contract as the JSON text that stands in the file."""
        document = {"version": VERSION, **asdict(self), "streaming": self.streaming.to_document()}
        for array in (*document["inputs"], *document["outputs"]):
            if array["lengths_of"] is None:
                del array["lengths_of"]
        document["limits"] = dict(self.limits)
        if not self.limits:
            del document["limits"]
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Reads a contract; `ContractError` says what is wrong with the text, and where."""
        try:
            document = parse_json(text)
        except ValueError as error:
            raise ContractError(f"The contract is not JSON: {error}.") from error
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: object) -> Contract:
        """Reads a contract from the object that its JSON text says, as `from_json`."""
        entries = _object(document, "the contract")
        version = entries.get("version")
        if type(version) is not int or version != VERSION:
            raise ContractError(
                f"The contract has version {shown(version)}; this stateport reads version "
                f"{VERSION}. Upgrade stateport, or export the file again."
            )
        return cls(
            inputs=_list(entries, "inputs", _array_spec),
            outputs=_list(entries, "outputs", _array_spec),
            states=_list(entries, "states", _state_spec),
            streaming=_streaming(entries.get("streaming")),
            limits=_limits(entries.get("limits", {})),
        )


def describe(dtype: object, shape: Iterable[object]) -> str:
    """A dtype and a shape as people write them: `float32[batch, time, 5]`."""
    return f"{dtype}[{', '.join(str(axis) for axis in shape)}]"


def axis_sizes(specs: Iterable[ArraySpec], shapes: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """The size of every axis that has a name, from the shapes of arrays by name."""
    return {
        axis: size
        for spec in specs
        for axis, size in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(axis, str)
    }


def check_streaming(contract: Contract) -> None:
    """Refuses a network that needs whole sequences. What is not known is for the caller to try.

    Raises:
        StreamingError: with the contract's reason.
    """
    if contract.streaming.ok is False:
        raise StreamingError(
            f"This network cannot be run chunk by chunk: {contract.streaming.reason}. "
            "Call the model itself with the whole sequence."
        )


def check_limits(contract: Contract, sizes: Mapping[str, int]) -> None:
    """Refuses a call that is larger than the network can take, or was ever run at.

    Raises:
        InputError: with the axis, its size and its largest size.
    """
    for axis, most in contract.limits:
        size = sizes.get(axis, 0)
        if size > most:
            in_chunks = axis == "time" and contract.streaming.ok
            raise InputError(
                f"Axis {axis!r} is {size} in this call; the network takes at most {most}, because "
                "beyond that it fails in PyTorch too, or does something else that the file has "
                f"not. {'Feed it in chunks.' if in_chunks else 'Make a smaller call.'}"
            )


def check_chunk(contract: Contract, sizes: Mapping[str, int]) -> None:
    """Refuses a chunk of a length that this network cannot be fed.

    Raises:
        InputError: with the multiple that it has to be of.
    """
    multiple, time = contract.streaming.chunk_multiple, sizes.get("time", 0)
    if time % multiple:
        raise InputError(
            f"This chunk has {time} steps; the network takes {multiple} at a time, so that a chunk "
            f"of a stream is a multiple of that. Keep the last {time % multiple} for the next one."
        )


def _check(contract: Contract) -> None:
    arrays = (*contract.inputs, *contract.outputs)
    taken, given = (
        (*contract.inputs, *contract.state_inputs),
        (*contract.outputs, *contract.state_outputs),
    )
    _check_names(taken)
    _check_names(given)
    # Engines that are bound to buffers leave the output's as it was.
    for name in {spec.name for spec in taken} & {spec.name for spec in given}:
        raise ContractError(
            f"The contract names {shown(name)} as an input and as an output. Give the output a "
            "name of its own, by an Identity node."
        )
    for array in (*arrays, *contract.state_inputs):
        _check_dtype(array.name, array.dtype)
        _check_shape(array)
    _check_lengths(contract)
    _check_states(contract)
    _check_limited(contract)
    if not contract.streaming.ok and not contract.streaming.reason:
        raise ContractError("The contract says that the network cannot stream, but not why.")


def _check_names(specs: tuple[ArraySpec, ...]) -> None:
    if len(specs) > 2 * MOST_ARRAYS:
        raise ContractError(
            f"The contract has {len(specs)} inputs or outputs; this stateport reads "
            f"{2 * MOST_ARRAYS} at most."
        )
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            raise ContractError(f"The contract names {shown(name)} twice.")


def _check_shape(spec: ArraySpec) -> None:
    shape = spec.shape
    sizes = [axis for axis in shape if isinstance(axis, int)]
    if len(shape) > MOST_DIMENSIONS or prod(max(size, 1) for size in sizes) >= SIZE_LIMIT:
        raise ContractError(
            f"The contract gives {shown(spec.name)} the shape {shown([*shape])}; an array has at "
            f"most {MOST_DIMENSIONS} dimensions, and fewer than {SIZE_LIMIT} elements along those "
            "whose sizes are fixed."
        )
    for axis in shape:
        wrong = impossible(axis)
        if wrong is not None:
            raise ContractError(
                f"The contract computes the axis {shown(axis)} of {shown(spec.name)} with {wrong}."
            )


def _check_states(contract: Contract) -> None:
    nbytes = 0
    for state in contract.states:
        if state.initial not in ("zeros", "file"):
            raise ContractError(
                f"State {shown(state.input)} starts from {shown(state.initial)}; this stateport "
                "knows 'zeros' and 'file'. Upgrade stateport, or export the file again."
            )
        sizes = [axis for axis in state.shape if isinstance(axis, int)]
        nbytes += prod(sizes) * np.dtype(state.dtype).itemsize
    if nbytes > MOST_STATE:
        raise ContractError(
            f"The states of the contract take {nbytes} bytes for each sequence; this stateport "
            f"carries {MOST_STATE} at most."
        )


def _check_limited(contract: Contract) -> None:
    axes = {axis for spec in contract.inputs for axis in spec.shape}
    for axis, most in contract.limits:
        if axis not in axes or not 1 <= most <= SIZE_LIMIT:
            raise ContractError(
                f"The contract limits the axis {shown(axis)} to {shown(most)}; it must be an axis "
                "of an input, and the limit a size of at least 1."
            )


def _check_dtype(name: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise ContractError(f"The contract gives {shown(name)} the unknown dtype {shown(dtype)}.")


def _check_lengths(contract: Contract) -> None:
    axes = {axis for spec in contract.inputs for axis in spec.shape if isinstance(axis, str)}
    fitting = {spec.name for spec in contract.inputs if "int" in spec.dtype}
    for number, array in enumerate((*contract.inputs, *contract.outputs)):
        wrong = number >= len(contract.inputs) or array.name not in fitting
        if array.lengths_of is not None and (wrong or array.lengths_of not in axes):
            raise ContractError(
                f"The contract says that {shown(array.name)} holds the lengths of rows along "
                f"{shown(array.lengths_of)}; that must be an input of integers, and an axis of an "
                "input."
            )


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ContractError(f"In the contract, {where} must be an object; it is {shown(value)}.")
    return value


def _list(
    entries: dict[str, Any], key: str, read: Callable[[dict[str, Any]], _T]
) -> tuple[_T, ...]:
    value = entries.get(key)
    if not isinstance(value, list) or len(value) > MOST_ARRAYS:
        raise ContractError(
            f"In the contract, {key!r} must be a list of at most {MOST_ARRAYS}; "
            f"it is {shown(value)}."
        )
    return tuple(read(_object(item, f"every entry of {key!r}")) for item in value)


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        raise ContractError(
            f"In the contract, {key!r} must be a name of at most {_LONGEST_NAME} characters; "
            f"in {shown(entry)} it is {shown(value)}."
        )
    return value


def _shape(entry: dict[str, Any]) -> tuple[Axis, ...]:
    value = entry.get("shape")
    if not isinstance(value, list) or not all(_is_axis(axis) for axis in value):
        raise ContractError(
            f"In the contract, 'shape' must be a list of sizes and axis names, the sizes below "
            f"{SIZE_LIMIT}, the names of at most {_LONGEST_NAME} characters; "
            f"in {shown(entry)} it is {shown(value)}."
        )
    return tuple(value)


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return 0 < len(axis) <= _LONGEST_NAME
    return type(axis) is int and 0 <= axis < SIZE_LIMIT


def _array_spec(entry: dict[str, Any]) -> ArraySpec:
    lengths_of = _text(entry, "lengths_of") if "lengths_of" in entry else None
    return ArraySpec(_text(entry, "name"), _text(entry, "dtype"), _shape(entry), lengths_of)


def _state_spec(entry: dict[str, Any]) -> StateSpec:
    names = {key: _text(entry, key) for key in ("input", "output", "dtype", "initial")}
    return StateSpec(**names, shape=_shape(entry))


def _limits(value: object) -> tuple[tuple[str, int], ...]:
    limits = _object(value, "'limits'")
    if not all(type(most) is int for most in limits.values()):
        raise ContractError(
            f"In the contract, 'limits' must give a size for each axis; it is {shown(limits)}."
        )
    return tuple(sorted(limits.items()))


def _streaming(value: object) -> Streaming:
    entry = _object(value, "'streaming'")
    ok, reason = entry.get("ok"), entry.get("because")
    if not isinstance(ok, bool) or not isinstance(reason, str | None):
        raise ContractError(
            f"In the contract, 'streaming' must say 'ok' true or false; it is {shown(entry)}."
        )
    multiple, lookahead = entry.get("multiple", 1), entry.get("delay", 0)
    if not _is_steps(multiple, 1) or not _is_steps(lookahead, 0):
        raise ContractError(
            "In the contract, 'streaming' must say 'multiple' and 'delay' in steps; "
            f"it is {shown(entry)}."
        )
    return Streaming(ok, reason, multiple, lookahead)


def _is_steps(value: object, least: int) -> bool:
    return type(value) is int and least <= value < SIZE_LIMIT

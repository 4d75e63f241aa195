# SPDX-License-Identifier: Apache-2.0
"""The contract: what a model file promises about its inputs, outputs and states.

The ONNX file holds it in `metadata_props` under the key `stateport.contract`, as the JSON object
that docs/contract.md describes. All classes here are frozen.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import lcm, prod
from typing import Any, Final, TypeVar

import numpy as np

from .axes import SIZE_LIMIT, dynamic_axes, fixed_sizes, impossible, is_count
from .axes import Axis as Axis
from .axes import names_in as names_in
from .axes import resolve as resolve
from .errors import ContractError, InputError, StreamingError
from .files.reading import MOST_DIMENSIONS, parse_json
from .shown import shown

CONTRACT_KEY: Final = "stateport.contract"
ORIGIN_KEY: Final = "stateport.origin"
#: The precision of the file's weights, if lower than float32: "float16", "int8" or "int4".
PRECISION_KEY: Final = "stateport.precision"
#: This and the name of a state input is the name of the initializer with its first value.
INITIAL_PREFIX: Final = "stateport.initial."
VERSION: Final = 1

#: NumPy's names of the dtypes that arrays may have.
DTYPES: Final = frozenset(
    ["bool", "float16", "float32", "float64"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)

#: The largest number of inputs, of outputs and of states in one contract.
MOST_ARRAYS: Final = 2048
#: The largest size of all states of one sequence in bytes; dynamic axes count as 1.
MOST_STATE: Final = 1 << 28
_LONGEST_NAME: Final = 1024

_T = TypeVar("_T")


@dataclass(frozen=True)
class ArraySpec:
    """One input or output.

    Attributes:
        name: its name in the graph.
        dtype: the name of its NumPy dtype.
        shape: the size of each fixed axis, and the name of each dynamic one.
        lengths_of: the axis along which this integer input holds the length of each row, from 1 to
            the axis's size, as padded batches need it. None for all other arrays.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]
    lengths_of: str | None = None

    @property
    def time_axis(self) -> int | None:
        """The dimension that grows with time: "time", or else one like "batch*time", "2*time"."""
        if "time" in self.shape:
            return self.shape.index("time")

        for dimension, axis in enumerate(self.shape):
            if re.search(r"\btime\b", str(axis)):
                return dimension
        return None

    def __str__(self) -> str:
        return f"{self.name}: {describe(self.dtype, self.shape)}"


@dataclass(frozen=True)
class StateSpec:
    """One state: an input, and the output that holds its next value.

    Attributes:
        input: the name of the input.
        output: the name of the output.
        dtype: the name of the NumPy dtype of both.
        shape: the size of each fixed axis, and the name of each dynamic one.
        initial: the first value of a sequence: "zeros", or "file" for the values of the file's
            initializer named `stateport.initial.` and the input's name, with a batch axis of 1.
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
    """Whether a sequence gives the same outputs chunk by chunk as in one call.

    Attributes:
        ok: whether it does; None if that is not known, as for some files without a contract.
        reason: why it does not, or why that is not known. The key in the file is `because`.
        chunk_multiple: the number of steps in every chunk must be a multiple of this. The key in
            the file is `multiple`.
        lookahead: output step t depends on no input step later than t + lookahead. The key in the
            file is `delay`.
    """

    ok: bool | None = True
    reason: str | None = None
    chunk_multiple: int = 1
    lookahead: int = 0

    def to_document(self) -> dict[str, object]:
        """The entry in the contract's JSON document. Default values are left out."""
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
    """What a model file promises.

    Attributes:
        inputs: the inputs that are not states.
        outputs: the outputs that are not states.
        states: the pairs of an input and an output that are states.
        streaming: whether the network can run chunk by chunk.
        limits: the names of axes that must not exceed a size in one call, with that size.
        minimums: the names of axes that must reach a size in one call, with that size.
        multiples: the names of axes whose size in every call must be a multiple of a number, with
            that number.

    Raises:
        ContractError: these contradict one another, or are more than stateport supports.
    """

    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    states: tuple[StateSpec, ...] = ()
    streaming: Streaming = Streaming()
    limits: tuple[tuple[str, int], ...] = ()
    minimums: tuple[tuple[str, int], ...] = ()
    multiples: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        _check_contract(self)

    @property
    def state_inputs(self) -> tuple[ArraySpec, ...]:
        """The states as the graph's inputs."""
        return tuple(ArraySpec(state.input, state.dtype, state.shape) for state in self.states)

    @property
    def state_outputs(self) -> tuple[ArraySpec, ...]:
        """The states as the graph's outputs."""
        return tuple(ArraySpec(state.output, state.dtype, state.shape) for state in self.states)

    @property
    def axes(self) -> frozenset[str]:
        """The names of all dynamic axes."""
        return frozenset(axis_names((*self.inputs, *self.outputs, *self.state_inputs)))

    @property
    def step_multiple(self) -> int:
        """The number of which the steps of every call, chunk or whole sequence, are a multiple.

        A whole sequence may have any length where `multiples` does not have time. But its state
        goes on only where its length is a multiple of `streaming.chunk_multiple`.
        """
        return lcm(self.streaming.chunk_multiple, dict(self.multiples).get("time", 1))

    @property
    def shortest_chunk(self) -> int:
        """The smallest number of steps of a call after which the state goes on.

        It is a multiple of `step_multiple`. A whole sequence may be shorter: `minimums` has the
        fewest steps that the network takes at all.
        """
        multiple = self.step_multiple
        return -(-dict(self.minimums).get("time", 1) // multiple) * multiple

    def to_json(self) -> str:
        """The contract as the JSON text that is stored in the file."""
        document = {"version": VERSION, **asdict(self), "streaming": self.streaming.to_document()}
        for array in (*document["inputs"], *document["outputs"]):
            if array["lengths_of"] is None:
                del array["lengths_of"]

        for key in ("limits", "minimums", "multiples"):
            if document[key]:
                document[key] = dict(document[key])
            else:
                del document[key]
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Reads a contract from the JSON text that `to_json` writes.

        Raises:
            ContractError: the text is not JSON, or not a valid contract of this version.
        """
        try:
            document = parse_json(text)
        except ValueError as error:
            raise ContractError(f"The contract is not JSON: {error}.") from error
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: object) -> Contract:
        """Reads a contract from its parsed JSON document.

        Raises:
            ContractError: it is not a valid contract of this version.
        """
        entries = _object(document, "the contract")
        version = entries.get("version")
        if type(version) is not int or version != VERSION:
            raise ContractError(
                f"The contract has version {shown(version)}; this stateport reads version "
                f"{VERSION}. Upgrade stateport, or export the file again."
            )

        return cls(
            inputs=_read_list(entries, "inputs", _read_array_spec),
            outputs=_read_list(entries, "outputs", _read_array_spec),
            states=_read_list(entries, "states", _read_state_spec),
            streaming=_read_streaming(entries.get("streaming")),
            limits=_read_axis_sizes(entries, "limits"),
            minimums=_read_axis_sizes(entries, "minimums"),
            multiples=_read_axis_sizes(entries, "multiples"),
        )


def describe(dtype: object, shape: Iterable[object]) -> str:
    """A dtype and a shape as text: `float32[batch, time, 5]`."""
    return f"{dtype}[{', '.join(map(str, shape))}]"


def axis_sizes(specs: Iterable[ArraySpec], shapes: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """The size of every dynamic axis, from the shapes of arrays by name."""
    sizes: dict[str, int] = {}
    for spec in specs:
        for axis, size in zip(spec.shape, shapes[spec.name], strict=True):
            if isinstance(axis, str):
                sizes[axis] = size
    return sizes


def check_streaming(contract: Contract) -> None:
    """Refuses a network that needs whole sequences. One of which this is not known is accepted.

    Raises:
        StreamingError: the network cannot run chunk by chunk, with the contract's reason.
    """
    if contract.streaming.ok is False:
        raise StreamingError(
            f"This network cannot be run chunk by chunk: {contract.streaming.reason}. "
            "Call the model itself with the whole sequence."
        )


def check_limits(contract: Contract, sizes: Mapping[str, int]) -> None:
    """Refuses a call in which an axis has a size that the network does not take.

    Raises:
        InputError: with the axis, its size, and the largest or smallest size, or the multiple.
    """
    for axis, multiple in contract.multiples:
        size = sizes.get(axis, multiple)
        if size % multiple:
            raise InputError(
                f"Axis {axis!r} is {size} in this call; the network takes multiples of {multiple} "
                "alone. Others fail in PyTorch too, or do something that is not in the file. "
                f"{_nearest_multiples(size, multiple)}"
            )

    for axis, minimum in contract.minimums:
        size = sizes.get(axis, minimum)
        if size < minimum:
            raise InputError(
                f"Axis {axis!r} is {size} in this call; the network takes at least {minimum}. "
                "Below that it fails in PyTorch too, or does something that is not in the file. "
                "Make a larger call."
            )

    for axis, limit in contract.limits:
        size = sizes.get(axis, 0)
        if size > limit:
            raise InputError(
                f"Axis {axis!r} is {size} in this call; the network takes at most {limit}. Beyond "
                "that it fails in PyTorch too, or does something that is not in the file. "
                f"{_how_to_call_smaller(contract, axis)}"
            )


def _how_to_call_smaller(contract: Contract, axis: str) -> str:
    """What to do about a size above the largest."""
    if axis != "time":
        return "Make a smaller call."
    if contract.streaming.ok:
        return "Feed it in chunks."
    return "Shorten the sequence; this network cannot be fed in chunks."


def _nearest_multiples(size: int, multiple: int) -> str:
    """What to do about a size that is no multiple."""
    more = multiple - size % multiple
    if size < multiple:
        return f"Fill it up with {more} more."
    return f"Cut it to {size - size % multiple}, or fill it up with {more} more."


def check_chunk(contract: Contract, sizes: Mapping[str, int]) -> None:
    """Refuses a chunk whose number of steps is not a multiple of the contract's.

    Raises:
        InputError: with the number of steps and the multiple.
    """
    multiple = contract.streaming.chunk_multiple
    time = sizes.get("time", 0)
    if time % multiple:
        raise InputError(
            f"This chunk has {time} steps; the network takes {multiple} at a time, so that a chunk "
            f"must be a multiple of {multiple} steps. Keep the last {time % multiple} for the next "
            "one."
        )


def _check_contract(contract: Contract) -> None:
    inputs = (*contract.inputs, *contract.state_inputs)
    outputs = (*contract.outputs, *contract.state_outputs)
    _check_unique(inputs)
    _check_unique(outputs)
    _check_disjoint(inputs, outputs)

    for array in (*contract.inputs, *contract.outputs, *contract.state_inputs):
        _check_dtype(array)
        _check_shape(array)

    _check_lengths(contract)
    _check_states(contract)
    _check_limited_axes(contract)
    if not contract.streaming.ok and not contract.streaming.reason:
        raise ContractError("The contract says that the network cannot stream, but not why.")


def _check_unique(specs: tuple[ArraySpec, ...]) -> None:
    if len(specs) > 2 * MOST_ARRAYS:
        raise ContractError(
            f"The contract has {len(specs)} inputs or outputs; this stateport reads "
            f"{2 * MOST_ARRAYS} at most."
        )

    for name, count in Counter(names_of(specs)).items():
        if count > 1:
            raise ContractError(f"The contract names {shown(name)} twice.")


def _check_disjoint(inputs: tuple[ArraySpec, ...], outputs: tuple[ArraySpec, ...]) -> None:
    """Refuses one name for an input and an output.

    An engine with bound buffers would leave the buffer of such an output unchanged.
    """
    shared = {*names_of(inputs)} & {*names_of(outputs)}
    for name in shared:
        raise ContractError(
            f"The contract names {shown(name)} as an input and as an output. Give the output "
            "another name, with an Identity node."
        )


def _check_dtype(spec: ArraySpec) -> None:
    if spec.dtype not in DTYPES:
        raise ContractError(
            f"The contract gives {shown(spec.name)} the unknown dtype {shown(spec.dtype)}."
        )


def _check_shape(spec: ArraySpec) -> None:
    # An axis of size 0 counts as 1, so that it does not hide the size of the others.
    elements = prod(max(size, 1) for size in fixed_sizes(spec.shape))
    if len(spec.shape) > MOST_DIMENSIONS or elements >= SIZE_LIMIT:
        raise ContractError(
            f"The contract gives {shown(spec.name)} the shape {shown([*spec.shape])}; an array has "
            f"at most {MOST_DIMENSIONS} dimensions, and fewer than {SIZE_LIMIT} elements along its "
            "axes of fixed size."
        )

    for axis in spec.shape:
        problem = impossible(axis)
        if problem is not None:
            raise ContractError(
                f"The contract computes the axis {shown(axis)} of {shown(spec.name)} with "
                f"{problem}."
            )


def _check_lengths(contract: Contract) -> None:
    axes = set(axis_names(contract.inputs))
    for spec in contract.inputs:
        is_integer = "int" in spec.dtype
        if spec.lengths_of is not None and not (is_integer and spec.lengths_of in axes):
            raise _lengths_error(spec)

    for spec in contract.outputs:
        if spec.lengths_of is not None:
            raise _lengths_error(spec)


def _lengths_error(spec: ArraySpec) -> ContractError:
    return ContractError(
        f"The contract says that {shown(spec.name)} holds the lengths of rows along "
        f"{shown(spec.lengths_of)}; that must be an input of integers, and an axis of an input."
    )


def _check_states(contract: Contract) -> None:
    for state in contract.states:
        if state.initial not in ("zeros", "file"):
            raise ContractError(
                f"State {shown(state.input)} starts from {shown(state.initial)}; this stateport "
                "knows 'zeros' and 'file'. Upgrade stateport, or export the file again."
            )

    nbytes = sum(map(_fixed_nbytes, contract.states))
    if nbytes > MOST_STATE:
        raise ContractError(
            f"The states of the contract take {nbytes} bytes for each sequence; this stateport "
            f"supports at most {MOST_STATE}."
        )


def _fixed_nbytes(state: StateSpec) -> int:
    """The bytes of a state whose dynamic axes all have the size 1."""
    return prod(fixed_sizes(state.shape)) * np.dtype(state.dtype).itemsize


def _check_limited_axes(contract: Contract) -> None:
    axes = set(axis_names(contract.inputs))
    limits = dict(contract.limits)
    for axis, limit in (*contract.limits, *contract.minimums, *contract.multiples):
        if axis not in axes or not 1 <= limit <= SIZE_LIMIT:
            raise ContractError(
                f"The contract limits the axis {shown(axis)} to {shown(limit)}; it must be an axis "
                "of an input, and the limit a size of at least 1."
            )

    for axis, minimum in contract.minimums:
        if minimum > limits.get(axis, minimum):
            raise ContractError(
                f"The contract says that the axis {shown(axis)} is at least {minimum} and at most "
                f"{limits[axis]}."
            )

    chunks = contract.streaming.chunk_multiple
    calls = dict(contract.multiples).get("time", 1)
    if contract.streaming.ok and chunks % calls:
        raise ContractError(
            f"The contract says that chunks are multiples of {chunks} steps and calls multiples of "
            f"{calls}; the first must be a multiple of the second."
        )


def by_name(specs: Iterable[ArraySpec]) -> dict[str, ArraySpec]:
    """Inputs or outputs by their names."""
    return {spec.name: spec for spec in specs}


def names_of(specs: Iterable[ArraySpec]) -> list[str]:
    """The names of inputs or outputs, in their order."""
    return [spec.name for spec in specs]


def takes_lengths(contract: Contract) -> bool:
    """Whether an input holds the lengths of the rows of a padded batch."""
    return any(spec.lengths_of is not None for spec in contract.inputs)


def has_time(contract: Contract) -> bool:
    """Whether a call takes several steps: an input has a time axis."""
    return any("time" in spec.shape for spec in contract.inputs)


def axis_names(specs: Iterable[ArraySpec | StateSpec]) -> Iterator[str]:
    """The dynamic axes of all arrays, with repetitions."""
    for spec in specs:
        yield from dynamic_axes(spec.shape)


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ContractError(f"In the contract, {where} must be an object; it is {shown(value)}.")
    return value


def _read_list(
    entries: dict[str, Any], key: str, read_item: Callable[[dict[str, Any]], _T]
) -> tuple[_T, ...]:
    value = entries.get(key)
    if not isinstance(value, list) or len(value) > MOST_ARRAYS:
        raise ContractError(
            f"In the contract, {key!r} must be a list of at most {MOST_ARRAYS}; "
            f"it is {shown(value)}."
        )
    return tuple(read_item(_object(item, f"every entry of {key!r}")) for item in value)


def _read_name(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
        raise ContractError(
            f"In the contract, {key!r} must be a name of at most {_LONGEST_NAME} characters; "
            f"in {shown(entry)} it is {shown(value)}."
        )
    return value


def _read_shape(entry: dict[str, Any]) -> tuple[Axis, ...]:
    value = entry.get("shape")
    if not isinstance(value, list) or not all(map(_is_axis, value)):
        raise ContractError(
            f"In the contract, 'shape' must be a list of sizes and axis names, the sizes below "
            f"{SIZE_LIMIT}, the names of at most {_LONGEST_NAME} characters; "
            f"in {shown(entry)} it is {shown(value)}."
        )
    return tuple(value)


def _is_axis(axis: object) -> bool:
    if isinstance(axis, str):
        return 0 < len(axis) <= _LONGEST_NAME
    return is_count(axis, 0, SIZE_LIMIT - 1)


def _read_array_spec(entry: dict[str, Any]) -> ArraySpec:
    lengths_of = _read_name(entry, "lengths_of") if "lengths_of" in entry else None
    return ArraySpec(
        _read_name(entry, "name"), _read_name(entry, "dtype"), _read_shape(entry), lengths_of
    )


def _read_state_spec(entry: dict[str, Any]) -> StateSpec:
    names = {key: _read_name(entry, key) for key in ("input", "output", "dtype", "initial")}
    return StateSpec(**names, shape=_read_shape(entry))


def _read_axis_sizes(entries: dict[str, Any], key: str) -> tuple[tuple[str, int], ...]:
    sizes = _object(entries.get(key, {}), f"{key!r}")
    if not all(type(size) is int for size in sizes.values()):
        raise ContractError(
            f"In the contract, {key!r} must give a size for each axis; it is {shown(sizes)}."
        )
    return tuple(sorted(sizes.items()))


def _read_streaming(value: object) -> Streaming:
    entry = _object(value, "'streaming'")

    ok, reason = entry.get("ok"), entry.get("because")
    if not isinstance(ok, bool) or not isinstance(reason, str | None):
        raise ContractError(
            f"In the contract, 'streaming' must say 'ok' true or false; it is {shown(entry)}."
        )

    multiple = entry.get("multiple", 1)
    lookahead = entry.get("delay", 0)
    if not _is_steps(multiple, minimum=1) or not _is_steps(lookahead, minimum=0):
        raise ContractError(
            "In the contract, 'streaming' must say 'multiple' and 'delay' in steps; "
            f"it is {shown(entry)}."
        )

    return Streaming(ok, reason, multiple, lookahead)


def _is_steps(value: object, *, minimum: int) -> bool:
    return is_count(value, minimum, SIZE_LIMIT - 1)

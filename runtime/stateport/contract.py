"""The contract: what a model file promises about its inputs, outputs and states.

It travels inside the ONNX file, in `metadata_props` under the key `stateport.contract`, as the JSON
object that docs/contract.md describes. Everything here is a frozen value.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from .errors import ContractError, InputError, StreamingError

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

#: A size, or the name of a dynamic axis. "batch" and "time" are reserved names.
Axis = int | str

_T = TypeVar("_T")

#: What an axis may be computed with.
_OPERATIONS: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


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
        because: if not, why; or why it is not known.
        multiple: the number of steps that the length of every chunk is a multiple of.
        delay: the last step that an output needs is at most so many behind the one it stands for.
    """

    ok: bool | None = True
    because: str | None = None
    multiple: int = 1
    delay: int = 0


@dataclass(frozen=True)
class Contract:
    """What a model file promises: inputs and outputs without the states, states, streaming."""

    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    states: tuple[StateSpec, ...] = ()
    streaming: Streaming = Streaming()

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
        usual = asdict(Streaming())
        streaming = {k: v for k, v in asdict(self.streaming).items() if k == "ok" or v != usual[k]}
        document = {"version": VERSION, **asdict(self), "streaming": streaming}
        for array in (*document["inputs"], *document["outputs"]):
            if array["lengths_of"] is None:
                del array["lengths_of"]
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Reads a contract; `ContractError` says what is wrong with the text, and where."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"The contract is not JSON: {error}.") from error
        entries = _object(document, "the contract")
        version = entries.get("version")
        if version != VERSION or isinstance(version, bool):
            raise ContractError(
                f"The contract has version {version!r}; this stateport reads version {VERSION}. "
                "Upgrade stateport, or export the file again."
            )
        return cls(
            inputs=_list(entries, "inputs", _array_spec),
            outputs=_list(entries, "outputs", _array_spec),
            states=_list(entries, "states", _state_spec),
            streaming=_streaming(entries.get("streaming")),
        )


def describe(dtype: object, shape: Iterable[object]) -> str:
    """A dtype and a shape as people write them: `float32[batch, time, 5]`."""
    return f"{dtype}[{', '.join(str(axis) for axis in shape)}]"


def resolve(shape: Iterable[Axis], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with its axes replaced by sizes; `KeyError` for an axis whose size is not known."""
    return tuple(axis if isinstance(axis, int) else _size(axis, sizes) for axis in shape)


def names_in(axis: Axis) -> frozenset[str]:
    """The names of the axes that an axis is computed from: "8*(time//8)" from time.

    `KeyError` where it is no such expression.
    """
    if isinstance(axis, int):
        return frozenset()
    return frozenset(node.id for node in ast.walk(_parsed(axis)) if isinstance(node, ast.Name))


def _size(axis: str, sizes: Mapping[str, int]) -> int:
    return sizes[axis] if axis in sizes else _evaluated(_parsed(axis), axis, sizes)


@lru_cache(maxsize=256)
def _parsed(axis: str) -> ast.expr:
    try:
        return ast.parse(axis.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise KeyError(axis) from None


def _evaluated(node: ast.expr, axis: str, sizes: Mapping[str, int]) -> int:
    """Whole numbers, names, + - * // and brackets; `KeyError` for anything else."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand, axis, sizes)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            a, b = _evaluated(left, axis, sizes), _evaluated(right, axis, sizes)
            if b or not isinstance(op, ast.FloorDiv):
                return _OPERATIONS[type(op)](a, b)
    raise KeyError(axis)


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
            f"This network cannot be run chunk by chunk: {contract.streaming.because}. "
            "Call the model itself with the whole sequence."
        )


def check_chunk(contract: Contract, sizes: Mapping[str, int]) -> None:
    """Refuses a chunk of a length that this network cannot be fed.

    Raises:
        InputError: with the multiple that it has to be of.
    """
    multiple, time = contract.streaming.multiple, sizes.get("time", 0)
    if time % multiple:
        raise InputError(
            f"This chunk has {time} steps; the network takes {multiple} at a time, so that a chunk "
            f"of a stream is a multiple of that. Keep the last {time % multiple} for the next one."
        )


def _check(contract: Contract) -> None:
    for specs in (
        (*contract.inputs, *contract.state_inputs),
        (*contract.outputs, *contract.state_outputs),
    ):
        names = [spec.name for spec in specs]
        for name in names:
            if names.count(name) > 1:
                raise ContractError(f"The contract names {name!r} twice.")
    for array in (*contract.inputs, *contract.outputs):
        _check_dtype(array.name, array.dtype)
        if array.lengths_of is not None:
            _check_lengths(contract, array)
    for state in contract.states:
        _check_dtype(state.input, state.dtype)
        if state.initial not in ("zeros", "file"):
            raise ContractError(
                f"State {state.input!r} starts from {state.initial!r}; this stateport knows "
                "'zeros' and 'file'. Upgrade stateport, or export the file again."
            )
    if not contract.streaming.ok and not contract.streaming.because:
        raise ContractError("The contract says that the network cannot stream, but not why.")


def _check_dtype(name: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise ContractError(f"The contract gives {name!r} the unknown dtype {dtype!r}.")


def _check_lengths(contract: Contract, array: ArraySpec) -> None:
    axes = {axis for spec in contract.inputs for axis in spec.shape if isinstance(axis, str)}
    if "int" not in array.dtype or array not in contract.inputs or array.lengths_of not in axes:
        raise ContractError(
            f"The contract says that {array} holds the lengths of rows along "
            f"{array.lengths_of!r}; that must be an input of integers, and an axis of an input."
        )


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ContractError(f"In the contract, {where} must be an object; it is {value!r}.")
    return value


def _list(
    entries: dict[str, Any], key: str, read: Callable[[dict[str, Any]], _T]
) -> tuple[_T, ...]:
    value = entries.get(key)
    if not isinstance(value, list):
        raise ContractError(f"In the contract, {key!r} must be a list; it is {value!r}.")
    return tuple(read(_object(item, f"every entry of {key!r}")) for item in value)


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ContractError(f"In the contract, {key!r} must be a name; in {entry} it is {value!r}.")
    return value


def _shape(entry: dict[str, Any]) -> tuple[Axis, ...]:
    value = entry.get("shape")
    if not isinstance(value, list) or not all(_is_axis(axis) for axis in value):
        raise ContractError(
            "In the contract, 'shape' must be a list of sizes and axis names; "
            f"in {entry} it is {value!r}."
        )
    return tuple(value)


def _is_axis(axis: object) -> bool:
    if isinstance(axis, bool):
        return False
    return (isinstance(axis, int) and axis >= 0) or (isinstance(axis, str) and axis != "")


def _array_spec(entry: dict[str, Any]) -> ArraySpec:
    lengths_of = _text(entry, "lengths_of") if "lengths_of" in entry else None
    return ArraySpec(_text(entry, "name"), _text(entry, "dtype"), _shape(entry), lengths_of)


def _state_spec(entry: dict[str, Any]) -> StateSpec:
    names = {key: _text(entry, key) for key in ("input", "output", "dtype", "initial")}
    return StateSpec(**names, shape=_shape(entry))


def _streaming(value: object) -> Streaming:
    entry = _object(value, "'streaming'")
    ok, because = entry.get("ok"), entry.get("because")
    if not isinstance(ok, bool) or not isinstance(because, str | None):
        raise ContractError(
            f"In the contract, 'streaming' must say 'ok' true or false; it is {entry}."
        )
    multiple, delay = entry.get("multiple", 1), entry.get("delay", 0)
    if type(multiple) is not int or multiple < 1 or type(delay) is not int or delay < 0:
        raise ContractError(
            f"In the contract, 'streaming' must say 'multiple' and 'delay' in steps; it is {entry}."
        )
    return Streaming(ok, because, multiple, delay)

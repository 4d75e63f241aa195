"""Holding arrays against a contract: nothing is cast, reshaped or replaced silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from reprlib import repr as shortened
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import ArraySpec, Contract, check_limits, describe, resolve
from .errors import InputError, StateError
from .plain import ADVICE, is_special, kind_of
from .state import State

Array = NDArray[Any]


def check_inputs(contract: Contract, inputs: Mapping[str, object]) -> dict[str, int]:
    """Checks every input and returns the sizes that the dynamic axes have in this call.

    Raises:
        InputError: a name that is missing or unknown, a value that is not a plain NumPy array, a
            wrong dtype, rank or fixed size, two sizes for one axis, an axis of length zero or
            beyond the contract's limit, or a row whose length is zero or more than there is.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"The inputs are {kind_of(inputs)}; a dict of arrays by name was expected."
        )
    _check_names(contract.inputs, inputs, "input", InputError)
    sizes: dict[str, int] = {}
    for spec in contract.inputs:
        _check_array(spec, inputs[spec.name], sizes, InputError)
    for spec in contract.inputs:
        if spec.lengths_of is not None:
            _check_lengths(spec, np.asarray(inputs[spec.name]), sizes[spec.lengths_of])
    check_limits(contract, sizes)
    return sizes


def check_state(contract: Contract, state: State, sizes: Mapping[str, int]) -> None:
    """Checks that a state fits the contract and a call of these sizes.

    Raises:
        StateError: a name that is missing or unknown, a wrong dtype, rank or size; a state of
            another batch size than the inputs among them.
    """
    if not isinstance(state, State):
        raise StateError(
            f"The state is {kind_of(state)}; a stateport.State was expected, as the last call "
            "returned it, or made by State({name: array}). Call without a state to start from zero."
        )
    _check_names(contract.state_inputs, state, "state", StateError)
    known = dict(sizes)
    for spec in contract.state_inputs:
        _check_array(spec, state[spec.name], known, StateError)


def initial_state(
    contract: Contract, stored: Mapping[str, Array], sizes: Mapping[str, int]
) -> State:
    """The state that a new sequence starts from, for the axis sizes of its first call.

    `stored` are the values of states that do not start from zeros, with a batch axis of size 1.
    """
    missing = sorted({a for s in contract.states for a in s.shape if isinstance(a, str)} - {*sizes})
    if missing:
        raise StateError(
            f"The first state cannot be made: no input tells the size of axis {missing[0]!r}. "
            "Pass a state."
        )
    shapes = {spec.input: resolve(spec.shape, sizes) for spec in contract.states}
    try:
        arrays = {
            spec.input: np.array(np.broadcast_to(stored[spec.input], shapes[spec.input]), order="C")
            if spec.initial == "file"
            else np.zeros(shapes[spec.input], spec.dtype)
            for spec in contract.states
        }
    except (MemoryError, ValueError) as error:  # NumPy's ValueError: more than it can address
        sized = ", ".join(f"{name} {size}" for name, size in sorted(sizes.items()))
        raise StateError(
            f"There is no memory for a state of {sized}: {error}. Use a smaller batch."
        ) from error
    return State._adopt(arrays)


def judged_by_shape(contract: Contract) -> bool:
    """Whether an array that has the shape and dtype of one that fits is sure to fit too."""
    return all(spec.lengths_of is None for spec in contract.inputs)


def fixed_inputs(contract: Contract, constants: Mapping[str, object]) -> dict[str, Array]:
    """Inputs that are the same in every call, as arrays of the contract's dtypes.

    A single number fills an input whose sizes are all fixed.

    Raises:
        InputError: there is no such input, or the value is not exactly one that it takes.
    """
    if not isinstance(constants, Mapping):
        raise InputError(
            f"The constants are {kind_of(constants)}; a dict of values by the inputs' names was "
            "expected."
        )
    specs = {spec.name: spec for spec in contract.inputs}
    fixed: dict[str, Array] = {}
    for name, value in constants.items():
        if name not in specs:
            wanted = ", ".join(map(str, contract.inputs)) or "no inputs besides its states"
            raise InputError(
                f"There is no input {name!r} to hold a constant; the model takes {wanted}."
            )
        fixed[name] = _constant(specs[name], value)
    return fixed


def _constant(spec: ArraySpec, value: object) -> Array:
    """A value as an array for an input."""
    if is_special(value):
        raise InputError(f"The constant {spec.name!r} is {kind_of(value)}; {ADVICE}")
    array = _exactly(spec.dtype, value)
    if array is None:
        raise InputError(
            f"The constant {spec.name!r} is {shortened(value)}, which is no {spec.dtype} and no "
            "array of them."
        )
    shape = array.shape
    sizes = [axis for axis in spec.shape if isinstance(axis, int)]
    if array.ndim == 0 and len(sizes) == len(spec.shape):
        array = np.full(sizes, array)
    if _problem(spec, array, {}) is not None:
        raise InputError(
            f"The constant {spec.name!r} has the shape {shape}; the model takes {spec}."
        )
    return array


def _exactly(dtype: str, value: object) -> Array | None:
    """A value as an array of a dtype; None where that is not the same value, or no array at all."""
    try:
        array = np.asarray(value)  # ValueError: lists of several lengths
        if array.dtype.kind not in "biufO":  # O: integers too large for NumPy's
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            cast = array.astype(dtype)
        same = np.array_equal(cast, array, equal_nan=array.dtype.kind == "f")
    except (TypeError, ValueError, OverflowError):
        return None
    if array.dtype.kind == "b" and dtype != "bool":  # True is equal to 1, and not the same
        return None
    return cast if same else None


def named_input(contract: Contract, x: Any, call: str = "run({name: array})") -> dict[str, Any]:
    """The one input by its name; `call` is how several are passed."""
    if len(contract.inputs) != 1:
        names = ", ".join(str(spec) for spec in contract.inputs)
        raise InputError(
            f"The model takes {len(contract.inputs)} inputs ({names}); pass them by name: {call}."
        )
    return {contract.inputs[0].name: x}


def single(outputs: dict[str, Array]) -> Any:
    """One output as it is, several as a dict by name; typed loosely, as the caller knows which."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def _check_names(
    specs: Iterable[ArraySpec], given: Iterable[str], what: str, error: type[InputError]
) -> None:
    expected, names = {spec.name for spec in specs}, set(given)
    wanted = ", ".join(str(spec) for spec in specs) or f"no {what} at all"
    for name in sorted(names - expected, key=repr):
        raise error(f"There is no {what} {name!r}; the model takes {wanted}.")
    for name in sorted(expected - names):
        raise error(f"The {what} {name!r} is missing; the model takes {wanted}.")


def _check_array(
    spec: ArraySpec, value: object, sizes: dict[str, int], error: type[InputError]
) -> None:
    if not isinstance(value, np.ndarray):
        raise error(
            f"{spec.name!r} is {kind_of(value)}; a NumPy array {describe(spec.dtype, spec.shape)} "
            "was expected."
        )
    if is_special(value):
        raise error(f"{spec.name!r} is {kind_of(value)}; {ADVICE}")
    problem = _problem(spec, value, sizes)
    if problem is not None:
        came = f"{spec.name!r} is {describe(value.dtype, value.shape)}"
        wanted = f"the model takes {describe(spec.dtype, spec.shape)}"
        raise error(problem.replace("{came}", came).replace("{wanted}", wanted))


def _problem(spec: ArraySpec, value: Array, sizes: dict[str, int]) -> str | None:
    """What is wrong with an array, if anything is, around {came} and {wanted}."""
    if value.dtype != spec.dtype:
        return f"{{came}}; {{wanted}}. Convert it: {spec.name}.astype({spec.dtype!r})."
    if value.ndim != len(spec.shape):
        return f"{{came}}, {value.ndim} dimensions; {{wanted}}, {len(spec.shape)} dimensions."
    for position, (axis, size) in enumerate(zip(spec.shape, value.shape, strict=True)):
        if isinstance(axis, int):
            if size != axis:
                return f"{{came}}; {{wanted}}: dimension {position} must be {axis}, not {size}."
        elif size == 0:
            return f"{{came}}: axis {axis!r} is empty; it must be at least 1."
        elif sizes.setdefault(axis, size) != size:
            return (
                f"{{came}}, so axis {axis!r} is {size}, but it is {sizes[axis]} in the other "
                "inputs of this call; {wanted}."
            )
    return None


def _check_lengths(spec: ArraySpec, lengths: Array, longest: int) -> None:
    """Engines trust the lengths of rows: one that does not fit reads beyond the data."""
    wrong = lengths[(lengths < 1) | (lengths > longest)]
    if wrong.size:
        raise InputError(
            f"{spec.name!r} holds the length {wrong[0]}; each row of this call must be 1 to "
            f"{longest} long, the size of its axis {spec.lengths_of!r}. Leave out rows that are "
            "empty."
        )

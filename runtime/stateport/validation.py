# SPDX-License-Identifier: Apache-2.0
"""Checks arrays against a contract. Nothing is cast, reshaped or replaced silently."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from reprlib import repr as shortened
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .axes import fixed_sizes
from .contract import (
    ArraySpec,
    Contract,
    StateSpec,
    axis_names,
    by_name,
    check_limits,
    describe,
    names_of,
    resolve,
)
from .errors import InputError, StateError
from .plain import ADVICE, conversion, is_special, kind_of
from .state import State, check_can_go_on
from .suggestions import did_you_mean

Array = NDArray[Any]


def check_inputs(contract: Contract, inputs: Mapping[str, object]) -> dict[str, int]:
    """Checks every input, and returns the sizes of the dynamic axes in this call.

    Raises:
        InputError: a name is missing or unknown; a value is not a plain NumPy array, or has a wrong
            dtype, rank or fixed size; an axis has two sizes, is empty, or exceeds the contract's
            limit; or the length of a row is not between 1 and the size of its axis.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"The inputs are {kind_of(inputs)}; a dict of arrays by name was expected."
        )
    _check_names(contract, contract.inputs, inputs, "input", InputError)

    sizes: dict[str, int] = {}
    for spec in contract.inputs:
        _check_array(spec, inputs[spec.name], sizes, InputError)

    for spec in contract.inputs:
        if spec.lengths_of is not None:
            _check_lengths(spec, np.asarray(inputs[spec.name]), sizes[spec.lengths_of])

    check_limits(contract, sizes)
    return sizes


def check_state(contract: Contract, state: State, sizes: Mapping[str, int]) -> None:
    """Checks that a state fits the contract and a call with these axis sizes.

    Raises:
        StateError: a name is missing or unknown; or an array has a wrong dtype, rank or size, such
            as another batch size than the inputs; or a sequence cannot go on from it.
    """
    if not isinstance(state, State):
        raise StateError(
            f"The state is {kind_of(state)}; a stateport.State was expected. Pass the state that "
            "the last call returned, or State({name: array}). Without a state, a call starts from "
            "the initial state."
        )

    check_can_go_on(state)
    _check_names(contract, contract.state_inputs, state, "state", StateError)
    known = dict(sizes)
    for spec in contract.state_inputs:
        _check_array(spec, state[spec.name], known, StateError)


def initial_state(
    contract: Contract, stored: Mapping[str, Array], sizes: Mapping[str, int]
) -> State:
    """The initial state of a sequence.

    Args:
        contract: the contract.
        stored: the first values of states that do not start from zeros, by the input's name, with a
            batch axis of size 1.
        sizes: the axis sizes of the sequence's first call.

    Raises:
        StateError: the size of an axis of a state is not known, or there is not enough memory.
    """
    unknown = sorted({*axis_names(contract.states)} - {*sizes})
    if unknown:
        raise StateError(
            f"The initial state cannot be made: no input has the axis {unknown[0]!r}, so that its "
            "size is not known. Pass a state."
        )

    shapes = {spec.input: resolve(spec.shape, sizes) for spec in contract.states}
    try:
        arrays = {
            spec.input: _first_value(spec, shapes[spec.input], stored) for spec in contract.states
        }
    except (MemoryError, ValueError) as error:  # ValueError: a shape too large for NumPy
        sizes_text = ", ".join(f"{name} {size}" for name, size in sorted(sizes.items()))
        raise StateError(
            f"There is no memory for a state of {sizes_text}: {error}. Use a smaller batch."
        ) from error

    return State._adopt(arrays)


def _first_value(spec: StateSpec, shape: tuple[int, ...], stored: Mapping[str, Array]) -> Array:
    if spec.initial == "file":
        return np.array(np.broadcast_to(stored[spec.input], shape), order="C")
    return np.zeros(shape, spec.dtype)


def judged_by_shape(contract: Contract) -> bool:
    """Whether every array fits that has the shape and dtype of one that fits.

    Row lengths do not: their values have to be checked in every call.
    """
    return all(spec.lengths_of is None for spec in contract.inputs)


def fixed_inputs(contract: Contract, constants: Mapping[str, object]) -> dict[str, Array]:
    """Constant inputs as arrays of the contract's dtypes, by name.

    A single number fills an input whose sizes are all fixed.

    Raises:
        InputError: there is no such input, or a value does not fit it exactly.
    """
    if not isinstance(constants, Mapping):
        raise InputError(
            f"The constants are {kind_of(constants)}; a dict of values by the inputs' names was "
            "expected."
        )

    specs = by_name(contract.inputs)
    fixed: dict[str, Array] = {}
    for name, value in constants.items():
        if name not in specs:
            inputs = ", ".join(map(str, contract.inputs)) or "no inputs besides its states"
            raise InputError(
                f"There is no input {name!r} to hold a constant; the model takes {inputs}."
                f"{did_you_mean(name, specs)}"
            )
        fixed[name] = _as_constant(specs[name], value)
    return fixed


def _as_constant(spec: ArraySpec, value: object) -> Array:
    """The value as an array for an input."""
    if is_special(value):
        raise InputError(f"The constant {spec.name!r} is {kind_of(value)}; {ADVICE}")

    array = _cast_exactly(value, spec.dtype)
    if array is None:
        raise InputError(
            f"The constant {spec.name!r} is {shortened(value)}, which cannot be represented "
            f"exactly as {spec.dtype}; the model takes {spec}."
        )

    shape = array.shape
    sizes = fixed_sizes(spec.shape)
    if array.ndim == 0 and len(sizes) == len(spec.shape):
        array = np.full(sizes, array)
    if _find_problem(spec, array, {}) is not None:
        raise InputError(
            f"The constant {spec.name!r} has the shape {shape}; the model takes {spec}."
        )
    return array


def _cast_exactly(value: object, dtype: str) -> Array | None:
    """The value as an array of a dtype; None if it is not an array, or the cast would change it."""
    try:
        array = np.asarray(value)  # ValueError: lists of several lengths
        if array.dtype.kind not in "biufO":  # O: integers that are too large for NumPy
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            cast = array.astype(dtype)
        is_same = np.array_equal(cast, array, equal_nan=array.dtype.kind == "f")
    except (TypeError, ValueError, OverflowError):
        return None

    # True equals 1, but is not a number.
    is_bool_as_number = array.dtype.kind == "b" and dtype != "bool"
    if is_bool_as_number or not is_same:
        return None
    return cast


def named_input(contract: Contract, x: Any, call: str = "run({name: array})") -> dict[str, Any]:
    """The model's only input by its name.

    Raises:
        InputError: the model has several inputs; `call` shows how they are passed.
    """
    if len(contract.inputs) != 1:
        names = ", ".join(map(str, contract.inputs))
        raise InputError(
            f"The model takes {len(contract.inputs)} inputs ({names}); pass them by name: {call}."
        )
    return {contract.inputs[0].name: x}


def single(arrays: dict[str, Array]) -> Any:
    """A single array as it is, several as a dict by name. The caller knows which it is."""
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _check_names(
    contract: Contract,
    specs: Iterable[ArraySpec],
    names: Iterable[str],
    kind: str,
    error: type[InputError],
) -> None:
    """Checks that there is a value for each input or state, and no other value."""
    expected, actual = {*names_of(specs)}, set(names)
    arrays = ", ".join(map(str, specs)) or f"no {kind} at all"
    for name in sorted(actual - expected, key=repr):
        hint = _advice_on_state(contract, name) or did_you_mean(name, expected)
        raise error(f"There is no {kind} {name!r}; the model takes {arrays}.{hint}")
    for name in sorted(expected - actual):
        raise error(f"The {kind} {name!r} is missing; the model takes {arrays}.")


def _advice_on_state(contract: Contract, name: str) -> str:
    """What to do about a state among the inputs: the file has it there, a call has it apart."""
    if name not in names_of(contract.state_inputs):
        return ""
    return f" {name!r} is a state: pass it apart from the inputs, as the state of the call."


def _check_array(
    spec: ArraySpec, value: object, sizes: dict[str, int], error: type[InputError]
) -> None:
    if not isinstance(value, np.ndarray):
        raise error(
            f"{spec.name!r} is {kind_of(value)}; a NumPy array {describe(spec.dtype, spec.shape)} "
            f"was expected.{conversion(value)}"
        )
    if is_special(value):
        raise error(f"{spec.name!r} is {kind_of(value)}; {ADVICE}")
    problem = _find_problem(spec, value, sizes)
    if problem is not None:
        raise error(problem)


def _dimensions(count: int) -> str:
    return "1 dimension" if count == 1 else f"{count} dimensions"


def _find_problem(spec: ArraySpec, value: Array, sizes: dict[str, int]) -> str | None:
    """The message for an array of a wrong dtype or shape; None if it fits.

    Sizes of dynamic axes are checked against `sizes`, and added to it.
    """
    if value.dtype != spec.dtype:
        advice = f"Convert it: {spec.name}.astype({spec.dtype!r})."
        return f"{_actual(spec, value)}; {_expected(spec)}. {advice}"

    rank = len(spec.shape)
    if value.ndim != rank:
        return (
            f"{_actual(spec, value)}, {_dimensions(value.ndim)}; {_expected(spec)}, "
            f"{_dimensions(rank)}."
        )

    for position, (axis, size) in enumerate(zip(spec.shape, value.shape, strict=True)):
        if isinstance(axis, int):
            if size != axis:
                return (
                    f"{_actual(spec, value)}; {_expected(spec)}: dimension {position} must be "
                    f"{axis}, not {size}."
                )
        elif size == 0:
            return f"{_actual(spec, value)}: axis {axis!r} is empty; it must be at least 1."
        elif sizes.setdefault(axis, size) != size:
            return (
                f"{_actual(spec, value)}, so axis {axis!r} is {size}, but it is {sizes[axis]} in "
                f"the other inputs of this call; {_expected(spec)}."
            )
    return None


def _actual(spec: ArraySpec, value: Array) -> str:
    return f"{spec.name!r} is {describe(value.dtype, value.shape)}"


def _expected(spec: ArraySpec) -> str:
    return f"the model takes {describe(spec.dtype, spec.shape)}"


def _check_lengths(spec: ArraySpec, lengths: Array, longest: int) -> None:
    """Checks the lengths of rows. Engines do not: with a wrong one they read beyond the data."""
    wrong = lengths[(lengths < 1) | (lengths > longest)]
    if wrong.size:
        raise InputError(
            f"{spec.name!r} holds the length {wrong[0]}; each row of this call must be 1 to "
            f"{longest} long, the size of its axis {spec.lengths_of!r}. Leave out empty rows."
        )

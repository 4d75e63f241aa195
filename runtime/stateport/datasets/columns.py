# SPDX-License-Identifier: Apache-2.0
"""Columns of Arrow's tables as arrays, one for each row, and arrays as columns.

A row of a column holds an array without the batch axis, as lists within lists:
`list<fixed_size_list<float>[5]>` for `float32[time, 5]`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..contract import ArraySpec, Axis, Contract, by_name, names_of
from ..errors import InputError
from ..picking import among, present, without
from ..suggestions import did_you_mean
from .rows import Answer, Row, length_inputs

Array = NDArray[Any]


def check_columns(schema: Any, columns: Mapping[str, str], contract: Contract) -> None:
    """Compares the columns that are to be read with the model's inputs and states.

    Args:
        schema: the `pyarrow.Schema` of the data.
        columns: by input, the name of its column; and by state's input, where there is one with the
            state that each sequence starts from.
        contract: the model's contract.

    Raises:
        InputError: a column is missing, is there twice, or holds something else than the input's
            dtype and axes, or an input has no column.
    """
    known = by_name((*contract.inputs, *contract.state_inputs))
    for name, column in columns.items():
        if name not in known:
            raise InputError(
                f"There is no input {name!r}; the model takes {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
        if column not in schema.names:
            raise InputError(
                f"There is no column {column!r} for the input {name!r}; there are "
                f"{', '.join(schema.names)}. Pass --column {name}=COLUMN."
                f"{did_you_mean(column, schema.names)}"
            )
        if schema.names.count(column) > 1:
            raise InputError(
                f"There are {schema.names.count(column)} columns {column!r}; one for the input "
                f"{name!r} was expected. Give the others another name."
            )
        _check_type(schema.field(column), known[name])

    states = without(names_of(contract.state_inputs), columns)
    if len(states) < len(contract.states):
        for name in states:
            raise InputError(
                f"The state {name!r} has no column, and others have one. Pass a column for each "
                f"state, --column {name}=COLUMN, or for none."
            )
    optional = {*names_of(length_inputs(contract)), *states}
    for name in known.keys() - columns.keys() - optional:
        raise InputError(f"The input {name!r} has no column. Pass --column {name}=COLUMN.")


def default_columns(schema: Any, contract: Contract) -> dict[str, str]:
    """The columns that have the names of inputs."""
    names = names_of(contract.inputs)
    found = among(names, schema.names) or names[:1]
    return dict(zip(found, found, strict=True))


def rows_of(
    batch: Any, columns: Mapping[str, str], states: Collection[str] = ()
) -> list[Row | Answer]:
    """The arrays of each row of a `pyarrow.RecordBatch` or table; an `Answer` for a broken row.

    Args:
        batch: the rows.
        columns: by input and by state's input, the name of its column.
        states: the names of the states' inputs. Null in their columns is the model's first state.
    """
    names = [*columns]
    arrays = [batch.column(columns[name]) for name in names]
    rows: list[Row | Answer] = []
    for index in range(batch.num_rows):
        try:
            rows.append(
                {
                    name: _array(column[index])
                    for name, column in zip(names, arrays, strict=True)
                    if name not in states or column[index].is_valid
                }
            )
        except InputError as error:
            rows.append(Answer(error=str(error)))
    return rows


def answer_columns(
    contract: Contract, answers: Sequence[Answer], *, states: bool = False
) -> dict[str, Any]:
    """The columns with the answers of rows, by the names of outputs; null where a row has none.

    Args:
        contract: the model's contract.
        answers: what became of each row.
        states: whether there are columns with the state after each sequence, too.
    """
    columns = {
        spec.name: column_of(spec, [answer.outputs.get(spec.name) for answer in answers])
        for spec in contract.outputs
    }
    if states:
        for state, spec in zip(contract.states, contract.state_outputs, strict=True):
            arrays = [answer.state.get(state.input) for answer in answers]
            columns[spec.name] = column_of(spec, arrays)
    return columns


def column_of(spec: ArraySpec, arrays: Sequence[Array | None]) -> Any:
    """A column with an output of each row; None becomes null.

    Returns:
        The `pyarrow.Array`, whose type depends on the contract alone.
    """
    given = present(arrays)
    missing = np.array([array is None for array in arrays], bool)
    dtype = np.dtype(spec.dtype)
    flat = np.concatenate([np.empty(0, dtype), *map(np.ravel, given)])
    values = pa.array(flat, pa.from_numpy_dtype(dtype))

    shape = without(spec.shape, ["batch"])
    if not shape:
        # A row without an array takes null, whatever its index.
        return values.take(pa.array(np.cumsum(~missing) - 1, mask=missing))

    values = _in_lists(values, shape, given)
    lengths = np.zeros(len(arrays), np.int64)
    lengths[~missing] = [*map(len, given)]
    ends = pa.array(np.cumsum([0, *lengths]))
    return pa.LargeListArray.from_arrays(ends, values, mask=pa.array(missing))


def _in_lists(values: Any, shape: Sequence[Axis], arrays: Sequence[Array]) -> Any:
    """The values of the arrays as lists, one level for each axis of the shape but the first."""
    for place in range(len(shape) - 1, 0, -1):
        axis = shape[place]
        if isinstance(axis, int):
            values = pa.FixedSizeListArray.from_arrays(values, axis)
            continue

        sizes: list[int] = []
        for array in arrays:
            sizes += [array.shape[place]] * int(np.prod(array.shape[:place]))
        values = pa.LargeListArray.from_arrays(np.cumsum([0, *sizes]), values)
    return values


def _check_type(field: Any, spec: ArraySpec) -> None:
    """Refuses a column of another dtype, for nothing is cast silently, or of another shape."""
    inner, sizes = field.type, []
    while _is_list(inner):
        sizes.append(getattr(inner, "list_size", None))
        inner = inner.value_type
    if inner != pa.from_numpy_dtype(np.dtype(spec.dtype)):
        raise InputError(
            f"The column {field.name!r} is {field.type}; the input {spec} takes {spec.dtype}. "
            f"Write the column with {spec.dtype}, for nothing is cast silently."
        )

    shape = without(spec.shape, ["batch"])
    if len(sizes) != len(shape) or not all(map(_fits, sizes, shape)):
        axes = ", ".join(map(str, shape))
        raise InputError(
            f"The column {field.name!r} is {field.type}; for the input {spec} a list within a list "
            f"was expected for each of the axes [{axes}], of that size where it is a number."
        )


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _array(scalar: Any) -> Array:
    """One row of a column as an array.

    Raises:
        InputError: it is null or holds a null, or its lists have several lengths.
    """
    if not scalar.is_valid:
        raise InputError("The row is null; a sequence was expected.")
    if not _is_list(scalar.type):
        number: Array = pa.array([scalar.as_py()], scalar.type).to_numpy(zero_copy_only=False)
        return number.reshape(())

    values = scalar.values
    shape = [len(values)]
    while _is_list(values.type):
        _check_no_nulls(values)
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1:
            raise InputError(
                f"The row has lists of {lengths[0]} and of {lengths[1]} values beside one another; "
                "lists of one length were expected."
            )
        size = lengths[0] if lengths else getattr(values.type, "list_size", 0)
        shape.append(size)
        values = values.flatten()

    _check_no_nulls(values)
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def _fits(size: int | None, axis: Axis) -> bool:
    """Whether lists of a fixed size, or of any, can be an axis."""
    return size is None or not isinstance(axis, int) or size == axis


def _check_no_nulls(values: Any) -> None:
    if values.null_count:
        raise InputError("The row holds a null; numbers were expected.")

# SPDX-License-Identifier: Apache-2.0
"""`stateport run`: run a model on arrays, in one call or chunk by chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ..contract import ArraySpec, Contract, describe, names_in
from ..errors import InputError
from ..files.reading import read_npy
from ..files.writing import check_place, write_npz, written_each
from ..model import Model, load
from ..state import State
from .common import (
    CONSTANTS,
    ENGINE,
    FILE,
    MODEL,
    PLAN,
    STATES,
    check_plan,
    named_constants,
    named_path,
    named_states,
)
from .output import say

Array = NDArray[Any]


@click.command(short_help="Run a model on arrays, in one call or in chunks.")
@MODEL
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE.npy",
    help="Read an input from a file. Repeatable.",
)
@click.option(
    "-o", "--output", type=FILE, metavar="OUT.npz", help="Write the outputs to this file."
)
@click.option("--engine", type=ENGINE, help="The engine to run on; ort-cpu by default.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many threads the engine may use; default 1.",
)
@PLAN
@STATES
@CONSTANTS
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    metavar="N",
    help="Feed the inputs as a stream, N steps per call.",
)
@click.option(
    "--state-in",
    type=FILE,
    metavar="FILE",
    help="Start from the state in this file, written by --state-out.",
)
@click.option(
    "--state-out",
    type=FILE,
    metavar="FILE",
    help="Write the state after the last step to this file.",
)
def run(
    model: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    engine: str | None,
    threads: int | None,
    plan: Path | None,
    states: tuple[str, ...],
    constants: tuple[str, ...],
    chunk: int | None,
    state_in: Path | None,
    state_out: Path | None,
) -> None:
    """Run MODEL.onnx on arrays from .npy files.

    Prints the dtype and shape of each output. --output writes the outputs to an .npz file.
    """
    check_plan(plan, engine, threads)
    _check_outputs(output, state_out)
    input_paths = _parse_inputs(inputs)

    loaded = load(
        model,
        engine=engine,
        threads=threads,
        states=named_states(states),
        constants=named_constants(constants),
        plan=plan,
    )
    for path in (output, state_out):
        if path is not None:
            check_place(path)

    _check_given(loaded.contract, input_paths)
    arrays = {name: read_npy(path) for name, path in input_paths.items()}
    state = None if state_in is None else State.load(state_in)
    if chunk is None:
        outputs, state = loaded.run(arrays, state)
    else:
        outputs, state = _run_in_chunks(loaded, arrays, state, chunk)

    _write_results(outputs, output, state, state_out)
    say(*(f"{name}: {describe(array.dtype, array.shape)}" for name, array in outputs.items()))


def _check_outputs(output: Path | None, state_out: Path | None) -> None:
    """Refuses an output file of another format, or with the name of the state's file."""
    if output is None:
        return

    if output.suffix != ".npz":
        raise click.BadParameter(
            f"{str(output)!r} does not end in .npz; outputs are written as an .npz file. Name it "
            "FILE.npz.",
            param_hint="--output",
        )
    if output == state_out:
        raise click.UsageError(
            f"--output and --state-out both name {str(output)!r}. Give them two names."
        )


def _parse_inputs(texts: Sequence[str]) -> dict[str, Path]:
    """The file of each input, from texts of the form NAME=FILE.npy."""
    pairs = [named_path(text, "--input") for text in texts]

    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise click.BadParameter(
                f"The input {name!r} is given twice. Pass each input once.", param_hint="--input"
            )
    return dict(pairs)


def _check_given(contract: Contract, paths: Mapping[str, Path]) -> None:
    """Refuses to run without any input, and says how inputs are given.

    Raises:
        InputError: no input is given, and the model takes some.
    """
    if contract.inputs and not paths:
        inputs = ", ".join(map(str, contract.inputs))
        example = " ".join(f"-i {spec.name}=FILE.npy" for spec in contract.inputs)
        first = contract.inputs[0].name
        raise InputError(
            f"The input {first!r} is missing; the model takes {inputs}. Add {example}."
        )


def _run_in_chunks(
    model: Model, arrays: Mapping[str, Array], state: State | None, chunk: int
) -> tuple[dict[str, Array], State]:
    """Feeds the arrays to a stream, `chunk` steps at a time.

    Outputs with a time axis are joined along it. Of other outputs, the last one is returned.
    """
    for spec in model.contract.outputs:
        _check_joinable(spec)

    stream = model.stream()
    if state is not None:
        stream.restore(state)
    pieces = [stream.run(inputs) for inputs in _split_chunks(model.contract, arrays, chunk)]

    outputs = {}
    for spec in model.contract.outputs:
        name = spec.name
        if spec.time_axis is None:
            outputs[name] = pieces[-1][name]
        else:
            outputs[name] = np.concatenate([piece[name] for piece in pieces], spec.time_axis)
    return outputs, stream.state


def _check_joinable(spec: ArraySpec) -> None:
    """Refuses an output that is not the concatenation of its chunks, such as one of "batch*time".

    Raises:
        InputError: with the output, and what to do instead.
    """
    if spec.time_axis is None:
        return

    axis = spec.shape[spec.time_axis]
    if names_in(axis) != {"time"}:
        raise InputError(
            f"The output {spec} cannot be put together from chunks: its axis {axis!r} does not "
            "depend on time alone. Leave out --chunk, and carry the state with --state-out "
            "and --state-in."
        )


def _split_chunks(
    contract: Contract, arrays: Mapping[str, Array], chunk: int
) -> Iterator[dict[str, Array]]:
    """The inputs of each call: arrays with a time axis in slices, the others whole."""
    time_axes = _time_axes(contract, arrays)
    lengths = [arrays[name].shape[axis] for name, axis in time_axes.items()]
    length = max(lengths, default=1)
    _check_multiple(contract, chunk, length)

    # There is at least one call, in which the model refuses empty arrays.
    for start in range(0, max(length, 1), chunk):
        inputs = dict(arrays)
        for name, axis in time_axes.items():
            steps = (slice(None),) * axis + (slice(start, start + chunk),)
            inputs[name] = arrays[name][steps]
        yield inputs


def _check_multiple(contract: Contract, chunk: int, length: int) -> None:
    """Refuses chunks, or a last chunk, that the network does not take.

    Raises:
        InputError: with the multiple, and what to do.
    """
    multiple = contract.streaming.chunk_multiple
    if chunk % multiple:
        raise InputError(
            f"--chunk is {chunk}; the network takes multiples of {multiple} steps. Pass "
            f"--chunk {-(-chunk // multiple) * multiple}."
        )
    if length % multiple:
        raise InputError(
            f"The input has {length} steps; in chunks, the network takes multiples of {multiple}. "
            f"Cut off the last {length % multiple} steps, or leave out --chunk."
        )


def _time_axes(contract: Contract, arrays: Mapping[str, Array]) -> dict[str, int]:
    """The time axis of each array that has one, by the input's name.

    Arrays of too few dimensions are left out: the model refuses them.

    Raises:
        InputError: no input of the model has a time axis.
    """
    axes = {spec.name: spec.shape.index("time") for spec in contract.inputs if "time" in spec.shape}
    if not axes:
        raise InputError("The model has no time axis, so --chunk has no effect. Leave it out.")

    return {
        name: axis for name, axis in axes.items() if name in arrays and arrays[name].ndim > axis
    }


def _write_results(
    outputs: Mapping[str, Array], output: Path | None, state: State, state_out: Path | None
) -> None:
    """Writes the requested files: all of them, or none if one fails."""
    writers: dict[Path, Callable[[Path], None]] = {}
    if output is not None:
        writers[output] = lambda part: write_npz(part, outputs)
    if state_out is not None:
        writers[state_out] = state.save

    with written_each(*writers) as parts:
        for part, write in zip(parts, writers.values(), strict=True):
            write(part)

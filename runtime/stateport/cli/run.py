# SPDX-License-Identifier: Apache-2.0
"""`stateport run`: run a model on arrays, in one call or chunk by chunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from numpy.typing import NDArray

from ..contract import Contract, describe
from ..errors import InputError, StateError
from ..files.reading import read_npy
from ..files.writing import check_place, write_npz, written_each
from ..in_chunks import run_in_chunks
from ..model import Model, load
from ..picking import map_values
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
from .run_data import Wanted, checked_output, only_data_set, run_data

Array = NDArray[Any]


@click.command(short_help="Run a model on arrays or on a data set, in one call or in chunks.")
@MODEL
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE.npy",
    help="Read an input from a file. Repeatable. Or a data set: a Parquet file, a folder of them, "
    "or a quoted pattern such as 'data/*.parquet'.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="OUT.npz",
    help="Write the outputs to this file; OUT.parquet for a data set.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="[INPUT=]COLUMN",
    help="The column of a data set that holds an input; by default that of the input's name. "
    "Repeatable.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many sequences of a data set run together at most; 32 by default.",
)
@click.option(
    "--keep-states",
    is_flag=True,
    help="Write the state after each sequence of a data set too, in columns named after the "
    "states' outputs.",
)
@click.option(
    "--ray",
    "ray_address",
    metavar="ADDRESS",
    help="Run a data set on the Ray cluster at this address: HOST:PORT, auto, or local to start "
    "one here.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many workers run on the Ray cluster; by default one on each core.",
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
    columns: tuple[str, ...],
    batch: int | None,
    keep_states: bool,
    ray_address: str | None,
    workers: int | None,
    engine: str | None,
    threads: int | None,
    plan: Path | None,
    states: tuple[str, ...],
    constants: tuple[str, ...],
    chunk: int | None,
    state_in: Path | None,
    state_out: Path | None,
) -> None:
    """Run MODEL.onnx on arrays from .npy files, or on a data set of sequences in Parquet files.

    Prints the dtype and shape of each output. --output writes the outputs to an .npz file.

    A data set has a sequence in each row, as lists within lists: list<fixed_size_list<float>[5]>
    for float32[time, 5]. Sequences of one length run together, each from the model's first state;
    --chunk cuts longer ones. The answers are written in the order of the rows. Rows that fail are
    in OUT.failed.parquet, each with its message, and the exit code is then 1. A run that was
    stopped continues when the same command runs again. A column may hold the state that each
    sequence starts from, --column h0=COLUMN for the state's input h0. With --ray, the sequences run
    on a cluster; the data and the output are on this machine.
    """
    check_plan(plan, engine, threads)
    arguments: dict[str, Any] = {
        "path": model,
        "engine": engine,
        "threads": threads,
        "states": named_states(states),
        "constants": named_constants(constants),
        "plan": plan,
    }
    data = only_data_set(inputs, output)
    if data is not None:
        output = checked_output(output, {"--state-in": state_in, "--state-out": state_out})
        wanted = Wanted(
            data, output, columns, chunk, batch or 32, keep_states, ray_address, workers
        )
        run_data(arguments, wanted)
        return

    if columns or keep_states or (batch, ray_address, workers) != (None, None, None):
        raise click.UsageError(
            "--column, --batch, --keep-states, --ray and --workers are for a data set. Pass "
            "-i FILE.parquet, or leave them out."
        )
    _check_outputs(output, state_out)
    input_paths = _parse_inputs(inputs)
    loaded = load(**arguments)
    for path in (output, state_out):
        if path is not None:
            check_place(path)

    outputs, state = _run_arrays(loaded, input_paths, state_in, chunk)
    _write_results(outputs, output, state, state_out)
    say(*(f"{name}: {describe(array.dtype, array.shape)}" for name, array in outputs.items()))


def _run_arrays(
    model: Model, paths: Mapping[str, Path], state_in: Path | None, chunk: int | None
) -> tuple[Mapping[str, Any], State]:
    """The outputs for arrays from files, by name, and the state after the last step.

    Raises:
        StateError: the state in the file `state_in` does not fit the model.
    """
    state = None if state_in is None else State.load(state_in)
    _check_given(model.contract, paths)
    arrays = map_values(read_npy, paths)
    try:
        if chunk is None:
            return model.run(arrays, state)
        return run_in_chunks(model, arrays, state, chunk)
    except StateError as error:
        if state_in is None:
            raise
        raise StateError(f"{state_in}: {error}") from error


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

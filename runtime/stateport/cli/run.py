"""`stateport run`: feed arrays to a model, whole or chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ..contract import Contract, describe, names_in
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
    named_constants,
    named_path,
    named_states,
)
from .output import say

Array = NDArray[Any]


@click.command(short_help="Run a model on arrays, whole or in chunks.")
@MODEL
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="NAME=FILE.npy", help="An input; repeat."
)
@click.option("-o", "--output", type=FILE, help="Write outputs: OUT.npz.")
@click.option("--engine", type=ENGINE, help="The engine; default ort-cpu.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the engine; default 1.")
@PLAN
@STATES
@CONSTANTS
@click.option("--chunk", type=click.IntRange(min=1), help="Feed N steps at a time, as a stream.")
@click.option("--state-in", type=FILE, help="Go on from a saved state.")
@click.option("--state-out", type=FILE, help="Save the state at the end.")
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
    """Run MODEL.onnx on arrays from .npy files and write its outputs to a .npz file."""
    if plan is not None and (engine is not None or threads is not None):
        raise click.UsageError("--plan says the engine and the threads; give these or the plan.")
    if output is not None and output.suffix != ".npz":
        raise click.BadParameter("Outputs are written as FILE.npz.", param_hint="--output")
    if output is not None and output == state_out:
        raise click.UsageError("--output and --state-out name the same file.")
    named = [named_path(text, "--input") for text in inputs]
    for name, count in ((n, [m for m, _ in named].count(n)) for n, _ in named):
        if count > 1:
            raise click.BadParameter(f"The input {name!r} is given twice.", param_hint="--input")
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
    arrays = {name: read_npy(path) for name, path in named}
    state = State.load(state_in) if state_in is not None else None
    if chunk is None:
        outputs, state = loaded.run(arrays, state)
    else:
        outputs, state = _in_chunks(loaded, arrays, state, chunk)
    writers: dict[Path, Callable[[Path], None]] = {}
    if output is not None:
        writers[output] = lambda part: write_npz(part, outputs)
    if state_out is not None:
        writers[state_out] = state.save
    with written_each(*writers) as parts:
        for part, write in zip(parts, writers.values(), strict=True):
            write(part)
    say(*(f"{name}: {describe(array.dtype, array.shape)}" for name, array in outputs.items()))


def _in_chunks(
    model: Model, arrays: Mapping[str, Array], state: State | None, chunk: int
) -> tuple[dict[str, Array], State]:
    """Feeds a stream; outputs with a time axis are joined along it, of others the last counts."""
    for spec in model.contract.outputs:
        if spec.time_axis is not None and names_in(spec.shape[spec.time_axis]) != {"time"}:
            raise InputError(
                f"The output {spec} cannot be put together from chunks: its axis is not time "
                "itself. Leave --chunk out, and carry the state with --state-out and --state-in."
            )
    stream = model.stream()
    if state is not None:
        stream.restore(state)
    pieces = [stream.run(piece) for piece in _cut(model.contract, arrays, chunk)]
    joined = {
        spec.name: np.concatenate([p[spec.name] for p in pieces], spec.time_axis)
        if spec.time_axis is not None
        else pieces[-1][spec.name]
        for spec in model.contract.outputs
    }
    return joined, stream.state


def _cut(contract: Contract, arrays: Mapping[str, Array], chunk: int) -> Iterator[dict[str, Array]]:
    axes = {s.name: s.shape.index("time") for s in contract.inputs if "time" in s.shape}
    if not axes:
        raise InputError("The model has no time axis, so --chunk says nothing. Leave it out.")
    lengths = {
        arrays[name].shape[axis]
        for name, axis in axes.items()
        if name in arrays and arrays[name].ndim > axis
    }
    length = max(lengths, default=1)  # arrays that do not fit are refused by the model itself
    for start in range(0, max(length, 1), chunk):
        steps = slice(start, start + chunk)
        yield {
            name: array[(slice(None),) * axes[name] + (steps,)]
            if name in axes and array.ndim > axes[name]
            else array
            for name, array in arrays.items()
        }

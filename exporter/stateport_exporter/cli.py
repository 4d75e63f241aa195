"""The exporter's commands, mounted into `stateport` by entry point. PyTorch is imported on use."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stateport.cli.common import (
    CONSTANTS,
    FILE,
    STATES,
    literal,
    named_constants,
    named_state,
    named_states,
)
from stateport.cli.output import progress, say, show
from stateport.contract import Contract

if TYPE_CHECKING:
    from .network.example import ExampleLike


@click.command()
@click.argument("target", metavar="TARGET")
@click.option("-o", "--output", type=FILE, required=True, help="Write MODEL.onnx.")
@click.option(
    "--weights",
    type=FILE,
    help="Weights: .safetensors, or .pt/.pth of plain tensors.",
)
@click.option("--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Passed to TARGET.")
@click.option(
    "--example",
    "examples",
    multiple=True,
    metavar="NAME=SPEC",
    help="An argument of forward, as float32[batch,time,5] or x.npy[batch,time,5]; "
    "or, alone, file.py:function.",
)
@click.option("--method", default="forward", show_default=True, help="The method to export.")
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="IN=OUT",
    help="An argument that is a state, and the result that gives its next value: its key, its "
    "variable in the return statement, or its number from 1. May be repeated.",
)
@click.option(
    "--no-state",
    "no_states",
    multiple=True,
    metavar="NAME",
    help="An argument that is no state. May be repeated.",
)
@click.option("--no-check", is_flag=True, help="Write the file even if it fails verification.")
@click.option("--no-lift", is_flag=True, help="Leave states that forward hides where they are.")
@click.option("--opset", type=click.IntRange(min=18), default=20, show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16 is for GPUs.",
)
@click.option(
    "--float32",
    multiple=True,
    type=click.Choice(["inputs", "outputs", "states"]),
    help="With --dtype fp16: these stay float32. May be repeated.",
)
def export(
    target: str,
    output: Path,
    weights: Path | None,
    arguments: tuple[str, ...],
    examples: tuple[str, ...],
    method: str,
    states: tuple[str, ...],
    no_states: tuple[str, ...],
    no_check: bool,
    no_lift: bool,
    opset: int,
    dtype: str,
    float32: tuple[str, ...],
) -> None:
    """Export TARGET, a PyTorch network, to ONNX with explicit state inputs and outputs.

    TARGET is package.module:attribute or path/to/file.py:attribute: an nn.Module, or a callable
    that returns one. Its code is run. PyTorch's own answers are written beside the model, for
    `stateport verify`; where ONNX Runtime is installed, the file is verified before it appears.
    """
    if float32 and dtype == "fp32":
        raise click.UsageError("--float32 says what stays float32 with --dtype fp16.")
    values = dict(parse_argument(text) for text in arguments)
    declared = parse_states(states, no_states)
    with progress("Importing PyTorch") as doing:
        from torch.jit import ScriptModule

        from stateport.parity.reports.text import summary

        from .export_module import export as run_export
        from .network.loading import find_target, make_network

        doing(f"Loading {target}")
        found = find_target(target)
        module = make_network(target, found, values)
        is_script = isinstance(module, ScriptModule)
        example = find_example(module, examples)
        doing(f"Exporting {target}")
        result = run_export(
            module,
            example,
            output,
            opset=opset,
            weights=weights,
            method=method,
            states=declared,
            lift=not no_lift,
            check=not no_check,
            dtype={"fp32": "float32", "fp16": "float16"}[dtype],
            float32=float32,
            origin={"target": target, "arguments": _noted(values)},
        )
    _say_contract(result.contract, result.lifted)
    for pair in result.possible_states:
        taking = f"; --state {pair.argument}={pair.result} takes them"
        silencing = f", --no-state {pair.argument} silences this"
        say(f"note: {pair}" + ("." if is_script else f"{taking}{silencing}."))
    if weights is None and module is not found and next(module.parameters(), None) is not None:
        say(f"The weights are those that {target} was constructed with; --weights loads others.")
    say(f"Wrote {result.path} and {result.vectors.name}.")
    if result.report is None:
        say(f"It has not been verified yet: stateport verify {result.path}")
    else:
        say(*summary(result.report))


def _say_contract(contract: Contract, lifted: Collection[str]) -> None:
    for kind, specs in (("input", contract.inputs), ("output", contract.outputs)):
        for spec in specs:
            say(f"{kind:7} {spec}")
    for state in contract.states:
        how = f", lifted, starts from {state.initial}" if state.input in lifted else ""
        say(f"{'state':7} {state}{how}")
    streaming = contract.streaming
    if not streaming.ok:
        say(f"It cannot stream: {streaming.because}.")
    elif streaming.multiple > 1:
        say(f"It streams in chunks of multiples of {streaming.multiple} steps.")


def parse_argument(text: str) -> tuple[str, object]:
    """NAME=VALUE, where the value is a Python literal or a plain word."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE.", param_hint="--arg")
    try:
        return name, literal(value, "--arg")
    except (ValueError, SyntaxError):
        return name, value  # a plain word


def parse_states(states: Collection[str], no_states: Collection[str]) -> dict[str, str | None]:
    """IN=OUT for each state, and None for each argument that is none."""
    declared: dict[str, str | None] = {}
    for name, result in [*(named_state(text) for text in states), *((n, None) for n in no_states)]:
        if name in declared:
            raise click.UsageError(f"--state and --no-state name {name!r} twice.")
        declared[name] = result
    return declared


def _noted(values: dict[str, object]) -> dict[str, object]:
    """Values as JSON holds them; of sets, complex numbers and the like, what Python writes."""
    noted = dict(values)
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            noted[name] = repr(value)
    return noted


def find_example(module: Any, examples: tuple[str, ...]) -> ExampleLike:
    """The example that the options name, or the module's own."""
    from .errors import ExportError
    from .network.loading import load_attribute

    if len(examples) == 1 and "=" not in examples[0]:
        function: Callable[[int, int], Any] = load_attribute(examples[0])
        if not callable(function):
            raise ExportError(f"{examples[0]} is not a function of (batch, time).")
        return function
    if examples:
        return dict(_named_spec(text) for text in examples)
    own = getattr(module, "example_inputs", None)
    if callable(own):
        result: Callable[[int, int], Any] = own
        return result
    raise ExportError(
        f"What {type(module).__qualname__}.forward takes is not known. Say it with "
        "--example x=float32[batch,time,5] for each argument, or give the network a method "
        "example_inputs(batch, time)."
    )


def _named_spec(text: str) -> tuple[str, object]:
    from .network.example import Spec

    name, separator, spec = text.partition("=")
    if not separator or not name.isidentifier() or not spec:
        raise click.BadParameter(f"{text!r} is not of the form NAME=SPEC.", param_hint="--example")
    return name, Spec.parse(spec)


@click.command()
@click.argument("model", type=FILE, metavar="MODEL.onnx")
@click.option("-o", "--output", type=FILE, required=True, help="Write OUT.onnx.")
@click.option("--bits", type=click.Choice(["8", "4"]), default="8", show_default=True)
@click.option("--no-check", is_flag=True, help="Write the file even if it fails verification.")
def quantize(model: Path, output: Path, bits: str, no_check: bool) -> None:
    """Make the weights of MODEL.onnx 8 or 4 bits wide, for ONNX Runtime on the CPU.

    LSTM, GRU, RNN, loops and linear layers are quantised; what was not is listed with the reason.
    The contract stays the same. The file is verified with a signal-to-noise budget, over chains of
    thousands of steps, before it appears.
    """
    from rich.table import Table

    from stateport.parity.reports.text import summary

    from .quantize_file import quantize as run_quantize

    with progress(f"Quantising {model}"):
        result = run_quantize(model, output, bits=int(bits), check=not no_check)
    grid = Table(box=None, pad_edge=False)
    for heading in ("operator", "weights", "now"):
        grid.add_column(heading, overflow="fold")
    for one in result.outcomes:
        grid.add_row(one.operator, one.name, one.form or f"as it was: {one.because}")
    show(grid)
    before, after = model.stat().st_size, output.stat().st_size
    say(f"{output}: {after:,} bytes, {after / before:.0%} of {before:,}")
    if result.report is not None:
        say(*summary(result.report))
    say(*result.remarks)


@click.command()
@click.argument("source", type=FILE, metavar="IN.onnx")
@click.option("-o", "--output", type=FILE, required=True, help="Write OUT.onnx.")
@STATES
@CONSTANTS
def lift(source: Path, output: Path, states: tuple[str, ...], constants: tuple[str, ...]) -> None:
    """Make the hidden states of IN.onnx explicit inputs and outputs.

    LSTM, GRU and RNN operators whose first state is absent, zero or constant get it from an input,
    and give the last one to an output. The new file gets a contract and is held against the old
    one, whole and in chunks. What was lifted is listed, and what was left, with the reason.
    """
    from rich.table import Table

    from stateport.parity.reports.text import summary

    from .lift_file import lift as run_lift

    with progress(f"Lifting {source}"):
        result = run_lift(
            source, output, states=named_states(states), constants=named_constants(constants)
        )
    grid = Table(box=None, pad_edge=False)
    for heading in ("operator", "name", "what became of it"):
        grid.add_column(heading, overflow="fold")
    for one in result.outcomes:
        grid.add_row(
            one.operator, one.name, f"{one.what}: {one.because}" if one.because else one.what
        )
    show(grid)
    _say_contract(result.contract, result.lifted)
    for pair in result.possible_states:
        say(f"note: {pair}; --state {pair.argument}={pair.result} takes them.")
    say(f"Wrote {result.path} and {result.vectors.name}.")
    say(*summary(result.report))

"""`stateport export`: a PyTorch network to ONNX. PyTorch is imported on use."""

from __future__ import annotations

import json
from pathlib import Path

import click

from stateport.cli.common import FILE
from stateport.cli.output import progress, say

from ..dtypes import DTYPES, KINDS
from .options import find_example, parse_argument, parse_states
from .said import say_contract


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
    type=click.Choice([*DTYPES]),
    metavar="float32|float16",
    default="float32",
    show_default=True,
    help="The precision of weights and values. float16 is for GPUs.",
)
@click.option(
    "--keep-float32",
    multiple=True,
    type=click.Choice(KINDS),
    help="With --dtype float16: these stay float32. May be repeated.",
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
    keep_float32: tuple[str, ...],
) -> None:
    """Export TARGET, a PyTorch network, to ONNX with explicit state inputs and outputs.

    TARGET is package.module:attribute or path/to/file.py:attribute: an nn.Module, or a callable
    that returns one. Its code is run. PyTorch's own answers are written beside the model, for
    `stateport verify`; where ONNX Runtime is installed, the file is verified before it appears.
    """
    if keep_float32 and DTYPES[dtype] == "float32":
        raise click.UsageError("--keep-float32 applies only with --dtype float16.")
    values = dict(parse_argument(text) for text in arguments)
    declared = parse_states(states, no_states)
    with progress("Importing PyTorch") as doing:
        from torch.jit import ScriptModule

        from stateport.parity.reports.text import summary

        from ..export_module import export as run_export
        from ..network.loading import find_target, make_network

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
            dtype=dtype,
            keep_float32=keep_float32,
            origin={"target": target, "arguments": _noted(values)},
        )
    say_contract(result.contract, result.lifted)
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


def _noted(values: dict[str, object]) -> dict[str, object]:
    """Values as JSON holds them; of sets, complex numbers and the like, what Python writes."""
    noted = dict(values)
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            noted[name] = repr(value)
    return noted

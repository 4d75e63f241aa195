# SPDX-License-Identifier: Apache-2.0
"""`stateport export`: a PyTorch network to ONNX. PyTorch is imported on use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stateport.cli.common import FILE
from stateport.cli.output import progress, say

from ..dtypes import DTYPES, KINDS, OPERATORS
from .options import NO_CHECK, find_example, no_check_in_errors, parse_argument, parse_states
from .printing import say_contract

if TYPE_CHECKING:
    from ..export_module import ExportResult
    from ..states.possible import PossibleState


@click.command()
@click.argument("target", metavar="TARGET")
@click.option("-o", "--output", type=FILE, required=True, help="The file to write, MODEL.onnx.")
@click.option(
    "--weights",
    type=FILE,
    help="Load these weights into the network: .safetensors, what torch.save wrote (.pt, .pth, "
    ".bin, .ckpt, .pth.tar), or the index of several files, *.index.json. Nothing is unpickled "
    "but tensors, numbers, texts and argparse.Namespace.",
)
@click.option(
    "--weights-key",
    metavar="KEY",
    help="The entry of a checkpoint that holds the weights, such as ema. By default the entry that "
    "fits.",
)
@click.option(
    "--strip-prefix",
    metavar="PREFIX",
    help="Take this from the front of the names of the weights. Weights without it are left out.",
)
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Call TARGET with this argument. May be repeated.",
)
@click.option(
    "--example",
    "examples",
    multiple=True,
    metavar="NAME=SPEC",
    help="Describe an argument of forward: its dtype and axes, float32[batch,time,5], or a file "
    "with its values and axes, x.npy[batch,time,5]. Repeat it for each argument. Or name a "
    "function of (batch, time) that returns all arguments: file.py:function. By default, the "
    "network's method example_inputs is called.",
)
@click.option("--method", default="forward", show_default=True, help="The method to export.")
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="IN=OUT",
    help="The argument IN is a state, and the result OUT is its next value. A result is named by "
    "its key, by its variable in the return statement, or by its number, from 1. May be repeated.",
)
@click.option(
    "--no-state",
    "no_states",
    multiple=True,
    metavar="NAME",
    help="The argument NAME is not a state. May be repeated.",
)
@NO_CHECK
@click.option(
    "--no-lift",
    is_flag=True,
    help="Do not turn states that forward makes itself into inputs and outputs. Each call then "
    "starts from those states again.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=18),
    default=20,
    show_default=True,
    help="The version of ONNX's operators.",
)
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
    help="Keep these in float32, with --dtype float16. May be repeated.",
)
@click.option(
    "--operators",
    type=click.Choice(OPERATORS),
    default="onnx",
    show_default=True,
    help="native writes loops that compute linear attention as an operator of ONNX Runtime's own, "
    "which takes less time. Other engines cannot load such a file.",
)
@click.option(
    "--trace-time",
    type=click.IntRange(min=3),
    metavar="N",
    help="Trace the network at this number of time steps. By default it is the length of the "
    "example's file, or follows from the network's strides and kernels.",
)
@click.option(
    "--vectors-from",
    type=FILE,
    metavar="PATH",
    help="Record PyTorch's answers on these inputs too, besides random ones: an .npz, .npy or "
    ".safetensors file, or a folder of them, with arrays named like the inputs of the file. Long "
    "recordings are cut.",
)
def export(
    target: str,
    output: Path,
    weights: Path | None,
    weights_key: str | None,
    strip_prefix: str | None,
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
    operators: str,
    trace_time: int | None,
    vectors_from: Path | None,
) -> None:
    """Export TARGET, a PyTorch network, to ONNX with explicit state inputs and outputs.

    TARGET is package.module:attribute or path/to/file.py:attribute. The attribute is an nn.Module,
    or a callable that returns one. The command runs the code of that module or file.

    The command also records PyTorch's own answers and writes them beside the model, for
    `stateport verify`. If ONNX Runtime is installed, it verifies the new file against them first,
    and writes nothing if the file differs from PyTorch.
    """
    _check_options(dtype, keep_float32, weights, weights_key, strip_prefix)
    values = dict(map(parse_argument, arguments))
    declared = parse_states(states, no_states)

    with progress("importing PyTorch") as show_step:
        from torch.jit import ScriptModule

        from ..export_module import export as run_export
        from ..network.loading import find_target, make_network

        show_step(f"loading {target}")
        attribute = find_target(target)
        module = make_network(target, attribute, values)
        example = find_example(module, examples)

        with no_check_in_errors():
            result = run_export(
                module,
                example,
                output,
                opset=opset,
                weights=weights,
                weights_key=weights_key,
                strip_prefix=strip_prefix,
                method=method,
                states=declared,
                lift=not no_lift,
                check=not no_check,
                dtype=dtype,
                keep_float32=keep_float32,
                operators=operators,
                trace_time=trace_time,
                vectors_from=vectors_from,
                origin={"target": target, "arguments": _as_json_values(values)},
                progress=show_step,
            )

    _say_result(result, can_be_declared=not isinstance(module, ScriptModule))
    was_constructed = weights is None and module is not attribute
    if was_constructed and next(module.parameters(), None) is not None:
        say(f"The weights are those that {target} was constructed with; --weights loads others.")
    _say_written(result)


def _check_options(
    dtype: str,
    keep_float32: tuple[str, ...],
    weights: Path | None,
    weights_key: str | None,
    strip_prefix: str | None,
) -> None:
    """Refuses options that have no effect without another one."""
    if keep_float32 and DTYPES[dtype] == "float32":
        raise click.UsageError("--keep-float32 applies only with --dtype float16.")

    is_about_weights = weights_key is not None or strip_prefix is not None
    if weights is None and is_about_weights:
        raise click.UsageError("--weights-key and --strip-prefix apply only with --weights.")


def _say_result(result: ExportResult, *, can_be_declared: bool) -> None:
    """Prints what was done to weights and data, the contract, and what may be a state."""
    for note in result.notes:
        say(f"note: {note}.")
    say_contract(result.contract, result.lifted)
    for pair in result.possible_states:
        _say_possible_state(pair, can_be_declared=can_be_declared)


def _say_possible_state(pair: PossibleState, *, can_be_declared: bool) -> None:
    if not can_be_declared:
        say(f"note: {pair}.")
        return
    declare = f"--state {pair.argument}={pair.result} makes them a state"
    hide = f"--no-state {pair.argument} hides this note"
    say(f"note: {pair}; {declare}, {hide}.")


def _say_written(result: ExportResult) -> None:
    from stateport.parity.reports.text import summary

    say(f"Wrote {result.path} and {result.vectors.name}.")
    if result.report is None:
        say(f"The file has not been verified. To verify it: stateport verify {result.path}")
    else:
        say(*summary(result.report))


def _as_json_values(values: dict[str, object]) -> dict[str, object]:
    """Values that JSON can hold; of sets, complex numbers and the like, what Python prints."""
    noted = dict(values)
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            noted[name] = repr(value)
    return noted

# SPDX-License-Identifier: Apache-2.0
"""TorchScript: exported by PyTorch's older exporter, and lifted in the graph.

What `torch.jit.script` or `torch.jit.trace` made has no Python code, so its states cannot be lifted
in the module. The older exporter writes its graph, and `foreign.states` lifts them there. The file
is compared with the module itself.
"""

from __future__ import annotations

import inspect
import io
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stateport.errors import in_words

from ..errors import ExportError, InvalidModelError
from ..graph.opset import raise_opset
from ..network.example import Example, ExampleLike
from ..network.isolation import quiet
from ..network.trees import tensors_in
from ..states.naming import next_name, output_name
from .arguments import explicit_pairs
from .lifted_file import LiftResult, write_lifted
from .script_states import (
    OpenedScript,
    attribute_path,
    nodes_of,
    open_states,
    positional,
    writes_into_operand,
)

#: The newest opset that PyTorch's older exporter writes.
_NEWEST: Final = 20
_BRANCHING: Final = ("prim::If", "prim::Loop")


def export_script(
    module: torch.jit.ScriptModule,
    example: ExampleLike,
    path: Path,
    opset: int,
    origin: Mapping[str, object],
) -> LiftResult:
    """Exports a TorchScript module, as `export` does, without the options that need Python code.

    Args:
        module: the module, which stays unchanged.
        example: its arguments, or their specs.
        path: the file to write. Its vectors are written beside it.
        opset: the version of ONNX's operators to write.
        origin: a note on where the file came from, which goes into its metadata.

    Raises:
        ExportError: PyTorch's older exporter cannot write the module; or the module remembers
            something from call to call; or the file does not give its answers.
    """
    network = _copy_module(module).eval()
    opened = _without_memory(network, Example(_forward_of(network), example))
    network, sample = opened.network, opened.sample
    model = _to_onnx(network, sample, opset)
    pairs, results = _name_results(model.graph, opened)

    def whole(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(results, _run_network(network, sample, inputs), strict=True))

    try:
        return write_lifted(model, pairs, lambda _: whole, path, origin, required=False)
    except InvalidModelError as error:  # of lists of tensors, for example
        raise _refusal(error.__cause__ or error) from error


def _without_memory(network: torch.jit.ScriptModule, sample: Example) -> OpenedScript:
    """A module that remembers nothing: the author's, or one whose states are arguments.

    Raises:
        ExportError: it remembers something else.
    """
    alone = OpenedScript(network, sample)
    try:
        _check_memory(replace(alone, network=_copy_module(network)))
    except ExportError:
        opened = open_states(network, sample, _copy_module)
        _check_memory(opened)
        return opened
    return alone


def _check_memory(opened: OpenedScript) -> None:
    _check_repeatable(opened.network, opened.sample)
    _check_writes(opened.network, opened.paths)


def _refusal(error: BaseException) -> ExportError:
    return ExportError(
        f"PyTorch's exporter for TorchScript could not write the module: {in_words(error)}. Export "
        "the nn.Module that it was scripted from: stateport writes its loops over time."
    )


def _fails(error: BaseException) -> ExportError:
    lines = in_words(error).strip().splitlines()
    return ExportError(f"The module fails at a size of the example: {lines[-1]}")


def _copy_module(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(module, buffer)
        buffer.seek(0)
        copy: torch.jit.ScriptModule = torch.jit.load(buffer, "cpu")  # type: ignore[no-untyped-call]
    return copy


def _forward_of(module: torch.jit.ScriptModule) -> Any:
    """The module's forward as a Python function with a signature."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return module(*args, **kwargs)

    if not hasattr(module, "forward"):
        raise ExportError(
            f"The TorchScript module {module.original_name!r} has no forward of its own: PyTorch "
            f"compiles its layers with several, for packed sequences and plain ones. Script a "
            f"module that calls it, or pass the original nn.Module."
        )

    schema = module.forward.schema  # type: ignore[attr-defined]
    parameters = [*map(_parameter_of, schema.arguments[1:])]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return forward


def _parameter_of(argument: Any) -> inspect.Parameter:
    """An argument of a TorchScript schema as Python's signatures have it."""
    has_default = argument.has_default_value()
    default = argument.default_value if has_default else inspect.Parameter.empty
    return inspect.Parameter(
        argument.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default
    )


def _to_onnx(network: torch.jit.ScriptModule, sample: Example, opset: int) -> ir.Model:
    arguments = positional(sample.make(sample.sizes))
    names = _argument_names(sample)

    axes = {}
    for name, leaf in zip(names, sample.leaves, strict=True):
        axes[name] = _dynamic_axes(leaf.shape)

    count = len(tensors_in(network(*arguments)))

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "script.onnx"
        try:
            torch.onnx.export(
                network,
                arguments,
                path,
                dynamo=False,
                input_names=names,
                output_names=[f"result_{number}" for number in range(count)],
                dynamic_axes=axes,
                opset_version=min(opset, _NEWEST),
            )
        except Exception as error:  # whatever PyTorch's exporter raises
            raise _refusal(error) from error
        model = ir.serde.deserialize_model(onnx.load(path))

    raise_opset(model, max(opset, model.graph.opset_imports[""]))
    return model


def _argument_names(sample: Example) -> list[str]:
    return ["_".join(leaf.path) for leaf in sample.leaves]


def _dynamic_axes(shape: Sequence[int | str]) -> dict[int, str]:
    """The axes that have a name, by number."""
    axes = {}
    for axis, name in enumerate(shape):
        if isinstance(name, str):
            axes[axis] = name
    return axes


def _name_results(graph: ir.Graph, opened: OpenedScript) -> tuple[dict[str, str], list[str]]:
    """Gives names to the results: y, or y1, y2, ...; and hn for the next value of h0.

    Returns:
        The explicit states, {input: output}, and the names of all results in order.
    """
    results = list(graph.outputs)
    pairs = {}
    for name, position in opened.results(len(results)).items():
        pairs[name] = str(results[position].name)
    pairs |= explicit_pairs(graph, pairs)
    state_names = {output: next_name(argument) for argument, output in pairs.items()}

    answers = []
    for value in results:
        if value.name not in state_names:
            answers.append(value)

    for value in graph.outputs:
        if value.name in state_names:
            value.name = state_names[value.name]
    for number, value in enumerate(answers, 1):
        value.name = output_name(number, len(answers))

    renamed_pairs = {argument: state_names[output] for argument, output in pairs.items()}
    return renamed_pairs, [str(value.name) for value in results]


def _run_network(
    network: torch.jit.ScriptModule, sample: Example, inputs: Mapping[str, Any]
) -> list[Any]:
    """The results for arrays of these names; arguments without an array are zeros."""
    arguments = sample.make(_axis_sizes(sample, inputs))
    leaves, structure = pytree.tree_flatten(positional(arguments))

    # Only tensors have a name; arguments may have other leaves.
    names = iter(_argument_names(sample))
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            array = inputs.get(next(names))

            if array is None:
                leaves[position] = torch.zeros_like(leaf)
            else:
                leaves[position] = torch.from_numpy(array)

    with torch.no_grad():
        try:
            results = network(*pytree.tree_unflatten(leaves, structure))
        except Exception as error:  # the user's forward may raise anything
            raise _fails(error) from error
    return [tensor.numpy() for tensor in tensors_in(results)]


def _axis_sizes(sample: Example, inputs: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of the axes, by name, as the arrays of `inputs` have them."""
    sizes: dict[str, int] = {}
    for name, leaf in zip(_argument_names(sample), sample.leaves, strict=True):
        if name not in inputs:
            continue
        for axis, size in zip(leaf.shape, inputs[name].shape, strict=True):
            if isinstance(axis, str):
                sizes[axis] = size
    return sizes


def _check_repeatable(network: torch.jit.ScriptModule, sample: Example) -> None:
    arguments = positional(sample.make(sample.sizes))
    with torch.no_grad():
        try:
            first = tensors_in(network(*arguments))
            second = tensors_in(network(*arguments))
        except Exception as error:  # the user's forward may raise anything
            raise _fails(error) from error

    are_equal = all(starmap(torch.equal, zip(first, second, strict=True)))
    if not are_equal:
        raise ExportError(
            "The module gives something else when it is called again: it keeps a state in an "
            "attribute, or draws random numbers. In an ONNX file that would be lost. Export the "
            "nn.Module that it was made from, whose states can be found."
        )


def _check_writes(network: torch.jit.ScriptModule, carried: Collection[str] = frozenset()) -> None:
    """Refuses a module whose results depend on an attribute that any call may change.

    `carried` are the paths of the attributes that hold states, which are arguments and results.
    """
    graph: Any = network.inlined_graph
    nodes = list(nodes_of(graph))
    changing = _changing_values(nodes, carried)

    for node in nodes:
        path = _first_path(_used_values(node), changing)
        if path is None or node.kind() == "prim::SetAttr":
            continue

        # Which way it goes may change everything that it gives.
        if node.kind() in _BRANCHING and _first_path(node.inputs(), changing) is not None:
            raise _depends_on_writes(path)
        changing.update(dict.fromkeys(node.outputs(), path))

    path = _first_path(graph.outputs(), changing)
    if path is not None:
        raise _depends_on_writes(path)


def _changing_values(nodes: Sequence[Any], carried: Collection[str]) -> dict[Any, str]:
    """The values read from attributes that the module writes to, with the attributes' paths."""
    paths, written = {}, set()
    for node in nodes:
        if node.kind() == "prim::GetAttr":
            paths[node.output()] = attribute_path(node)
        elif node.kind() == "prim::SetAttr":
            written.add(attribute_path(node))

    for node in nodes:
        if writes_into_operand(node):
            target = next(iter(node.inputs()), None)
            if target in paths:
                written.add(paths[target])

    changing = {}
    for value, path in paths.items():
        if path in written and path not in carried:
            changing[value] = path
    return changing


def _used_values(node: Any) -> Iterator[Any]:
    """A node's operands, and the results of the blocks inside of it."""
    yield from node.inputs()
    for block in node.blocks():
        yield from block.outputs()


def _first_path(values: Iterable[Any], paths: Mapping[Any, str]) -> str | None:
    """The path of the first value that has one."""
    for value in values:
        if value in paths:
            return paths[value]
    return None


def _depends_on_writes(path: str) -> ExportError:
    return ExportError(
        f"The module's results depend on {path!r}, which it changes from call to call. An ONNX "
        "file would lose that: take it as an argument of forward and return the next one, or "
        "export the nn.Module that it was made from."
    )

"""TorchScript: through PyTorch's older exporter, which still reads it, and lifted in the graph.

What `torch.jit.script` or `torch.jit.trace` made has no Python code to look into, so nothing can be
lifted in it: the older exporter writes its graph, and `foreign.states` lifts that. The file is
compared with the module itself.
"""

from __future__ import annotations

import inspect
import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stateport.errors import first_line, in_words

from ..errors import ExportError
from ..graph.opset import raise_opset
from ..network.example import Example, ExampleLike
from ..network.isolation import quiet
from .lifted_file import LiftResult, write_lifted
from .states import explicit_pairs

#: The newest opset that PyTorch's older exporter writes.
_NEWEST: Final = 20
#: Operators that write into a list or dict, besides those whose names end with "_".
_WRITING: Final = frozenset(
    f"aten::{name}" for name in ("append", "extend", "insert", "pop", "clear", "remove")
)


def export_script(
    module: torch.jit.ScriptModule,
    example: ExampleLike,
    path: Path,
    opset: int,
    origin: Mapping[str, object],
) -> LiftResult:
    """Exports a TorchScript module; as `export`, but for what needs Python code to look into.

    Raises:
        ExportError: PyTorch's older exporter cannot write it, it remembers something from call to
            call, or the file does not give its answers.
    """
    network = _copy(module).eval()
    sample = Example(_signed(network), example)
    _check_repeatable(network, sample)
    _check_writes(network)
    model = _captured(network, sample, opset)
    pairs, results = _named(model.graph)

    def whole(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(results, _run(network, sample, inputs), strict=True))

    return write_lifted(model, pairs, lambda _: whole, path, origin, required=False)


def _copy(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old
        torch.jit.save(module, buffer)
        buffer.seek(0)
        copy: torch.jit.ScriptModule = torch.jit.load(buffer, "cpu")  # type: ignore[no-untyped-call]
    return copy


def _signed(module: torch.jit.ScriptModule) -> Any:
    """Its forward, with a signature as Python's functions have one."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return module(*args, **kwargs)

    if not hasattr(module, "forward"):
        raise ExportError(
            f"The TorchScript module {module.original_name!r} has no forward of its own: PyTorch "
            f"compiles its layers with several, for packed sequences and plain ones. Script a "
            f"module that calls it, or pass the original nn.Module."
        )
    schema = module.forward.schema  # type: ignore[attr-defined]
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                argument.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value
                if argument.has_default_value()
                else inspect.Parameter.empty,
            )
            for argument in schema.arguments[1:]
        ]
    )
    return forward


def _captured(network: torch.jit.ScriptModule, sample: Example, opset: int) -> ir.Model:
    arguments = sample.make(sample.sizes)
    if arguments.kwargs:
        raise ExportError("Arguments of a TorchScript module are given by position, in a tuple.")
    names = ["_".join(leaf.path) for leaf in sample.leaves]
    axes = {
        name: {place: axis for place, axis in enumerate(leaf.shape) if isinstance(axis, str)}
        for name, leaf in zip(names, sample.leaves, strict=True)
    }
    count = len(_tensors(network(*arguments.args)))
    with quiet(), tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "script.onnx"
        try:
            torch.onnx.export(
                network,
                arguments.args,
                place,
                dynamo=False,
                input_names=names,
                output_names=[f"result_{number}" for number in range(count)],
                dynamic_axes=axes,
                opset_version=min(opset, _NEWEST),
            )
        except Exception as error:  # whatever PyTorch's exporter raises
            raise ExportError(
                f"PyTorch's exporter for TorchScript could not write the module: {in_words(error)}"
            ) from error
        model = ir.serde.deserialize_model(onnx.load(place))
    raise_opset(model, max(opset, model.graph.opset_imports[""]))
    return model


def _named(graph: ir.Graph) -> tuple[dict[str, str], list[str]]:
    """Gives the results names; returns the explicit states, and the names of all results."""
    results = list(graph.outputs)
    found = explicit_pairs(graph, {})
    nexts = {
        gives: f"{name[:-1] if name.endswith('0') else f'{name}_'}n"
        for name, gives in found.items()
    }
    plain = [value for value in results if value.name not in nexts]
    for value in graph.outputs:
        if value.name in nexts:
            value.name = nexts[value.name]
    for number, value in enumerate(plain, 1):
        value.name = "y" if len(plain) == 1 else f"y{number}"
    return (
        {name: nexts[gives] for name, gives in found.items()},
        [str(value.name) for value in results],
    )


def _run(network: torch.jit.ScriptModule, sample: Example, inputs: Mapping[str, Any]) -> list[Any]:
    """The results for these inputs; arguments that are states are zeros."""
    names = ["_".join(leaf.path) for leaf in sample.leaves]
    sizes = {
        axis: size
        for name, leaf in zip(names, sample.leaves, strict=True)
        if name in inputs
        for axis, size in zip(leaf.shape, inputs[name].shape, strict=True)
        if isinstance(axis, str)
    }
    arguments = sample.make(sizes)
    leaves, structure = pytree.tree_flatten(arguments.args)
    given = iter(names)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            name = next(given)
            array = inputs.get(name)
            leaves[place] = torch.zeros_like(leaf) if array is None else torch.from_numpy(array)
    with torch.no_grad():
        try:
            made = network(*pytree.tree_unflatten(leaves, structure))
        except Exception as error:  # the user's forward may raise anything
            raise ExportError(f"The module fails: {first_line(error)}") from error
    return [tensor.numpy() for tensor in _tensors(made)]


def _check_repeatable(network: torch.jit.ScriptModule, sample: Example) -> None:
    arguments = sample.make(sample.sizes)
    with torch.no_grad():
        first, second = (_tensors(network(*arguments.args)) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        raise ExportError(
            "The module gives something else when it is called again: it keeps a state in an "
            "attribute, or draws random numbers. In an ONNX file that would be lost. Export the "
            "nn.Module that it was made from, whose states can be found."
        )


def _check_writes(network: torch.jit.ScriptModule) -> None:
    """Refuses a module whose results depend on an attribute that it writes to, in whatever call."""
    graph: Any = network.inlined_graph
    nodes = [*_nodes(graph)]
    paths = {node.output(): _path(node) for node in nodes if node.kind() == "prim::GetAttr"}
    written = {_path(node) for node in nodes if node.kind() == "prim::SetAttr"}
    for node in nodes:
        if node.kind().endswith("_") or node.kind() in _WRITING:
            written |= {paths[value] for value in [*node.inputs()][:1] if value in paths}
    kept = {value: path for value, path in paths.items() if path in written}
    for node in nodes:
        path = next((kept[value] for value in node.inputs() if value in kept), None)
        path = path or next(
            (kept[v] for b in node.blocks() for v in b.outputs() if v in kept), None
        )
        if path is None or node.kind() == "prim::SetAttr":
            continue
        if node.kind() in ("prim::If", "prim::Loop") and any(v in kept for v in node.inputs()):
            raise _writes(path)
        kept.update(dict.fromkeys(node.outputs(), path))
    for value in graph.outputs():
        if value in kept:
            raise _writes(kept[value])


def _nodes(block: Any) -> Iterator[Any]:
    """The nodes of a block, those of inner blocks before the node that these belong to."""
    for node in block.nodes():
        for inner in node.blocks():
            yield from _nodes(inner)
        yield node


def _path(node: Any) -> str:
    """The attribute that a node reads or writes, from the module on."""
    owner = next(iter(node.inputs())).node()
    begin = f"{_path(owner)}." if owner.kind() == "prim::GetAttr" else ""
    return f"{begin}{node.s('name')}"


def _writes(path: str) -> ExportError:
    return ExportError(
        f"The module's results depend on {path!r}, which it changes from call to call. An ONNX "
        "file would lose that: take it as an argument of forward and return the next one, or "
        "export the nn.Module that it was made from."
    )


def _tensors(results: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]

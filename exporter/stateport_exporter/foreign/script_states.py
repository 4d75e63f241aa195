# SPDX-License-Identifier: Apache-2.0
"""States that a TorchScript module keeps in attributes, as arguments and results.

A module of TorchScript around the author's puts each state into its attribute, runs the author's
forward, and returns what the attribute holds then. PyTorch's older exporter writes that as a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Final

import torch
from torch import Tensor

from stateport.contract import Axis

from ..errors import ExportError
from ..graph.free_names import free_name
from ..network.example import Arguments, Example, Leaf
from ..network.isolation import quiet
from ..network.trees import tensors_in

#: The name of the author's module inside of the one around it.
_INNER: Final = "network"
#: Operators that write, besides those with names like add_: into a list or dict, or as x |= y does.
_WRITING: Final = frozenset(
    f"aten::{name}"
    for name in (
        *("append", "extend", "insert", "pop", "clear", "remove", "_set_item"),
        *("__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"),
    )
)
#: The axes that may be the batch are tried up to this rank.
_MOST_AXES: Final = 6


@dataclass(frozen=True)
class OpenedScript:
    """A TorchScript module that keeps nothing in attributes, and its example.

    Attributes:
        network: the module; it takes states behind the author's arguments, and returns the next
            ones behind the author's results.
        sample: its example, with the states among the arguments.
        states: the names of the states' inputs, in order.
        paths: the paths of the attributes that hold them.
    """

    network: torch.jit.ScriptModule
    sample: Example
    states: tuple[str, ...] = ()
    paths: frozenset[str] = frozenset()

    def results(self, count: int) -> dict[str, int]:
        """The position among `count` results of each state's next value, by the state's name."""
        first = count - len(self.states)
        return {name: first + number for number, name in enumerate(self.states)}


def open_states(
    network: torch.jit.ScriptModule,
    sample: Example,
    copied: Callable[[torch.jit.ScriptModule], torch.jit.ScriptModule],
) -> OpenedScript:
    """The module with the tensors that it keeps in attributes as arguments and results.

    Args:
        network: the module.
        sample: its example.
        copied: makes a copy of a module.

    Raises:
        ExportError: a state does not start from zeros; or the module with its states as arguments
            does something else than alone.
    """
    paths = _written_tensors(network)
    if not paths:
        return OpenedScript(network, sample)

    names = _names(paths, sample)
    around = _Around(copied(network), _code(network, sample, names))
    held = _held(network, copied(network), sample, paths)
    shapes = None if held is None else _shapes(around, sample, held)
    if held is None or shapes is None:
        return OpenedScript(network, sample)

    leaves, firsts = [], []
    for name, value, shape in zip(names.values(), held, shapes, strict=True):
        leaves.append(Leaf((name,), str(value.dtype).removeprefix("torch."), shape))
        firsts.append(_zeros(shape, 1, value.dtype))
    opened = OpenedScript(
        around,
        sample.with_remembered(leaves, firsts),
        tuple(names.values()),
        frozenset(f"{_INNER}.{path}" for path in paths),
    )
    _check_start(opened, copied(network), sample)
    return opened


def positional(arguments: Arguments) -> tuple[Any, ...]:
    """All arguments by position: the author's, and the states."""
    return (*arguments.args, *arguments.kwargs.values())


def attribute_path(node: Any) -> str:
    """The path of the attribute that a node reads or writes: "encoder.count"."""
    owner = next(iter(node.inputs())).node()
    prefix = f"{attribute_path(owner)}." if owner.kind() == "prim::GetAttr" else ""
    return f"{prefix}{node.s('name')}"


def nodes_of(block: Any) -> Iterator[Any]:
    """The nodes of a block; those of inner blocks come before the node that contains them."""
    for node in block.nodes():
        for inner in node.blocks():
            yield from nodes_of(inner)
        yield node


def writes_into_operand(node: Any) -> bool:
    """Whether a node changes its first operand in place."""
    kind: str = node.kind()
    # aten::add_ does; aten::__contains__ does not.
    return (kind.endswith("_") and not kind.endswith("__")) or kind in _WRITING


def _written_tensors(network: torch.jit.ScriptModule) -> list[str]:
    """The paths of the attributes whose tensors forward replaces or changes, in their order."""
    paths: dict[str, None] = {}
    graph: Any = network.inlined_graph
    for node in nodes_of(graph):
        written = _written_attribute(node)
        if written is not None:
            paths[attribute_path(written)] = None
    return [*paths]


def _written_attribute(node: Any) -> Any:
    """The node that names the attribute whose tensor a node writes; None if it writes none."""
    if node.kind() == "prim::SetAttr":
        _, value = node.inputs()
        attribute = node
    elif writes_into_operand(node) and node.inputsSize():
        value = next(iter(node.inputs()))
        attribute = value.node()
    else:
        return None

    names_attribute = attribute.kind() in ("prim::SetAttr", "prim::GetAttr")
    is_tensor = value.type().kind() == "TensorType"
    return attribute if names_attribute and is_tensor else None


def _names(paths: Sequence[str], sample: Example) -> dict[str, str]:
    """A name for each attribute's argument. Names of attributes may begin with underscores."""
    taken = ["_".join(leaf.path) for leaf in sample.leaves]
    names: dict[str, str] = {}
    for path in paths:
        base = path.replace(".", "_").lstrip("_")
        names[path] = free_name(base, [*taken, *names.values()], "_")
    return names


class _Around(torch.jit.ScriptModule):
    """A module with another inside, and with the code of its forward."""

    def __init__(self, network: torch.jit.ScriptModule, code: str) -> None:
        with quiet():
            super().__init__()
            setattr(self, _INNER, network)
            self.define(code)
        self.eval()


def _code(network: torch.jit.ScriptModule, sample: Example, names: Mapping[str, str]) -> str:
    """A forward that takes what is in attributes, and returns what is in them behind it."""
    count = len(sample.make(sample.sizes).args)
    schema: Any = network.forward.schema  # type: ignore[attr-defined]
    given = schema.arguments[1 : count + 1]

    parameters = [f"{each.name}: {each.type.annotation_str}" for each in given]
    parameters += [f"{name}: Tensor" for name in names.values()]
    arguments = ", ".join(each.name for each in given)
    results = ", ".join(f"self.{_INNER}.{path}" for path in names)
    lines = [
        f"def forward(self, {', '.join(parameters)}):",
        # A copy, because forward may change it in place.
        *(f"    self.{_INNER}.{path} = {name}.clone()" for path, name in names.items()),
        f"    results = self.{_INNER}({arguments})",
        f"    return results, {results}",
    ]
    return "\n".join([*lines, ""])


def _held(
    network: torch.jit.ScriptModule,
    another: torch.jit.ScriptModule,
    sample: Example,
    paths: Sequence[str],
) -> list[Tensor] | None:
    """What the attributes hold; if that is nothing yet, what they hold behind a call of `another`.

    None if the call fails.
    """
    values = [_value_at(network, path) for path in paths]
    if all(map(_holds_numbers, values)):
        return values

    try:
        with torch.no_grad():
            another(*sample.make(sample.sizes).args)
    except Exception:  # the user's forward may raise anything
        return None
    values = [_value_at(another, path) for path in paths]
    return values if all(map(_holds_numbers, values)) else None


def _holds_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0


def _shapes(
    around: torch.jit.ScriptModule, sample: Example, held: Sequence[Tensor]
) -> list[tuple[Axis, ...]] | None:
    """The axes of the states, one of which may be the batch; None if none of these is taken.

    What an attribute holds now has some batch: each axis is tried in its place.
    """
    positions: list[int | None] = [None]
    usual = sample.sizes.get("batch", 1)
    if "batch" in sample.axes:
        positions = [*range(_MOST_AXES), None]

    for position in positions:
        shapes = [_with_batch(value.shape, position) for value in held]
        batches = [usual] if position is None else [usual, usual + 1]
        if all(_takes(around, sample, shapes, held, batch) for batch in batches):
            return shapes
    return None


def _with_batch(shape: Sequence[int], position: int | None) -> tuple[Axis, ...]:
    axes: list[Axis] = [*shape]
    if position is not None and position < len(axes):
        axes[position] = "batch"
    return tuple(axes)


def _takes(
    around: torch.jit.ScriptModule,
    sample: Example,
    shapes: Sequence[tuple[Axis, ...]],
    held: Sequence[Tensor],
    batch: int,
) -> bool:
    """Whether a module takes states of these axes, and returns others of the same."""
    sizes = {**sample.sizes, "batch": batch}
    states = []
    for shape, value in zip(shapes, held, strict=True):
        states.append(_zeros(shape, batch, value.dtype))

    try:
        with torch.no_grad():
            results = tensors_in(around(*sample.make(sizes).args, *states))
    except Exception:  # the user's forward may raise anything
        return False
    next_states = results[len(results) - len(states) :]
    return [state.shape for state in states] == [state.shape for state in next_states]


def _zeros(shape: Sequence[Axis], batch: int, dtype: torch.dtype) -> Tensor:
    sizes = [axis if isinstance(axis, int) else batch for axis in shape]
    return torch.zeros(sizes, dtype=dtype)


def _value_at(network: torch.jit.ScriptModule, path: str) -> Any:
    # An author's attribute may have the name of one of ScriptModule's own, as _c.
    value: Any = network._c
    for key in path.split("."):
        value = value.getattr(key)
    return value


def _check_start(opened: OpenedScript, network: torch.jit.ScriptModule, sample: Example) -> None:
    """Checks that the author's module starts from zeros, and does the same alone.

    Raises:
        ExportError: it does not.
    """
    for path in opened.paths:
        own_path = path.removeprefix(f"{_INNER}.")
        value = _value_at(network, own_path)
        if _holds_numbers(value) and value.any():
            raise ExportError(
                f"The module keeps a state in {own_path!r}, which is not zeros now, and stateport "
                "starts states of TorchScript from zeros. Reset it before it is exported."
            )

    arguments = sample.make(sample.sizes).args
    states = []
    firsts = opened.sample.first_values.values()
    for leaf, first in zip(opened.sample.remembered, firsts, strict=True):
        states.append(_zeros(leaf.shape, sample.sizes.get("batch", 1), first.dtype))

    with torch.no_grad():
        try:
            alone = tensors_in(network(*arguments))
        except Exception:  # of a batch that the attributes do not have
            return
        with_states = tensors_in(opened.network(*arguments, *states))

    if not all(starmap(torch.equal, zip(alone, with_states, strict=False))):
        raise ExportError(
            "The module does something else where its states are arguments than alone: it keeps "
            "more from call to call than tensors. Export the nn.Module that it was made from, "
            "whose states can be found."
        )

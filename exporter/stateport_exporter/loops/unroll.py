# SPDX-License-Identifier: Apache-2.0
"""From a program that was traced at one fixed number of time steps to a plain list of operations.

`reader` reads the program, and makes slices and fills alike; `normalise` does so for
concatenations, constants and views.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind

from ..errors import ExportError
from .normalise import SIZE_OPERATIONS, make_constants_first, merge_concatenations, merge_views
from .reader import COPIES, Reader
from .step_numbers import FEWEST_VALUES, law_of
from .trace import Unrolled
from .windows import Window


def unroll(
    program: ExportedProgram, time: int, multiple: int, windows: Collection[Window] = ()
) -> Unrolled:
    """Reads a program that was traced with a fixed number of steps, `time`.

    Each pass of its loops takes `multiple` steps, and may take these windows of sequences.

    Raises:
        ExportError: the program has a block with a graph inside, or a loop over another axis than
            time.
    """
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    tensors, all_weights = _input_nodes(program, specs)
    values = {node: program.constants.get(str(specs[node.name].target)) for node in all_weights}
    steps, others = _step_numbers_first(values)
    numbers = _numbers_of_steps(others)
    others = {node: value for node, value in others.items() if node not in numbers}
    same = _same_constants(others)
    weights = [node for node in others if same.get(node, node) is node]
    names = [str(specs[node.name].target) for node in weights]

    reader = Reader(
        [*tensors, *weights],
        same,
        steps,
        numbers,
        sums_begin_with_zero=not _adds_step_numbers(program),
        time=time,
        multiple=multiple,
        windows=windows,
    )
    _read_calls(program, reader)
    outputs = _read_outputs(program, reader)
    ops = merge_concatenations(reader.ops, reader.metas)
    return Unrolled(
        arguments=len(tensors),
        names=names,
        constants=_constants(program, names),
        ops=merge_views(make_constants_first(ops)),
        outputs=outputs,
        structure=program.call_spec.out_spec,
        metas=reader.metas,
        multiple=multiple,
    )


def _input_nodes(
    program: ExportedProgram, specs: Mapping[str, InputSpec]
) -> tuple[list[fx.Node], list[fx.Node]]:
    """The tensors among forward's arguments, and the parameters and constants."""
    tensors, weights = [], []
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue

        if specs[node.name].kind is not InputKind.USER_INPUT:
            weights.append(node)
        elif isinstance(node.meta.get("val"), Tensor):
            tensors.append(node)
    return tensors, weights


def _step_numbers_first(
    values: Mapping[fx.Node, Any],
) -> tuple[dict[fx.Node, Any], dict[fx.Node, Any]]:
    """The constants that are numbers of steps, and all others."""
    steps, others = dict[fx.Node, Any](), dict[fx.Node, Any]()
    for node, value in values.items():
        kind = steps if _is_step_number(node, value) else others
        kind[node] = value
    return steps, others


def _read_calls(program: ExportedProgram, reader: Reader) -> None:
    unused = _unused_sizes(program)
    for node in program.graph.nodes:
        if node in unused:
            continue
        if node.op == "call_function":
            reader.read(node)
        elif node.op == "get_attr":
            raise ExportError("its forward has a block that is traced as a separate graph")


def _unused_sizes(program: ExportedProgram) -> set[fx.Node]:
    """Sizes that nothing is made of: where forward reshapes, the first step alone computes them."""
    unused: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        if node.target in SIZE_OPERATIONS and unused.issuperset(node.users):
            unused.add(node)
    return unused


def _same_constants(values: Mapping[fx.Node, Any]) -> dict[fx.Node, fx.Node]:
    """For each constant, the first one with the same values.

    A weight in a dict or list of the author's is a constant of its own wherever forward uses it.
    """
    same: dict[fx.Node, fx.Node] = {}
    distinct: list[fx.Node] = []
    for node, value in values.items():
        if not isinstance(value, Tensor):
            continue
        first = next((other for other in distinct if _is_same(values[other], value)), node)
        same[node] = first
        if first is node:
            distinct.append(node)
    return same


def _is_same(first: Any, second: Tensor) -> bool:
    if not isinstance(first, Tensor) or first.shape != second.shape or first.dtype != second.dtype:
        return False
    return first.data_ptr() == second.data_ptr() or torch.equal(first, second)


def _is_step_number(node: fx.Node, value: Any) -> bool:
    """Whether a constant is one whole number that is used as an index alone, as in `x[[t]]`."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.numel() != 1:
        return False
    if value.dim() > 1:
        return False

    def is_index(user: fx.Node) -> bool:
        if user.target in COPIES:
            return all(map(is_index, user.users))
        return user.target is torch.ops.aten.index.Tensor and user.args[0] is not node

    return all(map(is_index, node.users))


def _numbers_of_steps(values: Mapping[fx.Node, Any]) -> dict[fx.Node, Tensor]:
    """The constants of one value that follow from the number of the step, as `torch.tensor(t)`."""
    kinds: dict[Any, dict[fx.Node, Tensor]] = {}
    for node, value in values.items():
        if not isinstance(value, Tensor) or value.numel() != 1 or value.dtype == torch.bool:
            continue
        if all(user.target in COPIES for user in node.users):
            kinds.setdefault((value.shape, value.dtype), {})[node] = value

    numbers: dict[fx.Node, Tensor] = {}
    for constants in kinds.values():
        distinct = dict.fromkeys(value.item() for value in constants.values())
        if law_of([*distinct]) is not None:
            numbers |= constants
    return numbers


def _adds_step_numbers(program: ExportedProgram) -> bool:
    """Whether so many numbers are added that `x + 0` is the first of `x + t`."""
    added: set[Any] = set()
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.add.Tensor and not isinstance(node.args[1], fx.Node):
            added.add(node.args[1])
    return len(added) >= FEWEST_VALUES


def _constants(program: ExportedProgram, names: list[str]) -> dict[str, Tensor]:
    constants = {}
    for name in names:
        value = program.constants.get(name)
        if isinstance(value, Tensor):
            constants[name] = value
    return constants


def _read_outputs(program: ExportedProgram, reader: Reader) -> tuple[Any, ...]:
    [output] = [node for node in program.graph.nodes if node.op == "output"]
    specs = program.graph_signature.output_specs
    operands = []
    for value, spec in zip(output.args[0], specs, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT:
            operands.append(reader.operand(value))

    return tuple(map(reader.complete, operands))

"""A network traced at one fixed number of time steps, its loops written out, in a plain form.

What differs only in how it was written is made alike: `x[:, t]`, `x.unbind(1)`, `for x_t in x`,
`x[:, t:t+1]` and `x.split(1, 1)` all become slices, and a tensor that is filled or grown step by
step becomes one stack or concatenation of the steps.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, OutputKind

from ..errors import ExportError
from ..network.program import Op, Ref, Slice, exchange_all, operands, refs

_aten: Final = torch.ops.aten
_END: Final = 2**63 - 1
#: What gives its operand unchanged, where gradients do not matter.
_SAME: Final = (_aten.alias.default, _aten.detach.default, _aten.lift_fresh_copy.default)
_CHECKS: Final = (
    _aten._assert_scalar.default,
    _aten._assert_tensor_metadata.default,
    _aten.sym_constrain_range_for_size.default,
    _aten.sym_constrain_range.default,
)
#: What makes a tensor of one value, and which; None where it is the last argument.
_VALUES: Final[dict[Any, int]] = {
    _aten.zeros.default: 0,
    _aten.zeros_like.default: 0,
    _aten.new_zeros.default: 0,
    _aten.empty.memory_format: 0,
    _aten.empty_like.default: 0,
    _aten.new_empty.default: 0,
    _aten.ones.default: 1,
    _aten.ones_like.default: 1,
    _aten.new_ones.default: 1,
}
_FILLS: Final = (_aten.full.default, _aten.full_like.default, _aten.new_full.default)
_MAKERS: Final = (_aten.full.default, _aten.sym_size.int)


@dataclass(frozen=True)
class TensorMeta:
    """A tensor's shape, dynamic sizes as text, and its dtype."""

    shape: tuple[int | str, ...]
    dtype: torch.dtype


@dataclass
class Unrolled:
    """Inputs come first: the arguments' tensors, then parameters and constants by name.

    `metas` describes every value: a `TensorMeta`, a list of them for several results, or the text
    of a symbolic size.
    """

    arguments: int
    names: list[str]
    constants: dict[str, Tensor]
    ops: list[Op]
    outputs: tuple[Any, ...]
    structure: Any
    metas: dict[int, Any] = field(repr=False)

    @property
    def inputs(self) -> int:
        """How many inputs there are."""
        return self.arguments + len(self.names)

    def meta(self, operand: Ref | Slice) -> Any:
        """What an operand is like."""
        if isinstance(operand, Ref):
            return _part(self.metas[operand.value], operand.part)
        source = self.meta(operand.source)
        after = source.shape[operand.dim + 1 :]
        middle = (1,) if operand.keep else ()
        return TensorMeta((*source.shape[: operand.dim], *middle, *after), source.dtype)


def unroll(program: torch.export.ExportedProgram) -> Unrolled:
    """Reads a program that was traced with a fixed number of steps.

    Raises:
        ExportError: the program holds what a plain list of operators cannot.
    """
    signature = program.graph_signature
    kinds = {spec.arg.name: spec for spec in signature.input_specs}
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    users = [node for node in placeholders if kinds[node.name].kind is InputKind.USER_INPUT]
    tensors = [node for node in users if isinstance(node.meta.get("val"), Tensor)]
    held = [node for node in placeholders if node not in users]
    names = [str(kinds[node.name].target) for node in held]
    constants = {
        name: program.constants[name]
        for name in names
        if name in program.constants and isinstance(program.constants[name], Tensor)
    }
    reader = _Reader([*tensors, *held])
    for node in program.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
        elif node.op == "get_attr":
            raise ExportError("its forward holds a block with a graph of its own")
    [output] = [node for node in program.graph.nodes if node.op == "output"]
    results = [
        reader.operand(node)
        for node, spec in zip(output.args[0], signature.output_specs, strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    results = [reader.whole(result) for result in results]
    return Unrolled(
        arguments=len(tensors),
        names=names,
        constants=constants,
        ops=_made_first(_joined(reader)),
        outputs=tuple(results),
        structure=program.call_spec.out_spec,
        metas=reader.metas,
    )


class _Reader:
    """Turns FX nodes into operations, one after the other."""

    def __init__(self, inputs: Sequence[fx.Node]) -> None:
        self.operand_of: dict[fx.Node, Any] = {}
        self.parts_of: dict[fx.Node, list[Any]] = {}
        self.metas: dict[int, Any] = {}
        self.ops: list[Op] = []
        # Tensors that are filled step by step: (what they were before, the axis, what is written).
        self._filled: dict[int, tuple[Any, int, dict[int, Any]]] = {}
        self._stacked: dict[int, Ref] = {}
        for number, node in enumerate(inputs):
            self.operand_of[node] = Ref(number)
            self.metas[number] = _meta(node.meta["val"])
        self._next = self._inputs = len(inputs)

    def read(self, node: fx.Node) -> None:
        """Adds a node's operation, if it needs one."""
        if node.target in _CHECKS:
            return
        special = _SPECIAL.get(node.target)
        if special is None or not special(self, node):
            args, kwargs = self.operand(node.args), self.operand(node.kwargs)
            self.operand_of[node] = self.add(
                node.target, self.whole(args), _meta(node.meta["val"]), kwargs, _path(node)
            )

    def add(
        self,
        target: Any,
        args: tuple[Any, ...],
        meta: Any,
        kwargs: Mapping[str, Any] | None = None,
        path: str = "",
    ) -> Ref:
        """Adds an operation and returns its result."""
        pairs = tuple((name, self.whole(value)) for name, value in (kwargs or {}).items())
        self.ops.append(Op(self._next, target, args, pairs, path))
        self.metas[self._next] = meta
        self._next += 1
        return Ref(self._next - 1)

    def operand(self, value: Any) -> Any:
        """An argument of a node as an operand."""
        if isinstance(value, fx.Node):
            return self.operand_of[value]
        if isinstance(value, list | tuple):
            return tuple(self.operand(item) for item in value)
        if isinstance(value, dict):
            return {name: self.operand(item) for name, item in value.items()}
        return value

    def whole(self, operand: Any) -> Any:
        """The operand, with tensors that were filled step by step put together."""
        if isinstance(operand, tuple):
            return tuple(self.whole(item) for item in operand)
        if isinstance(operand, Slice):
            source = self.whole(operand.source)
            return Slice(source, operand.dim, operand.index, operand.keep)
        if not isinstance(operand, Ref) or operand.value not in self._filled:
            return operand
        if operand.value not in self._stacked:
            before, dim, written = self._filled[operand.value]
            meta = self.metas[operand.value]
            rows = [
                written[i] if i in written else self._slice(before, dim, i)
                for i in range(meta.shape[dim])
            ]
            self._stacked[operand.value] = self.add(
                _aten.stack.default, (self.whole(tuple(rows)), dim), meta
            )
        return self._stacked[operand.value]

    def shape(self, node: fx.Node) -> tuple[int | str, ...]:
        """A node's shape."""
        shape: tuple[int | str, ...] = _meta(node.meta["val"]).shape
        return shape

    def made(self, node: fx.Node) -> bool:
        """`torch.zeros`, `zeros_like` and their kind: all become `torch.full`."""
        value = _VALUES.get(node.target, node.args[-1])
        meta = _meta(node.meta["val"])
        sizes = tuple(self._size(size) for size in meta.shape)
        if not isinstance(value, int | float) or None in sizes:
            return False
        kwargs = {"dtype": meta.dtype}
        self.operand_of[node] = self.add(_aten.full.default, (sizes, value), meta, kwargs)
        return True

    def added(self, node: fx.Node) -> bool:
        """`0 + x`, the first step of a sum, looks like the others: zeros + x."""
        x, number = node.args
        meta = _meta(node.meta["val"])
        sizes = tuple(self._size(size) for size in meta.shape)
        if isinstance(number, fx.Node) or number != 0 or node.kwargs or None in sizes:
            return False
        zeros = self.add(_aten.full.default, (sizes, 0), meta, {"dtype": meta.dtype})
        self.operand_of[node] = self.add(
            node.target, (zeros, self.whole(self.operand(x))), meta, path=_path(node)
        )
        return True

    def _size(self, size: int | str) -> int | Ref | None:
        """A size as an operand; a dynamic one is taken from one of the inputs."""
        if isinstance(size, int):
            return size
        for number in range(self._inputs):
            meta = self.metas[number]
            if isinstance(meta, TensorMeta) and size in meta.shape:
                return self.add(_aten.sym_size.int, (Ref(number), meta.shape.index(size)), size)
        return None

    def getitem(self, node: fx.Node) -> bool:
        """One of several results."""
        source, index = _args(node)
        if not isinstance(source, fx.Node) or not isinstance(index, int):
            return False
        if source in self.parts_of:
            self.operand_of[node] = self.parts_of[source][index]
        else:
            operand = self.operand_of[source]
            self.operand_of[node] = Ref(operand.value, index)
        return True

    def same(self, node: fx.Node) -> bool:
        """What is its operand."""
        self.operand_of[node] = self.operand(node.args[0])
        return True

    def copied(self, node: fx.Node) -> bool:
        """`copy(a, b)` is b, if it is like a."""
        into, value, _ = _args(node)
        if _meta(into.meta["val"]) != _meta(value.meta["val"]):
            return False
        self.operand_of[node] = self.operand(value)
        return True

    def select(self, node: fx.Node) -> bool:
        """`x[:, t]`."""
        source, dim, index = _args(node)
        shape = self.shape(source)
        dim %= len(shape)
        if not isinstance(index, int) or not isinstance(shape[dim], int):
            return False
        self.operand_of[node] = self._slice(self.operand(source), dim, index % shape[dim])
        return True

    def _slice(self, source: Any, dim: int, index: int, keep: bool = False) -> Any:
        """A slice; of a tensor that was filled step by step, what was written there."""
        while not keep and isinstance(source, Ref) and source.value in self._filled:
            before, axis, written = self._filled[source.value]
            if axis != dim:
                break
            if index in written:
                return written[index]
            source = before
        return Slice(source, dim, index, keep)

    def slice(self, node: fx.Node) -> bool:
        """`x[:, t:t+1]`, and `x[:]`."""
        source, dim, start, end, step = _args(node)
        size = self.shape(source)[dim]
        if step != 1 or not isinstance(start, int | None):
            return False
        if start in (0, None) and (end in (None, _END) or end == size):
            return self.same(node)
        if not isinstance(size, int) or not isinstance(end, int | None):
            return False
        first, last, _ = slice(start, end).indices(size)
        if last - first != 1:
            return False
        dim %= len(self.shape(source))
        self.operand_of[node] = self._slice(self.operand(source), dim, first, keep=True)
        return True

    def unbind(self, node: fx.Node) -> bool:
        """`x.unbind(1)`, or `for x_t in x`."""
        source, dim = _args(node)
        operand, shape = self.operand(source), self.shape(source)
        dim %= len(shape)
        self.parts_of[node] = [self._slice(operand, dim, i) for i in range(_int(shape[dim]))]
        return True

    def split(self, node: fx.Node) -> bool:
        """`x.split(1, dim)` and `x.chunk(n, dim)`, where every part has size 1."""
        source, _, dim = _args(node)
        parts = node.meta["val"]
        dim %= len(self.shape(source))
        if any(_meta(part).shape[dim] != 1 for part in parts):
            return False
        operand = self.operand(source)
        self.parts_of[node] = [self._slice(operand, dim, i, keep=True) for i in range(len(parts))]
        return True

    def select_scatter(self, node: fx.Node) -> bool:
        """`x[:, t] = y`, as a new x."""
        into, value, dim, index = _args(node)
        shape = self.shape(into)
        dim %= len(shape)
        if not isinstance(index, int) or not isinstance(shape[dim], int):
            return False
        before, written = self.operand(into), dict[int, Any]()
        if isinstance(before, Ref) and before.value in self._filled:
            earlier, axis, values = self._filled[before.value]
            if axis == dim:
                before, written = earlier, dict(values)
        written[index % shape[dim]] = self.operand(value)
        self.metas[self._next] = _meta(node.meta["val"])
        self._filled[self._next] = (before, dim, written)
        self.operand_of[node] = Ref(self._next)
        self._next += 1
        return True

    def slice_scatter(self, node: fx.Node) -> bool:
        """`x[:] = y` is y."""
        into, value, dim, start, end, step = _args(node)
        size = self.shape(into)[dim]
        if step != 1 or start not in (0, None):
            return False
        if end not in (None, _END) and end != size:
            return False
        if _meta(into.meta["val"]) != _meta(value.meta["val"]):
            return False
        self.operand_of[node] = self.operand(value)
        return True


_SPECIAL: Final[dict[Any, Callable[[_Reader, fx.Node], bool]]] = {
    **dict.fromkeys(_SAME, _Reader.same),
    **dict.fromkeys((*_VALUES, *_FILLS), _Reader.made),
    operator.getitem: _Reader.getitem,
    _aten.add.Tensor: _Reader.added,
    _aten.copy.default: _Reader.copied,
    _aten.select.int: _Reader.select,
    _aten.slice.Tensor: _Reader.slice,
    _aten.unbind.int: _Reader.unbind,
    _aten.split.Tensor: _Reader.split,
    _aten.split_with_sizes.default: _Reader.split,
    _aten.select_scatter.default: _Reader.select_scatter,
    _aten.slice_scatter.default: _Reader.slice_scatter,
}


def _joined(reader: _Reader) -> list[Op]:
    """The operations, with concatenations that grow step by step made one."""
    uses: dict[int, int] = {}
    for op in reader.ops:
        for ref in refs(operands(op)):
            uses[ref.value] = uses.get(ref.value, 0) + 1
    by_result = {op.result: op for op in reader.ops}
    grown: set[int] = set()
    ops = []
    for op in reader.ops:
        if op.target is _aten.cat.default:
            items, dim = op.args[0], _dim(reader, op)
            while isinstance(items[0], Ref) and items[0].value in by_result:
                inner = by_result[items[0].value]
                fits = inner.target is _aten.cat.default and uses[inner.result] == 1
                if not fits or _dim(reader, inner) != dim:
                    break
                grown.add(inner.result)
                items = (*inner.args[0], *items[1:])
            items = tuple(item for item in items if not _is_empty(reader, item, dim))
            op = Op(op.result, op.target, (items, dim), (), op.path)
        ops.append(op)
    return [op for op in ops if op.result not in grown]


def _made_first(ops: list[Op]) -> list[Op]:
    """The operations, with tensors of zeros and the like made once, as early as can be.

    A first state that is made where it is needed first would else set the first step apart.
    """
    same: dict[Any, int] = {}
    numbers: dict[int, int] = {}
    moved: list[Op] = []
    for op in ops:
        op = exchange_all(op, lambda item: _renamed(item, numbers))
        if op.target in _MAKERS:
            key = op.target, op.args, op.kwargs
            if key in same:
                numbers[op.result] = same[key]
                continue
            same[key] = op.result
            needed = {ref.value for ref in refs(operands(op))}
            at = max((i + 1 for i, one in enumerate(moved) if one.result in needed), default=0)
            moved.insert(at, op)
        else:
            moved.append(op)
    return moved


def _renamed(item: Ref | Slice, numbers: Mapping[int, int]) -> Any:
    if isinstance(item, Slice):
        return replace(item, source=_renamed(item.source, numbers))
    return Ref(numbers.get(item.value, item.value), item.part)


def _dim(reader: _Reader, op: Op) -> int:
    dim: int = (*op.args, 0)[1]
    return dim % len(reader.metas[op.result].shape)


def _is_empty(reader: _Reader, item: Any, dim: int) -> bool:
    if not isinstance(item, Ref):
        return False
    shape = _part(reader.metas[item.value], item.part).shape
    return shape == (0,) or (dim < len(shape) and shape[dim] == 0)


def _args(node: fx.Node) -> tuple[Any, ...]:
    """A node's arguments, with defaults for those that are left out."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.args
    return tuple(
        node.args[position]
        if position < len(node.args)
        else node.kwargs.get(argument.name, argument.default_value)
        for position, argument in enumerate(node.target._schema.arguments)
    )


def _part(meta: Any, part: int | None) -> Any:
    return meta if part is None else meta[part]


def _meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
        return TensorMeta(shape, value.dtype)
    if isinstance(value, list | tuple):
        return [_meta(item) for item in value]
    return str(value)


def _int(size: int | str) -> int:
    if not isinstance(size, int):
        raise ExportError(f"its forward loops over the axis {size!r}, which is not time")
    return size


def _path(node: fx.Node) -> str:
    """The module in which a node was called, below the network that is exported."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1] if paths else ""

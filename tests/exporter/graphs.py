"""ONNX graphs as other exporters write them, put together by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]

GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass
class Builder:
    """Collects nodes and weights; values are (time, batch, features) of float32."""

    seed: int = 0
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def constant(self, array: Array | Sequence[int]) -> str:
        name = self.name("weight")
        value = np.asarray(array)
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, list(inputs), names, name=self.name(kind), **attributes)
        )
        return names[0] if outputs == 1 else names

    def input(
        self, name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT
    ) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(
        self, value: str, name: str, shape: Sequence[int | str | None] = (None, None, None)
    ) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [*shape]))

    def also_output(self, name: str, shape: Sequence[int | str | None]) -> None:
        """A value that is there already is an output too."""
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [*shape]))

    def recurrent(
        self,
        kind: str,
        x: str,
        size: int,
        hidden: int,
        *,
        first: str = "absent",
        direction: str = "forward",
        lengths: str = "",
        weights: tuple[str, str] | None = None,
    ) -> str:
        """An operator and its squeezed output; `first` says how its first states are written."""
        directions = 2 if direction == "bidirectional" else 1
        gates = GATES[kind] * hidden
        w, r = weights or (
            self.constant(self.random.standard_normal((directions, gates, size)) * size**-0.5),
            self.constant(self.random.standard_normal((directions, gates, hidden)) * hidden**-0.5),
        )
        states = [
            self.first(first, x, directions, hidden) for _ in range(2 if kind == "LSTM" else 1)
        ]
        operands = [x, w, r, "", lengths, *states]
        while operands[-1] == "":
            operands.pop()
        extra = {"linear_before_reset": 1} if kind == "GRU" else {}
        made = self.op(
            kind,
            operands,
            3 if kind == "LSTM" else 2,
            hidden_size=hidden,
            direction=direction,
            **extra,
        )
        if directions == 1:
            return str(self.op("Squeeze", [made[0], self.constant(np.array([1]))]))
        y = self.op("Transpose", [made[0]], perm=[0, 2, 1, 3])
        return str(self.op("Reshape", [y, self.constant(np.array([0, 0, -1]))]))

    def first(self, kind: str, x: str, directions: int, hidden: int) -> str:
        """A first state: absent, or zeros or other constants, as exporters write them."""
        if kind == "absent":
            return ""
        if kind == "computed":
            mean = self.op("ReduceMean", [x, self.constant(np.array([0]))], keepdims=1)
            pick = self.op("Slice", [mean, *(self.constant(np.array([n])) for n in (0, 1, 2))])
            shape = self.rows(x, directions, hidden)
            return str(self.op("Expand", [pick, shape]))
        if kind == "zeros":
            return str(self.op("ConstantOfShape", [self.rows(x, directions, hidden)]))
        value = self.random.standard_normal((directions, 1, hidden))
        return str(self.op("Expand", [self.constant(value), self.rows(x, directions, hidden)]))

    def rows(self, x: str, directions: int, hidden: int) -> str:
        """The shape of a state for the batch of x."""
        shape = self.op("Shape", [x])
        batch = self.op("Slice", [shape, *(self.constant(np.array([n])) for n in (1, 2))])
        ends = [self.constant(np.array([n])) for n in (directions, hidden)]
        return str(self.op("Concat", [ends[0], batch, ends[1]], axis=0))

    def branch(self, inner: Builder, value: str) -> GraphProto:
        """A graph without inputs, for a branch; its weights stand in the graph around it."""
        self.weights += inner.weights
        info = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
        return helper.make_graph(inner.nodes, self.name("branch"), [], [info])

    def inner(self) -> Builder:
        """A builder for a graph within this one; names go on."""
        other = Builder(int(self.random.integers(1 << 30)))
        self.count += 1000
        other.count = self.count + 500
        return other

    def save(self, path: Path, opset: int = 20) -> Path:
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, self.weights)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, ir_version=10, opset_imports=imports)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path

# SPDX-License-Identifier: Apache-2.0
"""Writing ONNX operators in place of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import tape

from .free_names import free_name


class Operators:
    """Collects operators; their constants become initializers of the graph `home`.

    Constants are named after the layer: "encoder.lstm.l0.W".
    """

    def __init__(self, home: ir.Graph, path: str = "") -> None:
        self.home = home
        self._path = path
        self._tape = tape.Tape()

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """What has been collected."""
        return self._tape.nodes

    def op(self, kind: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """One operator with one output."""
        return self._tape.op(kind, inputs, attributes)

    def ops(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """One operator with several outputs."""
        return self._tape.op_multi_out(kind, inputs, attributes, num_outputs=outputs)

    def own_ops(
        self, kind: str, inputs: Sequence[ir.Value | None], outputs: int, **attributes: Any
    ) -> Sequence[ir.Value]:
        """One of ONNX Runtime's own operators."""
        return self._tape.op_multi_out(
            kind, inputs, attributes, num_outputs=outputs, domain="com.microsoft"
        )

    def constant(self, array: NDArray[Any], name: str) -> ir.Value:
        """A new initializer; a number is added to its name where that is taken."""
        path = f"{self._path}.{name}" if self._path else name
        name_in_graph = free_name(path, self.home.initializers, ".")
        return self._store(name_in_graph, np.asarray(array, order="C"))

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        """A short list of integers, shared by all who need the same one."""
        name = f"ints_{'_'.join(map(str, numbers)).replace('-', 'm')}"
        if name not in self.home.initializers:
            self._store(name, np.array(numbers, np.int64))
        return self.home.initializers[name]

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """The values joined along an axis; a single value stays as it is."""
        if len(values) == 1:
            return values[0]
        return self.op("Concat", values, axis=axis)

    def split(self, value: ir.Value, parts: int, size: int) -> Sequence[ir.Value]:
        """The value cut along axis 0 into `parts` of `size`; a single part stays as it is."""
        if parts == 1:
            return [value]
        return self.ops("Split", [value, self.ints([size] * parts)], parts, axis=0)

    def _store(self, name: str, array: NDArray[Any]) -> ir.Value:
        value = ir.Value(
            name=name,
            const_value=ir.tensor(array, name=name),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
        )
        self.home.register_initializer(value)
        return value


class Writer(Operators):
    """Collects the operators that take the place of one node.

    Where the node is in the body of a loop, its constants belong into the graph around the loop:
    pass that as `home`.
    """

    def __init__(self, node: ir.Node, path: str = "", home: ir.Graph | None = None) -> None:
        assert node.graph is not None
        super().__init__(home or node.graph, path)
        self._node = node
        self._around: ir.Graph = node.graph

    def put(self, nodes: Sequence[ir.Node] = ()) -> None:
        """Puts what has been collected, and then these nodes, before the node."""
        self._around.insert_before(self._node, [*self._tape.nodes, *nodes])
        self._tape = tape.Tape()

    def replace(self, outputs: Sequence[ir.Value]) -> None:
        """Puts the operators where the node was; everything that used it now uses `outputs`."""
        for old, new in zip(self._node.outputs, outputs, strict=True):
            new.shape, new.type = old.shape, old.type
            if old.is_graph_output():
                new.name = old.name

        self.put()
        ir.convenience.replace_all_uses_with(
            self._node.outputs, outputs, replace_graph_outputs=True
        )
        self._around.remove(self._node, safe=True)

"""Writing ONNX operators in place of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import tape


class Operators:
    """Collects operators; their constants become initializers of the graph `home`.

    Those are named after the layer: "encoder.lstm.l0.W".
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
        """An initializer of its own, with a name that is not taken yet."""
        base = f"{self._path}.{name}" if self._path else name
        names = [base, *(f"{base}.{n}" for n in range(2, len(self.home.initializers) + 3))]
        free = next(name for name in names if name not in self.home.initializers)
        value = ir.Value(
            name=free,
            const_value=ir.tensor(np.asarray(array, order="C"), name=free),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
        )
        self.home.register_initializer(value)
        return value

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        """A short list of integers, shared by all who need the same one."""
        name = f"ints_{'_'.join(map(str, numbers)).replace('-', 'm')}"
        if name not in self.home.initializers:
            array = np.array(numbers, np.int64)
            value = ir.Value(
                name=name,
                const_value=ir.tensor(array, name=name),
                type=ir.TensorType(ir.DataType.INT64),
                shape=ir.Shape(array.shape),
            )
            self.home.register_initializer(value)
        return self.home.initializers[name]

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """The values joined along an axis; one alone stays as it is."""
        return values[0] if len(values) == 1 else self.op("Concat", values, axis=axis)

    def split(self, value: ir.Value, parts: int, size: int) -> Sequence[ir.Value]:
        """The value cut along axis 0 into `parts` of `size`; one alone stays as it is."""
        if parts == 1:
            return [value]
        return self.ops("Split", [value, self.ints([size] * parts)], parts, axis=0)


class Writer(Operators):
    """Collects the operators that take the place of one node.

    Constants of a node in the body of a loop belong into the graph around it, which is then `home`.
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

"""A file without a contract, as other exporters write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

Shape = list[int | str | None]
FLOAT = TensorProto.FLOAT


def written(
    path: Path,
    pairs: dict[str, str],
    *,
    state: Shape = [1, "N", 3],  # noqa: B006  # never changed
    x: Shape = ["N", "T", 3],  # noqa: B006
    extra: tuple[str, ...] = (),
) -> Path:
    """y = x plus all states, each of which grows by the last step of x; and `rate`, an integer."""
    nodes = [
        helper.make_node("Cast", ["rate"], ["factor"], to=FLOAT),
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Slice", ["scaled", "last", "end", "axis"], ["step"]),
        helper.make_node("Transpose", ["step"], ["row"], perm=[1, 0, 2]),
    ]
    total = "scaled"
    for given, gives in pairs.items():
        nodes.append(helper.make_node("Transpose", [given], [f"{given}.t"], perm=[1, 0, 2]))
        nodes.append(helper.make_node("Add", [total, f"{given}.t"], [f"{given}.sum"]))
        nodes.append(helper.make_node("Add", [given, "row"], [gives]))
        total = f"{given}.sum"
    nodes.append(helper.make_node("Identity", [total], ["y"]))
    nodes += [helper.make_node("Identity", [next(iter(pairs.values()))], [name]) for name in extra]

    def info(name: str, shape: Shape, dtype: int = FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, dtype, shape)

    graph = helper.make_graph(
        nodes,
        "sums",
        [info("x", x), *(info(name, state) for name in pairs), info("rate", [], TensorProto.INT64)],
        [info("y", x), *(info(name, state) for name in (*pairs.values(), *extra))],
        [
            onnx.numpy_helper.from_array(np.array([number]), name)
            for name, number in (("last", -1), ("end", 2**62), ("axis", 1))
        ],
    )
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path
    )
    return path

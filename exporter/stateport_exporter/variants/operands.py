# SPDX-License-Identifier: Apache-2.0
"""What all other forms of a file share."""

from __future__ import annotations

import onnx_ir as ir


def required_operand(node: ir.Node, position: int) -> ir.Value:
    """An operand that the operator cannot leave out."""
    operand = node.inputs[position]
    assert operand is not None
    return operand

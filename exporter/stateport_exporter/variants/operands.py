# SPDX-License-Identifier: Apache-2.0
"""What all other forms of a file share."""

from __future__ import annotations

import onnx_ir as ir

from stateport.picking import sure


def required_operand(node: ir.Node, position: int) -> ir.Value:
    """An operand that the operator cannot leave out."""
    return sure(node.inputs[position])

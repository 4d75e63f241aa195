# SPDX-License-Identifier: Apache-2.0
"""Writes one step of a loop over time as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..network.isolation import quiet
from ..network.program import Body
from .recorders import Loop, TensorSignature
from .refusals import message_of
from .torch_export import functional, torch_export
from .write_onnx import write_onnx


class _Step(nn.Module):
    """One step of a loop, as a module."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, operands: Sequence[Tensor]) -> list[Tensor]:
        """The next states, and the outputs of the step."""
        return self.body.program.run(operands)


def capture_step(loop: Loop, opset: int) -> ir.Graph:
    """The graph of one step: operands -> next states, outputs of the step.

    Raises:
        ExportError: PyTorch's exporter cannot express it.
    """
    name = f"the step of the loop in {loop.body.path!r}" if loop.body.path else "the loop's step"

    operands = [torch.zeros(like.shape, dtype=like.dtype) for like in loop.operands]

    with quiet(), torch.no_grad():
        try:
            program = _step_program(loop, operands)
            # Decomposes recurrent layers inside the step, which PyTorch's ONNX writer gets wrong.
            program = functional(program, decomposed=True)
        except Exception as error:
            raise ExportError(f"{name} could not be traced: {message_of(error)}") from error

    return write_onnx(program, name, opset).graph


def _step_program(loop: Loop, operands: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The program of one step.

    A size that PyTorch cannot simplify, as one of features behind a reshape, may be the same for
    all sequences. So if the step fixes a size, that axis is one of them.
    """
    step = _Step(loop.body)
    try:
        shapes = [_dynamic_axes(like, torch.export.Dim.DYNAMIC) for like in loop.operands]
        return torch_export(step, (list(operands),), (shapes,))
    except torch._dynamo.exc.UserError:
        shapes = [_dynamic_axes(like, torch.export.Dim.AUTO) for like in loop.operands]
        return torch_export(step, (list(operands),), (shapes,))


def _dynamic_axes(like: TensorSignature, dim: Any) -> dict[int, Any]:
    dims = {}
    for axis, dynamic in enumerate(like.dynamic):
        if dynamic:
            dims[axis] = dim
    return dims

# SPDX-License-Identifier: Apache-2.0
"""Recognizes files that are too new for the installed ONNX Runtime."""

from __future__ import annotations

import re

from ..model_file.onnx_outline import OnnxFile


def too_new(file: OnnxFile, message: str, version: str) -> str | None:
    """A sentence that a file needs a newer ONNX Runtime; None if that is not why it failed.

    Args:
        file: the file that could not be loaded.
        message: ONNX Runtime's own message.
        version: the version of ONNX Runtime.
    """
    ir = re.search(r"max supported IR version: (\d+)", message)
    if ir is not None:
        return (
            f"ONNX Runtime {version} reads files up to IR version {ir[1]}, and {file.path} has IR "
            f"version {file.ir_version}. Install a newer ONNX Runtime, or write the file with an "
            "older opset: --opset."
        )

    opset = re.search(r"official support for domain (\S+) is till opset (\d+)", message)
    if opset is not None:
        return (
            f"ONNX Runtime {version} knows opsets up to {opset[2]}, and {file.path} has opset "
            f"{file.opsets.get(opset[1])}. Export it with --opset {opset[2]}, or install a newer "
            "ONNX Runtime."
        )

    return None

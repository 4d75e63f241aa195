# SPDX-License-Identifier: Apache-2.0
"""The exporter's branch of the error tree."""

from stateport import StateportError


class ExportError(StateportError):
    """A network cannot be exported; the message says why, and what to change."""


class TargetError(ExportError):
    """The network, its weights or its example cannot be loaded."""


class CheckError(ExportError):
    """A new file failed its verification, or nothing is there to verify it against.

    The message names the argument of the library that leaves verification out, `check=False`. A
    command adds its own option.
    """


class InvalidModelError(ExportError):
    """A new file is not valid ONNX. The cause is the error of ONNX's own checker."""

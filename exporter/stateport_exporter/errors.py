"""The exporter's branch of the error tree."""

from stateport import StateportError


class ExportError(StateportError):
    """A network cannot be exported; the message says why, and what to change."""


class TargetError(ExportError):
    """The network, its weights or its example cannot be loaded."""

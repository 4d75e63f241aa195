"""Export recurrent PyTorch networks to ONNX, with their state as explicit inputs and outputs.

>>> from stateport_exporter import Spec, export
>>> spec = (Spec("float32", "batch", "time", 5), Spec("float32", 1, "batch", 10), ...)
>>> result = export(module, spec, "model.onnx")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import ExportError
    from .example import Spec
    from .lift_file import LiftedFile, lift
    from .pipeline import Result, export
    from .variants import Quantized, quantize

__version__ = "0.1.0"

__all__ = [
    "ExportError",
    "LiftedFile",
    "Quantized",
    "Result",
    "Spec",
    "export",
    "lift",
    "quantize",
]

#: Where each name is; the last of these import PyTorch.
_MODULES = ("errors", "variants", "lift_file", "example", "pipeline")


def __getattr__(name: str) -> object:
    # Importing PyTorch takes seconds, and `stateport --help` should not: so on first use.
    from importlib import import_module

    for module in _MODULES if name in __all__ else ():
        found = vars(import_module(f".{module}", __name__))
        if name in found:
            return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

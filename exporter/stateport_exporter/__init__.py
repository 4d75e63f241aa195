"""Export recurrent PyTorch networks to ONNX, with their state as explicit inputs and outputs.

>>> from stateport_exporter import Spec, export
>>> spec = (Spec("float32", "batch", "time", 5), Spec("float32", 1, "batch", 10), ...)
>>> result = export(module, spec, "model.onnx")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import ExportError
    from .example import Spec
    from .pipeline import Result, export
    from .variants import Quantized, quantize

__version__ = "0.1.0"

__all__ = ["ExportError", "Quantized", "Result", "Spec", "export", "quantize"]


def __getattr__(name: str) -> object:
    # Importing PyTorch takes seconds, and `stateport --help` should not: so on first use.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import errors, variants

    if name in vars(errors) or name in vars(variants):
        return vars(errors).get(name) or vars(variants)[name]
    from . import example, pipeline

    return vars(example).get(name) or vars(pipeline)[name]

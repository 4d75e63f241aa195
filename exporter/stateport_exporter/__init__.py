# SPDX-License-Identifier: Apache-2.0
"""Export recurrent PyTorch networks to ONNX, with their state as explicit inputs and outputs.

>>> from stateport_exporter import Spec, export
>>> spec = (Spec("float32", "batch", "time", 5), Spec("float32", 1, "batch", 10), ...)
>>> result = export(module, spec, "model.onnx")
"""

from typing import TYPE_CHECKING

from stateport._lazy import on_first_use as _on_first_use

if TYPE_CHECKING:
    from .contract_file import ContractResult, add_contract
    from .emit_file import EmitResult, emit_c
    from .errors import ExportError
    from .export_module import ExportResult, export
    from .foreign.lifted_file import LiftResult
    from .foreign.states import LiftedOperator
    from .lift_file import lift
    from .network.example import Spec
    from .quantize_file import QuantizeResult, quantize
    from .states.possible import PossibleState
    from .variants.quantization import QuantizedOperator

__version__ = "0.1.0"

__all__ = [
    "ContractResult",
    "EmitResult",
    "ExportError",
    "ExportResult",
    "LiftResult",
    "LiftedOperator",
    "PossibleState",
    "QuantizeResult",
    "QuantizedOperator",
    "Spec",
    "add_contract",
    "emit_c",
    "export",
    "lift",
    "quantize",
]

# Importing PyTorch takes seconds, and `stateport --help` should not: so all comes on first use.
# The last of these modules import PyTorch.
__getattr__, __dir__ = _on_first_use(
    __name__,
    __all__,
    (
        "errors",
        "variants.quantization",
        "foreign.states",
        "quantize_file",
        "emit_file",
        "lift_file",
        "contract_file",
        "states.possible",
        "network.example",
        "export_module",
    ),
)

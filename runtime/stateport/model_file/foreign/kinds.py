# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs of foreign files that no array of NumPy holds."""

from __future__ import annotations

from typing import Final

from ...contract import DTYPES, ArraySpec
from ...errors import ContractError
from ...shown import shown
from ..onnx_outline import OnnxFile

#: Dtypes of ONNX that NumPy lacks, and whose values float32 holds too.
WITHIN_FLOAT32: Final = frozenset(
    {"bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"}
)
_NUMBERS: Final = (
    "Make it an array of bool, of integers of 8 bits or more, or of floats of 16 or more,"
)
_REMEDIES: Final = {
    "string": "Cut the graph behind the part that turns text into numbers",
    "sequence": "Stack the arrays into one, or give each one a name of its own,",
    "map": "Give its values as an array",
    "optional": "Make it an input or output that is always there",
}


def check_kinds(file: OnnxFile) -> None:
    """Refuses a file with an input or output that is no array of numbers or truth values.

    Raises:
        ContractError: there is one. The message names it.
    """
    for verb, specs in (("takes", file.inputs), ("gives", file.outputs)):
        for spec in specs:
            if spec.dtype not in DTYPES:
                raise ContractError(
                    f"{file.path} {verb} {shown(spec.name)} as {spec.dtype}; an array of numbers "
                    f"or truth values was expected. {_remedy(spec)}"
                )


def _remedy(spec: ArraySpec) -> str:
    if spec.dtype in WITHIN_FLOAT32:
        return (
            "NumPy has no such dtype. `stateport contract IN.onnx -o OUT.onnx` writes a copy with "
            "float32 in its place; so does `stateport lift`, which is for hidden states."
        )

    change = _REMEDIES.get(spec.dtype, _NUMBERS)
    return f"{change} in the program that wrote the file, and write the file again."

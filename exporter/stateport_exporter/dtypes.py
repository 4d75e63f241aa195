# SPDX-License-Identifier: Apache-2.0
"""The words for the form of an exported file. The command and the function take the same."""

from typing import Final

#: Each word that `dtype` takes, with the name that the file notes.
DTYPES: Final = {
    "float32": "float32",
    "float16": "float16",
    "fp32": "float32",
    "fp16": "float16",
}

#: The parts of a contract that `keep_float32` takes.
KINDS: Final = ("inputs", "outputs", "states")

#: The words that `operators` takes: ONNX's own alone, or ONNX Runtime's where it has better ones.
OPERATORS: Final = ("onnx", "native")

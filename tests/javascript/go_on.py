# SPDX-License-Identifier: Apache-2.0
"""The last part of a stream that went from Python to Node and came back.

python -m tests.javascript.go_on MODEL STATE INPUTS ANSWERS
"""

from __future__ import annotations

import sys
from pathlib import Path

import safetensors.numpy

import stateport
from stateport import State


def main(path: Path, state: Path, inputs: Path, answers: Path) -> None:
    """Continues a stream from a state that Node saved, and writes its answers."""
    stream = stateport.load(path).stream()
    stream.restore(State.load(state))
    outputs = stream.run(safetensors.numpy.load_file(inputs))
    safetensors.numpy.save_file(outputs, answers)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

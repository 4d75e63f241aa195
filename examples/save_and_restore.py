# SPDX-License-Identifier: Apache-2.0
"""Stops in the middle of a sequence and goes on in another process, from a saved state.

Needs: stateport[cpu] (see README.md), and lstm.onnx from export_lstm.py
Run:   python save_and_restore.py
"""

import subprocess
import sys

import numpy as np

import stateport

SEQUENCE = np.random.default_rng(0).standard_normal((1, 200, 5)).astype(np.float32)


def first_half() -> None:
    """Feeds 120 steps, and saves the state."""
    stream = stateport.load("lstm.onnx").stream()
    stream(SEQUENCE[:, :120])
    stream.state.save("state.safetensors")
    print("saved", stream.state)


def second_half() -> None:
    """Restores the state, feeds the rest, and compares with the whole sequence."""
    model = stateport.load("lstm.onnx")
    stream = model.stream()
    stream.restore(stateport.State.load("state.safetensors"))
    rest = stream(SEQUENCE[:, 120:])

    whole, _ = model(SEQUENCE)
    difference = np.abs(rest - whole[:, 120:]).max()
    print(f"restored; the rest differs by {difference:.1e}")
    if difference > 1e-5:
        raise SystemExit("The restored stream does not go on where the saved one ended.")


if __name__ == "__main__":
    if sys.argv[1:] == ["second half"]:
        second_half()
    else:
        first_half()
        subprocess.run([sys.executable, __file__, "second half"], check=True)

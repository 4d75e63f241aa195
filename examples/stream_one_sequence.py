# SPDX-License-Identifier: Apache-2.0
"""Feeds one long sequence in chunks, as they come from a sensor or a microphone.

Needs: stateport[cpu] (see README.md), and lstm.onnx from export_lstm.py
Run:   python stream_one_sequence.py
"""

from collections.abc import Iterator

import numpy as np

import stateport


def chunks(sequence: np.ndarray) -> Iterator[np.ndarray]:
    """The sequence in chunks of any length, as a source would give it."""
    start = 0
    for length in (1, 7, 160, 32, 3, 160, 137):
        yield sequence[:, start : start + length]
        start += length


def main() -> None:
    """Compares the chunks' outputs with those of the whole sequence."""
    model = stateport.load("lstm.onnx")
    sequence = np.random.default_rng(0).standard_normal((1, 500, 5)).astype(np.float32)

    stream = model.stream()  # carries the state from chunk to chunk
    outputs = []
    for chunk in chunks(sequence):
        output = stream(chunk)
        print("chunk", chunk.shape, "-> output", output.shape)
        outputs.append(output)

    whole, _ = model(sequence)
    difference = np.abs(np.concatenate(outputs, axis=1) - whole).max()
    print(f"chunks and whole differ by {difference:.1e}")
    if difference > 1e-5:
        raise SystemExit("The chunks do not give what the whole sequence gives.")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Runs many live sequences in one batch: clients come and go, and send when they like.

Needs: stateport[cpu] (see README.md), and lstm.onnx from export_lstm.py
Run:   python many_streams.py
"""

import numpy as np

import stateport


def main() -> None:
    """Steps a pool of 100 streams, of which some close and others open."""
    random = np.random.default_rng(0)
    model = stateport.load("lstm.onnx")
    pool = model.pool(capacity=200)
    streams = list(pool.open(100))

    for tick in range(20):
        # About half of the clients have sent a chunk of one step.
        ready = [stream for stream in streams if random.random() < 0.5]
        x = random.standard_normal((len(ready), 1, 5)).astype(np.float32)
        outputs = pool.step(ready, x)  # one call of the engine, one row for each stream
        print(f"tick {tick}: {len(ready)} of {len(pool)} streams, output {outputs.shape}")

        # One client leaves, and another one comes. It starts from the zero state.
        pool.close(streams.pop(0))
        streams.append(pool.open())

    # Chunks of several lengths: a list, with one array for each stream and no batch axis.
    xs = [np.zeros((length, 5), np.float32) for length in (1, 4, 1)]
    outputs = pool.step(streams[:3], xs)
    print("lengths:", [len(output) for output in outputs])


if __name__ == "__main__":
    main()

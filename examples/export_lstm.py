# SPDX-License-Identifier: Apache-2.0
"""Exports an LSTM and looks at what was written. The other examples run its file.

Needs: stateport-exporter and stateport[cpu] (see README.md)
Run:   python export_lstm.py
"""

from torch import nn

from stateport_exporter import Spec, export


def main() -> None:
    """Writes lstm.onnx and, beside it, PyTorch's recorded answers."""
    lstm = nn.LSTM(input_size=5, hidden_size=10, batch_first=True)

    # What `forward` takes: x, and the pair (h0, c0). Names are dynamic axes, numbers are fixed.
    x = Spec("float32", "batch", "time", 5)
    state = Spec("float32", 1, "batch", 10)
    result = export(lstm, (x, (state, state)), "lstm.onnx")

    print("wrote", result.path, "and", result.vectors)
    for array in (*result.contract.inputs, *result.contract.outputs, *result.contract.states):
        print(array)
    print("streams:", result.contract.streaming.ok)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""LitServe with the same network, batched by its own means: `python lit.py MODEL PORT THREADS`.

It runs in an environment of its own, with requirements.txt.
"""

# No annotations as texts here: LitServe reads those of decode_request.

import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort


class Streams(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """Steps the streams of a batch in one call of the engine, with a dict of states."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Loads the model in the worker's process."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[3])
        providers = ["CPUExecutionProvider"]
        self.session = ort.InferenceSession(sys.argv[1], options, providers=providers)
        shape = next(each.shape for each in self.session.get_inputs() if each.name == "h0")
        self.zeros = np.zeros((shape[0], 1, shape[2]), np.float32)
        self.states: dict[int, tuple[Any, Any]] = {}

    def decode_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """The chunk as an array."""
        return {**request, "x": np.array(request["x"], np.float32)}

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Leaves the batch as it is: `predict` joins the arrays."""
        return inputs

    def predict(self, batch: list[dict[str, Any]]) -> list[Any]:
        """Steps all streams of a batch."""
        start = (self.zeros, self.zeros)
        pairs = [self.states.get(each["stream"], start) for each in batch]
        h, c = (np.concatenate([pair[i] for pair in pairs], axis=1) for i in (0, 1))
        x = np.concatenate([each["x"] for each in batch])
        y, hn, cn = self.session.run(["y", "hn", "cn"], {"x": x, "h0": h, "c0": c})
        for row, each in enumerate(batch):
            if each["end"]:
                self.states.pop(each["stream"], None)
            else:
                self.states[each["stream"]] = hn[:, row : row + 1], cn[:, row : row + 1]
        return [y[row : row + 1] for row in range(len(batch))]

    def unbatch(self, output: list[Any]) -> list[Any]:
        """The answers are single ones already."""
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The answer as lists."""
        return {"y": output.tolist()}


if __name__ == "__main__":
    api = Streams(max_batch_size=256, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False
    )

# SPDX-License-Identifier: Apache-2.0
"""A small HTTP service that keeps a stream for each client. It has no PyTorch.

POST /CLIENT takes a chunk, a JSON list of steps of five numbers, and answers with the outputs.
DELETE /CLIENT ends the client's sequence.

Needs: stateport[cpu] (see README.md), and lstm.onnx from export_lstm.py
Run:   python service.py, or python service.py PORT
Try:   curl --data '[[0, 0, 0, 0, 0]]' http://127.0.0.1:8000/anna
       curl --request DELETE http://127.0.0.1:8000/anna
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np

import stateport

MOST_BYTES, MOST_CLIENTS = 1_000_000, 1_000
MODEL = stateport.load("lstm.onnx")
STREAMS: dict[str, stateport.Stream] = {}


class Handler(BaseHTTPRequestHandler):
    """One request; the server takes them one by one, so a stream has one caller at a time."""

    def do_POST(self) -> None:
        """Feeds a chunk to the client's stream."""
        if self.path not in STREAMS and len(STREAMS) == MOST_CLIENTS:
            return self.answer(503, {"error": "There are too many clients."})
        try:
            length = int(self.headers["Content-Length"])
            if not 0 < length <= MOST_BYTES:
                raise ValueError(f"A body of 1 to {MOST_BYTES} bytes was expected.")
            chunk = np.array(json.loads(self.rfile.read(length)), np.float32)
            if not np.isfinite(chunk).all():
                raise ValueError("Every number must be finite.")
            stream = STREAMS.get(self.path) or MODEL.stream()
            outputs = stream(chunk[None])  # a batch of one
        except (TypeError, ValueError) as error:  # stateport.InputError is a ValueError
            return self.answer(400, {"error": str(error)})
        STREAMS[self.path] = stream
        return self.answer(200, {"outputs": outputs[0].tolist()})

    def do_DELETE(self) -> None:
        """Ends the client's sequence."""
        ended = STREAMS.pop(self.path, None)
        self.answer(200 if ended else 404, {"ended": ended is not None})

    def answer(self, status: int, content: object) -> None:
        """Sends JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int([*sys.argv, "8000"][1])), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()

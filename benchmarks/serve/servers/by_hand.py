# SPDX-License-Identifier: Apache-2.0
"""A FastAPI service written by hand: `session.run` and a dict of states.

    python by_hand.py MODEL PORT THREADS

It takes chunks as bytes, in the event loop, and as JSON, in FastAPI's threads.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

OPTIONS = ort.SessionOptions()
OPTIONS.intra_op_num_threads = int(sys.argv[3])
SESSION = ort.InferenceSession(sys.argv[1], OPTIONS, providers=["CPUExecutionProvider"])
LAYERS, _, HIDDEN = next(each.shape for each in SESSION.get_inputs() if each.name == "h0")
STATES: dict[int, tuple[Any, Any]] = {}

service = FastAPI()


class Chunk(BaseModel):
    """Steps of one stream, (1, time, input)."""

    x: list[list[list[float]]]


def advance(stream: int, x: Any) -> Any:
    """Steps a stream."""
    zeros = np.zeros((LAYERS, 1, HIDDEN), np.float32)
    h, c = STATES.get(stream, (zeros, zeros))
    y, hn, cn = SESSION.run(["y", "hn", "cn"], {"x": x, "h0": h, "c0": c})
    STATES[stream] = hn, cn
    return y


if sys.argv[4:] == ["json"]:

    @service.post("/streams/{stream}")
    def step_json(stream: int, chunk: Chunk) -> dict[str, Any]:
        """Takes JSON."""
        return {"y": advance(stream, np.array(chunk.x, np.float32)).tolist()}

else:

    @service.post("/streams/{stream}")
    async def step_bytes(stream: int, request: Request) -> Response:
        """Takes bytes: one step."""
        x = np.frombuffer(await request.body(), np.float32).reshape(1, 1, -1)
        return Response(advance(stream, x).tobytes(), media_type="application/octet-stream")


@service.delete("/streams/{stream}")
async def end(stream: int) -> dict[str, bool]:
    """Ends a stream."""
    return {"ended": STATES.pop(stream, None) is not None}


if __name__ == "__main__":
    uvicorn.run(service, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")

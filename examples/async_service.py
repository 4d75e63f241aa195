# SPDX-License-Identifier: Apache-2.0
"""A FastAPI service of one's own form, whose requests share batches: stateport.AsyncPool.

Needs: stateport[cpu], fastapi and uvicorn, and lstm.onnx from export_lstm.py
Run:   python async_service.py, or python async_service.py PORT
Try:   curl --request POST http://127.0.0.1:8000/streams
       curl --json '[[0, 0, 0, 0, 0]]' http://127.0.0.1:8000/streams/0
       curl --request DELETE http://127.0.0.1:8000/streams/0
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

import stateport

POOL = stateport.AsyncPool(stateport.load("lstm.onnx"), capacity=1000)


@asynccontextmanager
async def running(_: FastAPI) -> AsyncIterator[None]:
    """Ends the pool with the service."""
    async with POOL:
        yield


service = FastAPI(lifespan=running)


@service.exception_handler(ValueError)  # stateport.InputError is one
async def refuse(_: Request, error: Exception) -> JSONResponse:
    """An unknown stream, or a chunk that does not fit; the message says what was expected."""
    return JSONResponse({"error": str(error)}, 400)


@service.post("/streams")
async def open_stream() -> dict[str, int]:
    """Opens a stream."""
    return {"stream": await POOL.open()}


@service.post("/streams/{stream}")
async def step(stream: int, chunk: list[list[float]]) -> list[list[float]]:
    """Feeds a chunk, a list of steps. Chunks that arrive together run as one batch."""
    x = np.array(chunk, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("Every number must be finite.")
    y: list[list[float]] = (await POOL.step(stream, x)).tolist()
    return y


@service.delete("/streams/{stream}")
async def close_stream(stream: int) -> None:
    """Ends a stream."""
    await POOL.close(stream)


if __name__ == "__main__":
    uvicorn.run(service, host="127.0.0.1", port=int([*sys.argv, "8000"][1]))

# SPDX-License-Identifier: Apache-2.0
"""A FastAPI service that has streams of its own under /models, beside its other addresses.

Needs: stateport[cpu,serve] and fastapi, and lstm.onnx from export_lstm.py
Run:   python mount_server.py, or python mount_server.py PORT
Try:   curl http://127.0.0.1:8000/models/v2/models/lstm
       curl http://127.0.0.1:8000/health
Any client of the open inference protocol can use http://127.0.0.1:8000/models.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

import stateport.serve

#: An ASGI application; its streams expire when they are not used for a minute.
STREAMS = stateport.serve.app("lstm.onnx", capacity=1000, idle=60)


@asynccontextmanager
async def running(_: FastAPI) -> AsyncIterator[None]:
    """Loads the models before the first request, and ends their streams at the end."""
    async with STREAMS:
        yield


service = FastAPI(lifespan=running)
service.mount("/models", STREAMS)


@service.get("/health")
async def health() -> dict[str, object]:
    """An address of the service's own."""
    return {"ready": await STREAMS.service.is_ready(), "streams": STREAMS.service.live_streams}


if __name__ == "__main__":
    uvicorn.run(service, host="127.0.0.1", port=int([*sys.argv, "8000"][1]))

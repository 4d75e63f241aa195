# SPDX-License-Identifier: Apache-2.0
"""A server process around `Service`, with lines of JSON in place of the real transports.

Its first line says the port that it listens on. It runs until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np

from stateport.serve.errors import ServeError
from stateport.serve.request import Request
from stateport.serve.service import Service


async def main(model: str, store: str, durability: str) -> None:
    service = Service({"lstm": model}, store=store, durability=durability)
    await service.start()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(await answer(service, json.loads(line))).encode() + b"\n")
            await writer.drain()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def answer(service: Service, question: dict[str, Any]) -> dict[str, Any]:
    x = np.array(question.pop("x"), np.float32)
    try:
        response = await service.infer(Request("lstm", {"x": x}, **question))
    except ServeError as error:
        return {"status": error.status.name, "message": str(error)}
    return {"y": response.outputs["y"].tolist()}


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

# SPDX-License-Identifier: Apache-2.0
"""How the load talks: over HTTP, a stream of gRPC, or a WebSocket."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

import grpc
import orjson
from tritonclient.grpc import service_pb2
from websockets.asyncio.client import ClientConnection, connect

from .wire import END, KINDS, Target, frame, message, plain_request, predict_request, rest_request

#: So many streams share one WebSocket, or one stream of gRPC.
_SHARING: Final = 32

Build = Callable[[Target, int, int], bytes]


class Talker(Protocol):
    """One way to talk to a server."""

    async def open(self, target: Target, streams: int) -> None:
        """Connects, and makes all requests."""

    async def step(self, number: int, kind: int) -> None:
        """Sends one request of one stream, and waits for its answer.

        Raises:
            RuntimeError: the answer is an error.
        """

    async def end(self, number: int) -> None:
        """Ends a stream."""

    async def close(self) -> None:
        """Disconnects."""


class _HttpConnection(asyncio.Protocol):
    """One connection that is kept: a request, and its answer by Content-Length."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class

    def ask(self, request: bytes) -> asyncio.Future[None]:
        assert self._transport is not None
        self.answer = self._loop.create_future()
        self._transport.write(request)
        return self.answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._buffer[:head].lower().find(b"content-length:")
        assert start >= 0, bytes(self._buffer[:head])
        length = int(self._buffer[start + 15 : head].split(b"\r\n")[0])
        if len(self._buffer) < head + 4 + length:
            return
        answer, self._buffer = self._buffer, bytearray()
        assert self.answer is not None
        if bytes(answer[9:12]) in (b"200", b"204"):
            self.answer.set_result(None)
        else:
            self.answer.set_exception(RuntimeError(bytes(answer[:1000]).decode("latin-1")))

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(RuntimeError(f"the connection was lost: {error}"))


class HttpTalker:
    """A connection for each stream."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._connections: list[_HttpConnection] = []
        self._requests: list[list[bytes]] = []

    async def open(self, target: Target, streams: int) -> None:
        """Connects, and makes all requests."""
        host, _, port = target.address.rpartition(":")
        loop = asyncio.get_running_loop()
        for number in range(streams):
            self._requests.append([self._build(target, number, kind) for kind in KINDS])
            _, connection = await loop.create_connection(_HttpConnection, host, int(port))
            self._connections.append(connection)

    async def step(self, number: int, kind: int) -> None:
        """Sends one request, and waits for its answer."""
        await self._connections[number].ask(self._requests[number][kind])

    async def end(self, number: int) -> None:
        """Ends a stream."""
        await self.step(number, END)

    async def close(self) -> None:
        """Disconnects."""
        for connection in self._connections:
            connection.close()


class _Shared:
    """Answers that come over shared connections, by the number of their stream."""

    def __init__(self) -> None:
        self._awaited: dict[int, asyncio.Future[None]] = {}

    def expect(self, number: int) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited[number] = answer
        return answer

    def arrived(self, number: int, error: str) -> None:
        answer = self._awaited.pop(number)
        if answer.done():
            return  # its waiter has given up
        if error:
            answer.set_exception(RuntimeError(error))
        else:
            answer.set_result(None)

    def failed(self, error: str) -> None:
        for number in [*self._awaited]:
            self.arrived(number, error)


class GrpcTalker:
    """Streams of gRPC, each with some sequences on it."""

    def __init__(self) -> None:
        self._answers = _Shared()
        self._calls: list[Any] = []
        self._locks: list[asyncio.Lock] = []
        self._readers: list[asyncio.Task[None]] = []
        self._requests: list[list[bytes]] = []
        self._channel: Any = None

    async def open(self, target: Target, streams: int) -> None:
        """Connects, and makes all requests."""
        self._channel = grpc.aio.insecure_channel(target.address)
        method = self._channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        for number in range(streams):
            self._requests.append([message(target, number, kind) for kind in KINDS])
        for _ in range(0, streams, _SHARING):
            call = method()
            self._calls.append(call)
            self._locks.append(asyncio.Lock())  # one message is written at a time
            self._readers.append(asyncio.create_task(self._read(call)))

    async def step(self, number: int, kind: int) -> None:
        """Sends one request, and waits for its answer."""
        answer = self._answers.expect(number)
        place = number // _SHARING
        async with self._locks[place]:
            await self._calls[place].write(self._requests[number][kind])
        await answer

    async def end(self, number: int) -> None:
        """Ends a stream."""
        await self.step(number, END)

    async def close(self) -> None:
        """Disconnects."""
        for call in self._calls:
            await call.done_writing()
        await asyncio.gather(*self._readers)
        await self._channel.close()

    async def _read(self, call: Any) -> None:
        try:
            async for response in call:
                if response.error_message:
                    self._answers.failed(response.error_message)
                else:
                    self._answers.arrived(int(response.infer_response.id), "")
        except grpc.RpcError as error:
            self._answers.failed(str(error))


class SocketTalker:
    """WebSockets, each with some streams on it."""

    def __init__(self) -> None:
        self._answers = _Shared()
        self._sockets: list[ClientConnection] = []
        self._readers: list[asyncio.Task[None]] = []
        self._requests: list[list[bytes]] = []

    async def open(self, target: Target, streams: int) -> None:
        """Connects, and makes all requests."""
        for number in range(streams):
            self._requests.append([frame(target, number, kind) for kind in KINDS])
        address = f"ws://{target.address}/v2/models/{target.model}/stream"
        for _ in range(0, streams, _SHARING):
            socket = await connect(address, compression=None, max_size=None, proxy=None)
            self._sockets.append(socket)
            self._readers.append(asyncio.create_task(self._read(socket)))

    async def step(self, number: int, kind: int) -> None:
        """Sends one request, and waits for its answer."""
        answer = self._answers.expect(number)
        await self._sockets[number // _SHARING].send(self._requests[number][kind])
        await answer

    async def end(self, number: int) -> None:
        """Ends a stream."""
        await self.step(number, END)

    async def close(self) -> None:
        """Disconnects."""
        for socket in self._sockets:
            await socket.close()
        await asyncio.gather(*self._readers)

    async def _read(self, socket: ClientConnection) -> None:
        async for data in socket:
            assert isinstance(data, bytes)
            (length,) = struct.unpack_from("<I", data)
            header = orjson.loads(data[4 : 4 + length])
            number = header["parameters"]["sequence_id"] - 1
            self._answers.arrived(number, header.get("error", ""))


TALKERS: Final[Mapping[str, Callable[[], Talker]]] = {
    "plain": lambda: HttpTalker(plain_request),
    "plain, JSON": lambda: HttpTalker(plain_request),
    "LitServe, JSON": lambda: HttpTalker(predict_request),
    "REST": lambda: HttpTalker(rest_request),
    "REST, JSON": lambda: HttpTalker(rest_request),
    "gRPC stream": GrpcTalker,
    "WebSocket": SocketTalker,
}

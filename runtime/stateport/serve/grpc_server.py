# SPDX-License-Identifier: Apache-2.0
"""`inference.GRPCInferenceService`: the gRPC form of the open inference protocol.

Source: grpc_service.proto in https://github.com/triton-inference-server/common, and for errors
inside of a stream Triton's docs/customization_guide and docs/protocol/extension_sequence.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from string import punctuation
from typing import Any, Final, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from ..errors import FileError, in_words
from .calls import call, log_refusal, unexpected
from .errors import ServeError, Status
from .limits import Limits, Window
from .metadata import Catalogue
from .request import Request
from .service import Service
from .tokens import Tokens
from .unsupported import (
    NO_LOG_SETTINGS,
    NO_REPOSITORY,
    NO_SHARED_MEMORY,
    NO_TRACE_SETTINGS,
    unsupported,
)
from .wire import open_inference as messages
from .wire.grpc_messages import read_request, write_response

SERVICE: Final = "inference.GRPCInferenceService"
#: Calls of all connections that run at once. Beyond it, gRPC answers RESOURCE_EXHAUSTED.
_MOST_CALLS: Final = 16_384
#: The signs that a status has on the wire as they are, beside letters and digits.
_PLAIN: Final = punctuation.replace("%", " ")
#: The longest text of a status in bytes on the wire. Clients take 8 KiB of trailers, and answer
#: RESOURCE_EXHAUSTED in place of the status if there is more.
_LONGEST_STATUS: Final = 4096
#: What the server does not have, by the name of the call.
_UNSUPPORTED: Final = {
    "RepositoryIndex": NO_REPOSITORY,
    "RepositoryModelLoad": NO_REPOSITORY,
    "RepositoryModelUnload": NO_REPOSITORY,
    "SystemSharedMemoryStatus": NO_SHARED_MEMORY,
    "SystemSharedMemoryRegister": NO_SHARED_MEMORY,
    "SystemSharedMemoryUnregister": NO_SHARED_MEMORY,
    "CudaSharedMemoryStatus": NO_SHARED_MEMORY,
    "CudaSharedMemoryRegister": NO_SHARED_MEMORY,
    "CudaSharedMemoryUnregister": NO_SHARED_MEMORY,
    "TraceSetting": NO_TRACE_SETTINGS,
    "LogSettings": NO_LOG_SETTINGS,
}

Context = Any  # grpc.aio.ServicerContext, which is generic only in its stubs
Answer = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True)
class Certificates:
    """The files for TLS.

    Attributes:
        certificate: the server's certificate, and those that lead to a known one, in PEM.
        key: its private key, in PEM.
        client_authority: the certificate that has to have signed those of clients; None: clients
            need no certificate.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None


class GrpcServer:
    """The gRPC server, on the running event loop."""

    def __init__(self, catalogue: Catalogue, tokens: Tokens, limits: Limits) -> None:
        self._catalogue = catalogue
        self._service = catalogue.service
        self._tokens = tokens
        self._limits = limits
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error
                ("grpc.keepalive_time_ms", int(limits.idle_seconds * 1000)),
                ("grpc.keepalive_timeout_ms", int(limits.write_seconds * 1000)),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ],
            maximum_concurrent_rpcs=_MOST_CALLS,
        )
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, self._handlers())]
        )

    def bind(self, host: str, port: int, certificates: Certificates | None) -> int:
        """Takes a port. Returns it, which is a free one for port 0.

        Raises:
            FileError: the port is taken, or a certificate cannot be read.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if certificates is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, _credentials(certificates)))
        except (RuntimeError, OSError) as error:
            raise FileError(
                f"gRPC cannot listen on {address}: {in_words(error)}. End the program that has the "
                "port, or pass another --grpc."
            ) from error

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and waits for those that run, `grace` seconds at most."""
        await self._server.stop(grace)

    def _handlers(self) -> dict[str, Any]:
        calls: dict[str, tuple[Any, Answer]] = {
            "ServerMetadata": (messages.ServerMetadataRequest, self._server_metadata),
            "ModelReady": (messages.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (messages.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": (messages.ModelConfigRequest, self._model_config),
            "ModelStatistics": (messages.ModelStatisticsRequest, self._model_statistics),
        }
        handlers: dict[str, Any] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream_infer),
        }
        for name, (kind, answer) in calls.items():
            handlers[name] = grpc.unary_unary_rpc_method_handler(self._answering(kind, answer))

        # Whoever asks these does so before it has a token: load balancers, and people.
        public: dict[str, tuple[Any, Answer]] = {
            "ServerLive": (messages.ServerLiveRequest, self._server_live),
            "ServerReady": (messages.ServerReadyRequest, self._server_ready),
        }
        for name, (kind, answer) in public.items():
            handlers[name] = grpc.unary_unary_rpc_method_handler(
                self._answering(kind, answer, is_public=True)
            )
        for name, words in _UNSUPPORTED.items():
            refuse = _refusing(name, words)
            handlers[name] = grpc.unary_unary_rpc_method_handler(self._answering(None, refuse))
        return handlers

    def _answering(
        self, kind: Any, answer: Answer, *, is_public: bool = False
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """A handler that asks for a token, reads one message, and answers with one.

        Where `kind` is None, the message is of no matter.
        """

        async def handle(data: bytes, context: Context) -> bytes:
            try:
                if not is_public:
                    self._client_of(context)
                message = await answer(None if kind is None else _parsed(kind, data))
                return bytes(message.SerializeToString())
            except ServeError as error:
                log_refusal("grpc", error)
                await _abort(context, error)
            except Exception as error:
                await _abort(context, unexpected("grpc", error))

        return handle

    async def _server_live(self, request: Any) -> Any:  # noqa: ARG002
        return messages.ServerLiveResponse(live=self._service.is_live())

    async def _server_ready(self, request: Any) -> Any:  # noqa: ARG002
        return messages.ServerReadyResponse(ready=await self._service.is_ready())

    async def _server_metadata(self, request: Any) -> Any:  # noqa: ARG002
        return messages.ServerMetadataResponse(**self._catalogue.server())

    async def _model_ready(self, request: Any) -> Any:
        try:
            ready = await self._service.is_model_ready(request.name, request.version)
        except ServeError as error:
            if error.status is not Status.NOT_FOUND:
                raise
            ready = False  # clients ask this to find out whether there is such a model
        return messages.ModelReadyResponse(ready=ready)

    async def _model_metadata(self, request: Any) -> Any:
        document = self._catalogue.model(request.name, request.version)
        return messages.ModelMetadataResponse(**document)

    async def _model_config(self, request: Any) -> Any:
        document = self._catalogue.config(request.name, request.version)
        return messages.ModelConfigResponse(config=document)

    async def _model_statistics(self, request: Any) -> Any:
        document = self._catalogue.statistics(request.name, request.version)
        return messages.ModelStatisticsResponse(**document)

    def _client_of(self, context: Context) -> str:
        authorization = None
        if self._tokens.digests:
            for key, value in context.invocation_metadata() or ():
                if key == "authorization":
                    authorization = str(value)
        return self._tokens.client_of(authorization, _address_of(context.peer()))

    async def _infer(self, data: bytes, context: Context) -> bytes:
        request: Request | None = None
        try:
            client = self._client_of(context)
            request = read_request(_parsed(messages.ModelInferRequest, data), client)
            headers = context.invocation_metadata() or ()
            response = await call(self._service, "grpc", request, headers)
            message = messages.ModelInferResponse()
            write_response(response, message)
            return bytes(message.SerializeToString())
        except ServeError as error:
            if request is None:
                log_refusal("grpc", error)
            await _abort(context, error)
        except Exception as error:
            await _abort(context, unexpected("grpc", error, request))

    async def _stream_infer(self, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            client = self._client_of(context)
        except ServeError as error:
            log_refusal("grpc", error)
            await _abort(context, error)

        await Conversation(self._service, self._limits, client, context).run(requests)


class Conversation:
    """One call of `ModelStreamInfer`. Requests run at once, those of one stream in their order."""

    def __init__(self, service: Service, limits: Limits, client: str, context: Context) -> None:
        self._service = service
        self._limits = limits
        self._client = client
        self._context = context
        self._headers = context.invocation_metadata() or ()
        #: Whether an error ends the call with a status, instead of being an answer.
        self._wants_status = ("triton_grpc_error", "true") in [(k, v) for k, v in self._headers]
        #: Answers, each with the size of its request; None after the last.
        self._answers: asyncio.Queue[tuple[bytes | ServeError, int] | None] = asyncio.Queue()
        self._running: set[asyncio.Task[None]] = set()
        self._window = Window(limits.max_body)
        #: How many answers are sent, and whether one is being sent.
        self._sent = 0
        self._is_sending = False

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Answers until the client has sent its last request and has every answer."""
        reader = asyncio.create_task(self._read(requests))
        watcher = asyncio.create_task(self._watch(asyncio.current_task()))
        try:
            await self._write()
        finally:
            reader.cancel()
            watcher.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        """Starts a task for each request. Tasks begin in the order of the requests."""
        try:
            async for data in requests:
                await self._window.enter(len(data))  # a client that only sends has to wait here
                task = asyncio.create_task(self._answer(data))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

            if self._running:
                await asyncio.wait(self._running)
        finally:
            self._answers.put_nowait(None)

    async def _answer(self, data: bytes) -> None:
        self._answers.put_nowait((await self._answer_to(data), len(data)))

    async def _answer_to(self, data: bytes) -> bytes | ServeError:
        message: Any = None
        request: Request | None = None
        try:
            message = _parsed(messages.ModelInferRequest, data)
            request = read_request(message, self._client)
            response = await call(self._service, "grpc", request, self._headers)
            answer = messages.ModelStreamInferResponse()
            write_response(response, answer.infer_response)
            return bytes(answer.SerializeToString())
        except ServeError as error:
            if request is None:
                log_refusal("grpc", error)
            return self._refusal(error, message)
        except Exception as error:
            return self._refusal(unexpected("grpc", error, request), message)

    def _refusal(self, error: ServeError, message: Any) -> bytes | ServeError:
        """An error as an answer of the stream, or as the end of the call."""
        if self._wants_status:
            return error

        answer = messages.ModelStreamInferResponse(error_message=str(error))
        if message is not None:
            answer.infer_response.id = message.id
            answer.infer_response.model_name = message.model_name
        return bytes(answer.SerializeToString())

    async def _write(self) -> None:
        """Sends the answers."""
        while (entry := await self._answers.get()) is not None:
            answer, size = entry
            if isinstance(answer, ServeError):
                await _abort(self._context, answer)

            self._is_sending = True
            await self._context.write(answer)
            self._is_sending = False
            self._sent += 1
            self._window.leave(size)

    async def _watch(self, writer: asyncio.Task[Any] | None) -> None:
        """Cuts off a client that leaves answers unread for one to two times as long as it may.

        A timer for each answer would take longer.
        """
        sent_before = -1
        while not self._is_sending or self._sent != sent_before:
            sent_before = self._sent if self._is_sending else -1
            await asyncio.sleep(self._limits.write_seconds)

        self._log_unread()
        # A status would wait behind the answers. A call that ends without one is reset.
        if writer is not None:
            writer.cancel()

    def _log_unread(self) -> None:
        error = ServeError(
            Status.SLOW,
            f"The client left answers unread for {self._limits.write_seconds:g} seconds. Read them "
            "while you send.",
        )
        log_refusal("grpc", error)


def _refusing(name: str, words: str) -> Answer:
    """The answer to a call of what this server does not have."""

    async def refuse(request: Any) -> Any:  # noqa: ARG001
        raise unsupported(name, words)

    return refuse


def _parsed(kind: Any, data: bytes) -> Any:
    """The message in these bytes."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ServeError(
            Status.INVALID,
            f"The message is not a {kind.DESCRIPTOR.name}: {in_words(error)}. Send one, as "
            "grpc_service.proto of the protocol describes it.",
        ) from error


async def _abort(context: Context, error: ServeError) -> NoReturn:
    """Ends the call with the status of an error, and says when to come back."""
    trailers: tuple[tuple[str, str], ...] = ()
    if error.retry_after is not None:
        # Source of the key: gRPC's proposal A6, "Server pushback".
        milliseconds = max(1, round(error.retry_after * 1000))
        trailers = (("grpc-retry-pushback-ms", str(milliseconds)),)

    await context.abort(grpc.StatusCode[error.status.grpc], status_text(str(error)), trailers)
    raise AssertionError  # abort has raised


def status_text(text: str) -> str:
    """The text of a status, with the middle of a long one left out.

    Each byte outside of ASCII's letters and signs takes three on the wire. Source: "Status-Message"
    in https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
    """
    short, half = text, _LONGEST_STATUS
    while len(quote(short, safe=_PLAIN)) > _LONGEST_STATUS:
        half //= 2
        short = f"{text[:half]} ... {text[-half:]}"
    return short


def _address_of(peer: str) -> str:
    """The address in gRPC's text for a peer: "ipv4:127.0.0.1:4711", "ipv6:%5B::1%5D:4711"."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0] if kind in ("ipv4", "ipv6") else peer


def _credentials(certificates: Certificates) -> Any:
    authority = certificates.client_authority
    return grpc.ssl_server_credentials(
        [(certificates.key.read_bytes(), certificates.certificate.read_bytes())],
        root_certificates=None if authority is None else authority.read_bytes(),
        require_client_auth=authority is not None,
    )

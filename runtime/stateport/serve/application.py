# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: REST, the WebSocket, metrics and the description, under one root."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .calls import log_refusal, unexpected
from .errors import ServeError
from .http_messages import (
    Receive,
    Scope,
    Send,
    error_body,
    error_headers,
    send_answer,
)
from .limits import Limits
from .metadata import Catalogue
from .metrics import CONTENT_TYPE, Metrics
from .openapi import description
from .rest import InferEndpoint, client_of
from .service import Service
from .tokens import Tokens
from .unsupported import ADDRESSES, unsupported
from .websocket import Conversation

_MODEL: Final = r"/v2/models/([^/]+)(?:/versions/([^/]+))?"
_INFER: Final = re.compile(_MODEL + "/infer")
_STREAM: Final = re.compile(_MODEL + "/stream")
#: A subprotocol of this form is a token: browsers cannot send other headers.
_BEARER: Final = "bearer."
_SUBPROTOCOL: Final = "stateport"

_Handler = Callable[[Request], Awaitable[Response]]


class Application:
    """An ASGI application that serves models.

    It starts its service with the server's lifespan. Mounted in another application, which does not
    pass the lifespan on, it starts with the first request; `start` and `stop`, or `async with`, do
    it at another time.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        metrics: Metrics,
        *,
        tokens: Tokens,
        limits: Limits,
        origins: tuple[str, ...] = (),
    ) -> None:
        self.service: Service = catalogue.service
        self._catalogue = catalogue
        self._metrics = metrics
        self._tokens = tokens
        self._limits = limits
        self._origins = frozenset(origins)

        self._infer = InferEndpoint(self.service, tokens, limits)
        self._rest = self._routes()
        self._starting = asyncio.Lock()
        self._is_started = False
        self._is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one connection of ASGI."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(receive, send)
            return
        if not (self._is_started or self._is_stopping):
            await self.start()

        path = _path_of(scope)
        if kind == "websocket":
            await self._open_socket(scope, receive, send, path)
            return

        match = _INFER.fullmatch(path)
        if match is not None and scope["method"] == "POST":
            await self._infer.answer(scope, receive, send, match[1], match[2] or "")
        else:
            await self._rest(scope, receive, send)

    async def start(self) -> None:
        """Loads the models, unless that is done. What was stopped is not started again.

        Raises:
            StateportError: a model cannot be loaded, or the store cannot be used.
        """
        async with self._starting:
            if not (self._is_started or self._is_stopping):
                await self.service.start()
                self._is_started = True

    async def stop(self, grace: float = 10.0) -> None:
        """Takes no new streams, lets what runs end for at most `grace` seconds, and ends."""
        async with self._starting:
            is_running = self._is_started and not self._is_stopping
            self._is_stopping = True  # requests of streams that run are still answered
        if is_running:
            await self.service.stop(grace)

    async def __aenter__(self) -> Application:
        """Starts the service."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the service."""
        await self.stop()

    async def _live(self, receive: Receive, send: Send) -> None:
        """The server's lifespan."""
        await receive()
        try:
            await self.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})

        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _routes(self) -> Starlette:
        model = "/v2/models/{model}"
        versioned = model + "/versions/{version}"
        routes = [
            Route("/v2", self._answering(self._server)),
            Route("/v2/health/live", self._answering(self._live_probe, is_public=True)),
            Route("/v2/health/ready", self._answering(self._ready_probe, is_public=True)),
            Route("/v2/models/stats", self._answering(self._statistics)),
            Route("/metrics", self._answering(self._metrics_page)),
            Route("/openapi.json", self._answering(self._description)),
        ]
        for root in (model, versioned):
            routes += [
                Route(root, self._answering(self._model)),
                Route(root + "/ready", self._answering(self._model_probe)),
                Route(root + "/config", self._answering(self._config)),
                Route(root + "/stats", self._answering(self._statistics)),
                # Reached by other methods than POST alone.
                Route(root + "/infer", self._answering(self._server), methods=["POST"]),
            ]
        every_method = ["GET", "POST"]
        for address, words in ADDRESSES.items():
            routes.append(Route(address, self._refusing(words), methods=every_method))
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})

    def _answering(self, answer: _Handler, *, is_public: bool = False) -> _Handler:
        """An endpoint that asks for a token, and answers errors as the protocol has them."""

        async def handle(request: Request) -> Response:
            try:
                if not is_public:
                    client_of(self._tokens, request.scope, dict(request.scope["headers"]))
                return await answer(request)
            except ServeError as error:
                log_refusal("rest", error)
                return _error_response(error)
            except Exception as error:
                return _error_response(unexpected("rest", error))

        return handle

    def _refusing(self, words: str) -> _Handler:
        """An endpoint for what this server does not have."""

        async def refuse(request: Request) -> Response:
            raise unsupported(request.url.path, words)

        return self._answering(refuse)

    async def _server(self, request: Request) -> Response:  # noqa: ARG002
        return _json(self._catalogue.server())

    async def _live_probe(self, request: Request) -> Response:  # noqa: ARG002
        return _probe(self.service.is_live(), "live")

    async def _ready_probe(self, request: Request) -> Response:  # noqa: ARG002
        return _probe(await self.service.is_ready(), "ready")

    async def _model_probe(self, request: Request) -> Response:
        return _probe(await self.service.is_model_ready(*_model_and_version(request)), "ready")

    async def _model(self, request: Request) -> Response:
        return _json(self._catalogue.model(*_model_and_version(request)))

    async def _config(self, request: Request) -> Response:
        return _json(self._catalogue.config(*_model_and_version(request)))

    async def _statistics(self, request: Request) -> Response:
        return _json(self._catalogue.statistics(*_model_and_version(request)))

    async def _metrics_page(self, request: Request) -> Response:  # noqa: ARG002
        return Response(self._metrics.page(), media_type=CONTENT_TYPE)

    async def _description(self, request: Request) -> Response:
        models = sorted(self.service.models)
        return _json(description(models, root=request.scope.get("root_path", "")))

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Accepts a WebSocket, or refuses it with the status of the reason."""
        await receive()  # websocket.connect
        headers = dict(scope["headers"])
        offered = scope.get("subprotocols", [])
        try:
            match = _STREAM.fullmatch(path)
            if match is None or not self._is_known_origin(headers):
                await send({"type": "websocket.close", "code": 1008})
                return
            for protocol in offered:
                if protocol.startswith(_BEARER):
                    token = protocol.removeprefix(_BEARER)
                    headers[b"authorization"] = f"Bearer {token}".encode("latin-1")
            client = client_of(self._tokens, scope, headers)
            model, version = match[1], match[2] or ""
            self.service.find(model, version)
        except ServeError as error:
            log_refusal("websocket", error)
            await _refuse_socket(scope, send, error)
            return
        except Exception as error:
            await _refuse_socket(scope, send, unexpected("websocket", error))
            return

        accepted = _SUBPROTOCOL if _SUBPROTOCOL in offered else None
        await send({"type": "websocket.accept", "subprotocol": accepted})
        conversation = Conversation(
            self.service, model, version, client, receive, send, self._limits
        )
        await conversation.run()

    def _is_known_origin(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the page that opens a socket may do so.

        A browser lets any page open a socket to any server, also to one on the user's own machine,
        and says in a header which page it is. Other clients do not send the header.
        """
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or origin in self._origins or "*" in self._origins:
            return True
        try:
            address = urlsplit(origin).netloc
        except ValueError:  # no address at all
            return False
        return address == headers.get(b"host", b"").decode("latin-1")


def _path_of(scope: Scope) -> str:
    """The path below the root at which the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root):
        return path[len(root) :]
    return path


def _model_and_version(request: Request) -> tuple[str, str]:
    """The names of the model and the version in the address."""
    parameters = request.path_params
    return parameters.get("model", ""), parameters.get("version", "")


def _json(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, media_type="application/json")


def _probe(is_well: bool, key: str) -> Response:
    """The answer to a probe: 200 or 503, and the same in words."""
    return _json({key: is_well}, 200 if is_well else 503)


def _error_response(error: ServeError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error_headers(error)}
    return Response(error_body(error), error.status.http, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """The answer to an address or a method that there is not."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        words = f"{request.method} is not a method of this address. Send the one that it has."
    else:
        words = "There is nothing at this address. /openapi.json describes those that there are."
    return Response(
        orjson.dumps({"error": words}),
        error.status_code,
        error.headers,
        media_type="application/json",
    )


async def _refuse_socket(scope: Scope, send: Send, error: ServeError) -> None:
    """Refuses a socket with a status, or, where the server cannot send one, by closing it."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:100]})
        return

    async def as_response(message: Any) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_answer(as_response, error.status.http, error_body(error), error_headers(error))

# SPDX-License-Identifier: Apache-2.0
"""`POST .../infer` over HTTP, on the bare interface of ASGI: the way that has to be fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..shown import shown
from .calls import Infers, call, log_refusal, unexpected
from .errors import ServeError, Status
from .http_messages import Gone, Receive, Scope, Send, read_body, send_answer, send_error
from .limits import Limits
from .tokens import Tokens
from .wire.rest_messages import read_request, write_response

_HEADER_LENGTH: Final = b"inference-header-content-length"
_JSON: Final = (b"content-type", b"application/json")
_BINARY: Final = (b"content-type", b"application/octet-stream")


class InferEndpoint:
    """Answers inference requests over HTTP."""

    def __init__(self, service: Infers, tokens: Tokens, limits: Limits) -> None:
        self._service = service
        self._tokens = tokens
        self._limits = limits

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, model: str, version: str
    ) -> None:
        """Reads one request, calls the service, and sends the answer or the error."""
        try:
            await self._answer(scope, receive, send, model, version)
        except ServeError as error:
            await send_error(send, error)
        except Gone:
            return
        except Exception as error:
            await send_error(send, unexpected("rest", error))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, model: str, version: str
    ) -> None:
        headers = dict(scope["headers"])
        try:
            client = client_of(self._tokens, scope, headers)
            body = await read_body(receive, headers, self._limits)
            request, form = read_request(
                model, version, memoryview(body), _header_length(headers), client
            )
        except ServeError as error:
            log_refusal("rest", error)
            raise

        response = await call(self._service, "rest", request, scope["headers"])
        header, raw = write_response(response, form)
        if not raw:
            await send_answer(send, 200, header, (_JSON,))
            return
        length = (_HEADER_LENGTH, b"%d" % len(header))
        await send_answer(send, 200, b"".join([header, *raw]), (_BINARY, length))


def client_of(tokens: Tokens, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
    """The name of the client of an HTTP request.

    Raises:
        ServeError: tokens are asked for, and the request has none of them.
    """
    authorization = headers.get(b"authorization")
    text = None if authorization is None else authorization.decode("latin-1")
    return tokens.client_of(text, address_of(scope))


def address_of(scope: Scope) -> str:
    """The client's address, as far as the HTTP server knows it."""
    client = scope.get("client")
    return client[0] if client else ""


def _header_length(headers: Mapping[bytes, bytes]) -> int | None:
    """How many bytes of the body are JSON, if the client says so."""
    text = headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if text.isdigit() and len(text) < 16:
        return int(text)

    raise ServeError(
        Status.INVALID,
        f"Inference-Header-Content-Length is {shown(text.decode('latin-1'))}; a number of bytes "
        "was expected. Send the length of the JSON object at the start of the body.",
    )

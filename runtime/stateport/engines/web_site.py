# SPDX-License-Identifier: Apache-2.0
"""The server of `ort-web` on 127.0.0.1: a page, the files that it needs, and a socket to it.

All addresses begin with a secret, so that no other page or program can take part.
"""

from __future__ import annotations

import json
import logging
import mimetypes
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

#: Types of files that Python may not know, or that a machine's settings may change.
_TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
#: With these, a page may compute in several threads.
_HEADERS: Final = (
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cache-Control", "no-store"),
)
_PAGE: Final = """<!doctype html><meta charset="utf-8"><title>stateport</title>
<link rel="icon" href="data:,">
<script type="importmap">{"imports": %s}</script>
<script type="module" src="ort_web_page.mjs"></script>
"""
_LOGGER: Final = logging.getLogger(__name__)
# A connection that breaks off is no news: the browser was ended.
_LOGGER.addHandler(logging.NullHandler())


class Site:
    """A page on 127.0.0.1 that computes.

    Attributes:
        url: the page's address.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        imports: Mapping[str, str],
        settings: Mapping[str, Any],
    ) -> None:
        """Starts to serve.

        Args:
            files: by name, a file, or a folder whose files have the name in front of theirs.
            imports: by the name of a module, its address on the page.
            settings: what the page reads as settings.json.
        """
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        self._socket: ServerConnection | None = None
        self._secret = f"/{secrets.token_urlsafe(16)}/"
        self._files = files
        self._texts = {
            "": ("text/html", _PAGE % json.dumps(imports)),
            "settings.json": ("application/json", json.dumps(settings)),
        }
        self._server = serve(
            self._talk,
            "127.0.0.1",
            0,
            process_request=self._respond,
            compression=None,
            max_size=None,
            ping_interval=None,
            logger=_LOGGER,
        )
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}{self._secret}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def send(self, parts: Sequence[bytes]) -> None:
        """Sends a request to the page, which has given an answer before. It may have ended."""
        if self._socket is None:
            return

        try:
            self._socket.send(b"".join(parts))
        except ConnectionClosed:
            self.end()

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The page's next answer; None if it has ended.

        Raises:
            TimeoutError: it has said nothing in these seconds.
        """
        try:
            return self._answers.get(timeout=timeout)
        except Empty:
            raise TimeoutError from None

    def end(self) -> None:
        """Says that there will be no more answers."""
        self._answers.put(None)

    def stop(self) -> None:
        """Stops serving, once the browser has ended; may be called again."""
        self._server.shutdown()
        self._thread.join()

    def _talk(self, socket: ServerConnection) -> None:
        """Takes the page's answers until it ends."""
        self._socket = socket
        try:
            for message in socket:
                self._answers.put(bytes(message) if isinstance(message, bytes) else b"")
        finally:
            self.end()

    def _respond(self, _: ServerConnection, request: Request) -> Response | None:
        """What is answered to a request; None where a socket is opened."""
        given, secret = request.path.encode(), self._secret.encode()
        if not secrets.compare_digest(given[: len(secret)], secret):
            return _answer(HTTPStatus.NOT_FOUND, "text/plain", b"")

        name = request.path[len(self._secret) :]
        if name == "calls" and request.headers.get("Upgrade") == "websocket":
            return None
        if name in self._texts:
            kind, text = self._texts[name]
            return _answer(HTTPStatus.OK, kind, text.encode())

        path = self._file(name)
        if path is None:
            return _answer(HTTPStatus.NOT_FOUND, "text/plain", b"")
        known = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
        return _answer(HTTPStatus.OK, known or "application/octet-stream", path.read_bytes())

    def _file(self, name: str) -> Path | None:
        """The file of that name; None where there is none, or none that is served."""
        top, _, rest = name.partition("/")
        base = self._files.get(top)
        if base is None:
            return None

        path = (base / rest).resolve() if rest else base
        inside = path == base or path.is_relative_to(base.resolve())
        return path if inside and path.is_file() else None


def _answer(status: HTTPStatus, kind: str, content: bytes) -> Response:
    headers = [("Content-Type", kind), ("Content-Length", str(len(content))), *_HEADERS]
    headers.append(("Connection", "close"))
    return Response(status.value, status.phrase, Headers(headers), content)

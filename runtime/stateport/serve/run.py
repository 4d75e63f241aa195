# SPDX-License-Identifier: Apache-2.0
"""The server process: it listens, runs until a signal comes, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import uvicorn

from ..errors import FileError, in_words
from .application import Application
from .assembly import Parts
from .grpc_server import Certificates, GrpcServer
from .http_protocols import protocols
from .limits import Limits
from .logs import log

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
#: Seconds that connections have to close after the service has stopped.
_CLOSING: Final = 2


@dataclass(frozen=True)
class Listening:
    """Where the server listens, and how it stops.

    Attributes:
        host: the address, on which both ports are.
        http: the port for HTTP and WebSockets, 0 for a free one, None for none.
        grpc: the port for gRPC, 0 for a free one, None for none.
        certificates: the files for TLS; None without TLS.
        grace: seconds that running streams and requests have to end after a signal.
    """

    host: str
    http: int | None
    grpc: int | None
    certificates: Certificates | None
    grace: float


def run(parts: Parts, listening: Listening, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        parts: what is served.
        listening: where.
        announce: is called with one line when the server is ready:
            "ready http=127.0.0.1:8000 grpc=127.0.0.1:8001".

    Raises:
        FileError: a port is taken, or a certificate cannot be read.
        StateportError: a model cannot be loaded, or the store cannot be used.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(parts, listening, announce))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop, which is faster, where it is."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


async def _serve(parts: Parts, listening: Listening, announce: Callable[[str], None]) -> None:
    async with contextlib.AsyncExitStack() as closing:
        # Ports first: a model may take long to load.
        listener = grpc_server = grpc_port = None
        if listening.http is not None:
            listener = _listener(listening.host, listening.http)
            closing.callback(listener.close)
        if listening.grpc is not None:
            grpc_server = GrpcServer(parts.catalogue, parts.tokens, parts.limits)
            closing.push_async_callback(grpc_server.stop, 0)
            grpc_port = grpc_server.bind(listening.host, listening.grpc, listening.certificates)

        application = parts.application()
        http = _Http(application, parts.limits, listening.certificates, listener)
        await application.start()
        stop = asyncio.Event()
        with _stopping_on_signals(stop):
            await http.start()
            if grpc_server is not None:
                await grpc_server.start()
            announce(_ready_line(listening.host, listener, grpc_port))

            await stop.wait()
            await _stop(application, http, grpc_server, listening.grace, stop)


async def _stop(
    application: Application,
    http: _Http,
    grpc_server: GrpcServer | None,
    grace: float,
    stop: asyncio.Event,
) -> None:
    """Stops in order. A second signal ends the time of grace."""
    log(logging.INFO, "stopping", grace=grace)
    stop.clear()
    stopping = asyncio.create_task(application.stop(grace))
    hurry = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        log(logging.WARNING, "stopping at once")
        stopping.cancel()
        await application.service.stop(0)
    hurry.cancel()

    if grpc_server is not None:
        await grpc_server.stop(_CLOSING)
    await http.stop()
    log(logging.INFO, "stopped")


class _Http:
    """uvicorn, without its own signals; nothing where HTTP is switched off."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        certificates: Certificates | None,
        listener: socket.socket | None,
    ) -> None:
        self._listener = listener
        self._task: asyncio.Task[None] | None = None
        self._server: _Server | None = None
        if listener is not None:
            self._server = _Server(_config(application, limits, certificates))

    async def start(self) -> None:
        """Begins to answer."""
        if self._server is None:
            return
        assert self._listener is not None
        self._task = asyncio.create_task(self._server.serve([self._listener]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Closes all connections."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to `run`."""
        yield


def _config(
    application: Application, limits: Limits, certificates: Certificates | None
) -> uvicorn.Config:
    http, websocket = protocols(limits)
    return uvicorn.Config(
        application,
        http=http,
        ws=websocket,
        ws_max_size=limits.max_body,
        ws_per_message_deflate=False,
        ws_ping_interval=limits.idle_seconds / 2,
        ws_ping_timeout=limits.write_seconds,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(limits.idle_seconds),
        timeout_graceful_shutdown=_CLOSING,
        **_tls(certificates),
    )


def _tls(certificates: Certificates | None) -> dict[str, Any]:
    """The options of uvicorn for TLS.

    Raises:
        FileError: a file cannot be read, or has the wrong contents.
    """
    if certificates is None:
        return {}
    authority = certificates.client_authority
    try:
        # uvicorn reads the files itself; here they are tried, for a message in words.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate, certificates.key)
        if authority is not None:
            context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise FileError(
            f"The certificates cannot be used: {in_words(error)}. Pass --tls-cert and --tls-key, "
            "and for clients --tls-client-ca, each a readable file in PEM."
        ) from error

    options: dict[str, Any] = {
        "ssl_certfile": certificates.certificate,
        "ssl_keyfile": certificates.key,
    }
    if authority is not None:
        options |= {"ssl_ca_certs": str(authority), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def _listener(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        FileError: the port is taken, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise FileError(
            f"HTTP cannot listen on {host}:{port}: {in_words(error)}. End the program that has "
            "the port, or pass another --http."
        ) from error
    return listener


@contextlib.contextmanager
def _stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _ready_line(host: str, listener: socket.socket | None, grpc_port: int | None) -> str:
    words = ["ready"]
    name = f"[{host}]" if ":" in host else host
    if listener is not None:
        words.append(f"http={name}:{listener.getsockname()[1]}")
    if grpc_port is not None:
        words.append(f"grpc={name}:{grpc_port}")
    return " ".join(words)

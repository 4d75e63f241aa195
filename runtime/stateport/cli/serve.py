# SPDX-License-Identifier: Apache-2.0
"""`stateport serve`: serve streams over REST, gRPC and WebSockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from ..errors import StateportError
from ..files.paths import usable_path
from .common import ENGINE, FILE, PLAN, Finite
from .output import say

#: The libraries of the extra `serve`.
_EXTRA: Final = frozenset(
    {"google", "grpc", "httptools", "orjson", "prometheus_client", "redis", "starlette", "uvicorn",
     "websockets"}
)  # fmt: skip
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Port(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """The number of a port, or `none`."""

    name = "PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        text = str(value)
        if text == "none":
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 1 << 16):
            self.fail(
                f"{text!r} is no port; a number from 0 to 65535 was expected, or `none`.",
                param,
                ctx,
            )
        return int(text)


class _Size(click.ParamType):  # type: ignore[type-arg]  # not before click 8.4
    """A number of bytes, with K, M or G behind it."""

    name = "BYTES"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        text = str(value)
        digits, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")

        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 12 else 0

        size = number * _UNITS.get(unit.upper(), 0)
        if not 0 < size < 1 << 31:
            self.fail(f"{text!r} is no size below 2G; write 1048576, or 64M.", param, ctx)
        return size


@click.command(short_help="Serve streams over REST, gRPC and WebSockets.")
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL.onnx...")
@click.option(
    "--http",
    type=_Port(),
    default="8000",
    show_default=True,
    help="The port for REST and WebSockets; 0 for a free one, `none` for none.",
)
@click.option(
    "--grpc",
    type=_Port(),
    default="8001",
    show_default=True,
    help="The port for gRPC; 0 for a free one, `none` for none.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen on. 0.0.0.0 lets other machines connect.",
)
@click.option("--engine", type=ENGINE, help="The engine to run on; ort-cpu by default.")
@PLAN
@click.option(
    "--capacity",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="N",
    help="How many streams of each model are in memory at most.",
)
@click.option(
    "--idle",
    type=Finite(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="End a stream that is not used for so long.",
)
@click.option(
    "--store",
    default="memory",
    show_default=True,
    metavar="URL",
    help="Where streams are kept: memory, file:DIR, or redis://HOST:PORT.",
)
@click.option(
    "--durability",
    default="before",
    show_default=True,
    metavar="MODE",
    help="When a state is stored: before the answer, behind it, or behind:MILLISECONDS.",
)
@click.option(
    "--token-file",
    type=FILE,
    metavar="FILE",
    help="Ask for one of the bearer tokens in this file, one on each line.",
)
@click.option(
    "--max-body",
    type=_Size(),
    default="64M",
    show_default=True,
    help="The largest request.",
)
@click.option(
    "--max-streams-per-client",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many live streams one client may have; any number by default.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    metavar="N",
    help="How many requests of one model may be under way.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this site open WebSockets: https://example.org. Repeatable.",
)
@click.option("--tls-cert", type=FILE, metavar="FILE", help="The server's certificate, in PEM.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Its private key, in PEM.")
@click.option(
    "--tls-client-ca",
    type=FILE,
    metavar="FILE",
    help="Ask clients for a certificate that this one has signed.",
)
@click.option(
    "--slow",
    type=Finite(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a client may take to send a request, or to read an answer.",
)
@click.option(
    "--grace",
    type=Finite(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long streams and requests may go on after SIGTERM.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged, as lines of JSON on stderr.",
)
def serve(**options: Any) -> None:
    """Serve models over the open inference protocol, until SIGTERM.

    Prints one line when the server is ready: `ready http=127.0.0.1:8000 grpc=127.0.0.1:8001`.
    """
    _check(options)
    try:
        from ..serve import assembly, limits, logs, run
        from ..serve.grpc_server import Certificates
        from ..serve.names import named_models
    except ImportError as error:
        raise _missing(error) from error

    certificates = None
    if options["tls_cert"] is not None:
        certificates = Certificates(
            options["tls_cert"], options["tls_key"], options["tls_client_ca"]
        )
    slow = options["slow"]
    parts = assembly.assemble(
        _usable(named_models(options["models"])),
        engine=options["engine"],
        plan=options["plan"],
        capacity=options["capacity"],
        idle=options["idle"],
        store=options["store"],
        durability=options["durability"],
        token_file=options["token_file"],
        max_streams_per_client=options["max_streams_per_client"],
        max_queue=options["max_queue"],
        limits=limits.Limits(
            options["max_body"], header_seconds=slow, body_seconds=slow, write_seconds=slow
        ),
        origins=options["origins"],
    )
    listening = run.Listening(
        options["host"], options["http"], options["grpc"], certificates, options["grace"]
    )
    logs.log_to(level=options["log_level"])
    run.run(parts, listening, say)


def _check(options: dict[str, Any]) -> None:
    """Refuses options that contradict one another."""
    if options["plan"] is not None and options["engine"] is not None:
        raise click.UsageError("--plan sets the engine. Leave out --engine, or leave out --plan.")
    if options["http"] is None and options["grpc"] is None:
        raise click.UsageError("--http and --grpc are both none. Leave out one of them.")
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise click.UsageError("--tls-cert and --tls-key belong together. Pass both, or neither.")
    if options["tls_client_ca"] is not None and options["tls_cert"] is None:
        raise click.UsageError("--tls-client-ca needs TLS. Pass --tls-cert and --tls-key as well.")


def _usable(models: dict[str, Path]) -> dict[str, Path]:
    return {name: Path(usable_path(path)) for name, path in models.items()}


def _missing(error: ImportError) -> Exception:
    """The error for a library that is not installed; other errors as they are."""
    library = (error.name or "").partition(".")[0]
    if library not in _EXTRA:
        return error
    return StateportError(
        f"`stateport serve` needs {library}, which is not installed here. Install the extra: "
        "pip install 'stateport[cpu,serve]'."
    )

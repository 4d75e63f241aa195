# SPDX-License-Identifier: Apache-2.0
"""`stateport serve`: its options, what it refuses, and how it stops."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from stateport.cli import serve as command_module
from stateport.serve.grpc_server import SERVICE
from stateport.serve.wire import open_inference as messages
from tests.cli.conftest import Command
from tests.runtime.serve.asking import chunk, document, place
from tests.runtime.serve.process import serving

Refused = Callable[..., None]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument"),
        (("m.onnx", "--http", "70000"), "no port"),
        (("m.onnx", "--grpc", "x"), "no port"),
        (("m.onnx", "--http", "none", "--grpc", "none"), "both none"),
        (("m.onnx", "--max-body", "0"), "no size"),
        (("m.onnx", "--max-body", "3T"), "no size"),
        (("m.onnx", "--max-body", "4G"), "no size"),
        (("m.onnx", "--idle", "nan"), "finite"),
        (("m.onnx", "--capacity", "0"), "capacity"),
        (("m.onnx", "--tls-cert", "c"), "belong together"),
        (("m.onnx", "--tls-client-ca", "c"), "needs TLS"),
        (("m.onnx", "--plan", "p", "--engine", "ort-cpu"), "--plan sets the engine"),
        (("m.onnx", "--log-level", "loud"), "--log-level"),
    ],
)
def test_a_wrong_command_line(
    command: Command, refused: Refused, arguments: tuple[str, ...], words: str
) -> None:
    refused(command("serve", *arguments), words, code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a/m.onnx", "b/m.onnx"), "Two models have the name 'm'"),
        (("m=a.onnx", "m=b.onnx"), "Two models have the name 'm'"),
        (("=a.onnx",), "name ''"),
        (("a.onnx", "--store", "disk"), "store"),
        (("a.onnx", "--durability", "never"), "durability"),
        (("a.onnx", "--token-file", "none"), "cannot be read"),
        (("none.onnx", "--http", "0", "--grpc", "0"), "none.onnx"),
        (("a.onnx", "--http", "0", "--tls-cert", "c", "--tls-key", "k"), "c"),
    ],
)
def test_what_cannot_be_served(
    command: Command, refused: Refused, arguments: tuple[str, ...], words: str
) -> None:
    refused(command("serve", *arguments), words)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_port_that_is_taken(
    command: Command, refused: Refused, reference: Path, taken: int, transport: str
) -> None:
    ports = {"http": "0", "grpc": "0", transport: str(taken)}
    refused(
        command("serve", reference, "--http", ports["http"], "--grpc", ports["grpc"]),
        f"127.0.0.1:{taken}",
    )


def test_a_missing_extra_is_named(
    command: Command, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ImportError("no", name="grpc.aio")
    text = str(command_module._missing(error))
    assert "pip install 'stateport[cpu,serve]'" in text
    other = ImportError("no", name="json")
    assert command_module._missing(other) is other


def test_the_name_is_the_stem_or_what_is_given(reference: Path) -> None:
    with serving({"a": reference, "b.c": reference}) as server:
        for name in ("a", "b.c"):
            url = f"http://{server.http}/v2/models/{name}/ready"
            with urllib.request.urlopen(url) as answer:
                assert json.load(answer) == {"ready": True}


def started(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own, with both of its streams."""
    command = [sys.executable, "-m", "stateport", "serve", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def test_one_transport_alone(reference: Path) -> None:
    with started(reference, "--http", "none", "--grpc", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready grpc=127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_the_log_has_the_streams(reference: Path) -> None:
    with started(f"lstm={reference}", "--http", "0", "--grpc", "none") as process:
        assert process.stdout is not None
        address = process.stdout.readline().split("http=")[1].strip()
        for parameters in (place("s-1", start=True, end=True), place("s-2")):
            body = json.dumps(document(chunk(), **parameters)).encode()
            request = urllib.request.Request(
                f"http://{address}/v2/models/lstm/infer", body, method="POST"
            )
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(request).close()  # noqa: S310
        process.send_signal(signal.SIGINT)
        _, log = process.communicate()

    lines = [json.loads(line) for line in log.splitlines()]
    said = [(line["message"], line.get("sequence")) for line in lines]
    assert said[:3] == [("stream started", "s-1"), ("stream ended", "s-1"), ("refused", "s-2")]
    assert said[-1] == ("stopped", None)
    assert lines[2]["status"] == "INVALID"


def test_a_running_stream_may_end_after_sigterm(reference: Path) -> None:
    def answer_to(address: str, **parameters: Any) -> int:
        body = json.dumps(document(chunk(), **parameters)).encode()
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/v2/models/lstm/infer", body)
        status = connection.getresponse().status
        connection.close()
        return status

    with started(f"lstm={reference}", "--http", "0", "--grpc", "none", "--grace", "60") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split("http=")[1].strip()
        assert answer_to(address, **place(1, start=True)) == 200
        process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert '"stopping"' in process.stderr.readline()

        assert answer_to(address, **place(2, start=True)) == 503
        assert answer_to(address, **place(1)) == 200
        assert answer_to(address, **place(1, end=True)) == 200
        process.communicate()
        assert process.returncode == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates that it signed for the server and a client."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        command = ["/usr/bin/env", "openssl", *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    authority = ("-x509", "-days", "2", "-addext", "keyUsage=critical,keyCertSign")
    make = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*make, *authority, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
    signing = ("x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    for name in ("server", "client"):
        request = f"{name}.csr"
        openssl(*make, "-keyout", f"{name}.key", "-out", request, "-subj", f"/CN={name}")
        openssl(*signing, "-in", request, "-out", f"{name}.pem", "-days", "2", "-extfile", "names")
    return folder


@pytest.mark.parametrize("is_mutual", [False, True])
def test_tls(reference: Path, certificates: Path, is_mutual: bool) -> None:
    options = ["--tls-cert", "server.pem", "--tls-key", "server.key"]
    options += ["--tls-client-ca", "ca.pem"] * is_mutual
    paths = [word if word.startswith("--") else str(certificates / word) for word in options]
    with serving({"lstm": reference}, *paths) as server:
        stranger = ssl.create_default_context(cafile=certificates / "ca.pem")
        friend = ssl.create_default_context(cafile=certificates / "ca.pem")
        friend.load_cert_chain(certificates / "client.pem", certificates / "client.key")
        url = f"https://{server.http}/v2/health/live"

        with urllib.request.urlopen(url, context=friend) as answer:
            assert json.load(answer) == {"live": True}
        assert is_live(server.grpc, certificates, has_certificate=True)
        if is_mutual:
            with pytest.raises(OSError):  # noqa: PT011  # reset, or an alert of TLS
                urllib.request.urlopen(url, context=stranger)
            with pytest.raises(grpc.RpcError):
                is_live(server.grpc, certificates, has_certificate=False)
        else:
            urllib.request.urlopen(url, context=stranger).close()


def is_live(address: str, folder: Path, *, has_certificate: bool) -> Any:
    own = ("client.key", "client.pem") if has_certificate else ()
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.pem").read_bytes(), *[(folder / name).read_bytes() for name in own]
    )
    with grpc.secure_channel(address, credentials) as channel:
        call: Any = channel.unary_unary(f"/{SERVICE}/ServerLive")
        return messages.ServerLiveResponse.FromString(call(b"")).live

# SPDX-License-Identifier: Apache-2.0
"""gRPC: every call of the service, streams, and how requests are refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

import stateport
from stateport.serve.grpc_server import SERVICE, Conversation, GrpcServer, status_text
from stateport.serve.limits import Limits
from stateport.serve.tokens import Tokens
from stateport.serve.wire import open_inference as messages
from tests.runtime.serve.asking import chunk, message, output, place
from tests.runtime.serve.process import Serving, serving


@pytest.fixture(scope="module")
def channel(server: Serving) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


def asked(channel: Any, method: str, request: Any = b"", answer: Any = None) -> Any:
    data = request if isinstance(request, bytes) else request.SerializeToString()
    reply = channel.unary_unary(f"/{SERVICE}/{method}")(data)
    return reply if answer is None else answer.FromString(reply)


def infer(channel: Any, request: Any) -> Any:
    return asked(channel, "ModelInfer", request, messages.ModelInferResponse)


def streamed(channel: Any, requests: list[Any], **options: Any) -> list[Any]:
    datas = [r if isinstance(r, bytes) else r.SerializeToString() for r in requests]
    replies = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(datas), **options)
    return [messages.ModelStreamInferResponse.FromString(reply) for reply in replies]


def test_every_call_answers(channel: Any) -> None:
    assert asked(channel, "ServerLive", answer=messages.ServerLiveResponse).live
    assert asked(channel, "ServerReady", answer=messages.ServerReadyResponse).ready
    server = asked(channel, "ServerMetadata", answer=messages.ServerMetadataResponse)
    assert (server.name, server.version) == ("stateport", stateport.__version__)

    name = messages.ModelMetadataRequest(name="lstm")
    assert asked(channel, "ModelReady", name, messages.ModelReadyResponse).ready
    other = messages.ModelReadyRequest(name="other")
    assert not asked(channel, "ModelReady", other, messages.ModelReadyResponse).ready
    model = asked(channel, "ModelMetadata", name, messages.ModelMetadataResponse)
    assert [tensor.name for tensor in model.inputs] == ["x", "h0", "c0"]
    assert list(model.inputs[0].shape) == [-1, -1, 5]
    config = asked(channel, "ModelConfig", name, messages.ModelConfigResponse).config
    assert [state.output_name for state in config.sequence_batching.state] == ["hn", "cn"]
    assert config.sequence_batching.oldest.max_candidate_sequences == 1024
    statistics = asked(channel, "ModelStatistics", name, messages.ModelStatisticsResponse)
    assert statistics.model_stats[0].name == "lstm"


UNSUPPORTED = (
    "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
    "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
    "TraceSetting", "LogSettings",
)  # fmt: skip


@pytest.mark.parametrize("method", UNSUPPORTED)
def test_what_there_is_not_is_refused_in_words(channel: Any, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        asked(channel, method, b"\x0a\x01x")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert str(caught.value.details()).startswith(f"{method}: this server has no")


def test_every_call_asks_for_a_token_and_logs_its_refusal(reference: Path, tmp_path: Path) -> None:
    tokens, log = tmp_path / "tokens", tmp_path / "log"
    tokens.write_text("alice 0123456789abcdef\n")
    known = (("authorization", "Bearer 0123456789abcdef"),)
    private = ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")

    with (
        serving({"lstm": reference}, "--token-file", str(tokens), log=log) as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        for method in (*private, *UNSUPPORTED, "ModelInfer"):
            with pytest.raises(grpc.RpcError) as caught:
                asked(channel, method)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as caught:
            streamed(channel, [])
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

        for method in ("ServerLive", "ServerReady"):
            asked(channel, method)
        call: Any = channel.unary_unary(f"/{SERVICE}/LogSettings")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", metadata=known)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    entries = [json.loads(line) for line in log.read_text().splitlines()]
    refused = [entry["status"] for entry in entries if entry["message"] == "refused"]
    assert refused == ["UNAUTHENTICATED"] * (len(private) + len(UNSUPPORTED) + 2) + ["UNSUPPORTED"]
    assert {entry["transport"] for entry in entries if entry["message"] == "refused"} == {"grpc"}


class EndedError(Exception):
    """A call ended with a status."""


class Refused:
    """The context of a call that ends with a status."""

    status = ""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, code: Any, details: str, trailers: Any) -> None:
        self.status = f"{code.name}: {details}"
        raise EndedError


def test_a_call_that_fails_is_logged_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Any) -> Any:
        raise KeyError("a secret")

    async def main() -> Refused:
        catalogue: Any = SimpleNamespace(service=None)
        server = GrpcServer(catalogue, Tokens.none(), Limits())
        context = Refused()
        with pytest.raises(EndedError):
            await server._answering(messages.ServerMetadataRequest, fail)(b"", context)
        await server.stop(0)
        return context

    status = asyncio.run(main()).status
    assert status.startswith("INTERNAL: The request failed inside of the server (KeyError)")
    assert "secret" not in status
    [record] = caplog.records
    assert record.exc_info is not None


@pytest.mark.parametrize("sequence", [5, 2**63 - 1, "five"])
def test_a_stream(channel: Any, reference: Path, sequence: int | str) -> None:
    stream = stateport.load(reference).stream()
    for number in range(3):
        x = chunk(2, number)
        at = place(sequence, start=number == 0, end=number == 2)
        response = infer(channel, message(x, **at))
        assert response.id == "r"
        assert np.array_equal(output(response), stream(x))


def test_an_unsigned_id_and_typed_contents(channel: Any, reference: Path) -> None:
    x = chunk(2)
    request = message(x, sequence_start=True, sequence_end=True)
    request.parameters["sequence_id"].uint64_param = 2**64 - 1
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend(x.ravel().tolist())
    y, _ = stateport.load(reference)(x)
    assert np.array_equal(output(infer(channel, request)), y)


def wrong(**changes: Any) -> Any:
    """A request with one thing changed."""
    request = message(chunk(), **place(1, start=True))
    for name, value in changes.items():
        if name in ("datatype", "name"):
            setattr(request.inputs[0], name, value)
        elif name == "shape":
            request.inputs[0].shape[:] = value
        elif name == "raw":
            request.raw_input_contents[:] = value
        elif name == "id":
            request.parameters["sequence_id"].int64_param = value
        else:
            setattr(request, name, value)
    return request


def typed(datatype: str, field: str, values: list[Any]) -> Any:
    request = wrong(raw=[], datatype=datatype, shape=[len(values)])
    getattr(request.inputs[0].contents, field).extend(values)
    return request


def with_parameter(tensor: str, key: str) -> Any:
    request = wrong()
    place_of = request.inputs[0] if tensor == "input" else request.outputs.add(name="y")
    place_of.parameters[key].string_param = "r"
    return request


def twice() -> Any:
    request = wrong(raw=[chunk().tobytes()] * 2)
    request.inputs.add().CopyFrom(request.inputs[0])
    return request


def both() -> Any:
    request = wrong()
    request.inputs[0].contents.fp32_contents.append(1)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (b"\xff", "INVALID_ARGUMENT", "not a ModelInferRequest"),
        (b"\x0a\x01\xff", "INVALID_ARGUMENT", "not a ModelInferRequest"),
        (b"", "NOT_FOUND", "unknown model"),
        (wrong(model_name="z"), "NOT_FOUND", "'z' is not found"),
        (wrong(model_version="7"), "NOT_FOUND", "version 7"),
        (wrong(name="z"), "INVALID_ARGUMENT", "z"),
        (wrong(datatype="FP64"), "INVALID_ARGUMENT", "takes 40"),
        (wrong(datatype="BF16"), "INVALID_ARGUMENT", "bfloat16"),
        (wrong(shape=[1, 1, 4]), "INVALID_ARGUMENT", "takes 16"),
        (wrong(shape=[-1, 1, 5]), "INVALID_ARGUMENT", "the shape"),
        (wrong(raw=[b""]), "INVALID_ARGUMENT", "0 bytes"),
        (wrong(raw=[b"", b""]), "INVALID_ARGUMENT", "2 entries"),
        (wrong(raw=[]), "INVALID_ARGUMENT", "0 values"),
        (wrong(id=-1), "INVALID_ARGUMENT", "sequence_id"),
        (wrong(id=0), "INVALID_ARGUMENT", "correlation ID"),
        (typed("FP16", "fp32_contents", [1.0]), "INVALID_ARGUMENT", "FP16"),
        (typed("INT8", "int_contents", [128]), "INVALID_ARGUMENT", "128"),
        (typed("FP32", "fp64_contents", [1.0]), "INVALID_ARGUMENT", "0 values"),
        (typed("BYTES", "bytes_contents", [b"a"]), "INVALID_ARGUMENT", "strings"),
        (twice(), "INVALID_ARGUMENT", "twice"),
        (both(), "INVALID_ARGUMENT", "contents"),
        (with_parameter("input", "shared_memory_region"), "UNIMPLEMENTED", "shared memory"),
        (with_parameter("output", "classification"), "UNIMPLEMENTED", "classes"),
        (message(chunk(), **place(77)), "INVALID_ARGUMENT", "must specify the START flag"),
        (message(chunk(20_000), **place(1, start=True)), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_a_wrong_request_is_refused(channel: Any, request_: Any, code: str, words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request_)
    assert (caught.value.code().name, words in str(caught.value.details())) == (code, True), (
        caught.value.details()
    )


@pytest.mark.parametrize("sign", ["n", "\u20ac", "\U0001f600", "%", "\n", "\0"])
@pytest.mark.parametrize("length", [1, 3000, 60_000])
def test_a_long_name_does_not_hide_the_status(channel: Any, sign: str, length: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, wrong(name=sign * length))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = str(caught.value.details())
    assert details.startswith("There is no input '")
    assert len(details) <= 4200


@pytest.mark.parametrize("text", ["a" * 9000, "\u20ac" * 9000, "%" * 9000, "short \u20ac"])
def test_the_text_of_a_status_fits_the_wire(text: str) -> None:
    short = status_text(text)
    encoded = short.encode()
    plain = sum(0x20 <= byte < 0x7F and byte != 0x25 for byte in encoded)
    assert plain + 3 * (len(encoded) - plain) <= 4096
    assert short == text if len(text) < 20 else " ... " in short


def test_a_stream_of_calls_has_errors_as_answers(channel: Any) -> None:
    requests = [message(chunk(), **place(31, start=True)), b"\xff", message(chunk(), **place(99)),
                message(chunk(), **place(31, end=True))]  # fmt: skip
    answers = streamed(channel, requests)
    errors = [answer for answer in answers if answer.error_message]
    assert len(answers) == 4
    assert len(errors) == 2
    assert any("must specify the START flag" in error.error_message for error in errors)
    assert any(error.infer_response.id == "r" for error in errors)


def test_a_stream_of_calls_ends_with_a_status_if_asked(channel: Any) -> None:
    header = (("triton_grpc_error", "true"),)
    with pytest.raises(grpc.RpcError) as caught:
        streamed(channel, [message(chunk(), **place(98))], metadata=header)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_too_many_streams_say_when_to_come_back(channel: Any) -> None:
    names = [f"many-{n}" for n in range(101)]
    refusals = []
    for name in names:
        try:
            infer(channel, message(chunk(), **place(name, start=True)))
        except grpc.RpcError as error:
            refusals.append(error)
    for name in names[:-1]:
        with contextlib.suppress(grpc.RpcError):
            infer(channel, message(chunk(), **place(name, end=True)))

    assert refusals
    for refusal in refusals:
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        keys = [entry.key for entry in refusal.trailing_metadata()]
        assert "grpc-retry-pushback-ms" in keys


class Deaf:
    """The context of a client that never reads: no answer can be written."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def write(self, answer: bytes) -> None:
        assert messages.ModelStreamInferResponse.FromString(answer).error_message
        await asyncio.Event().wait()


def test_a_client_that_never_reads_is_given_up() -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"\xff"
        await asyncio.Event().wait()

    service: Any = None  # no request gets that far
    limits = Limits(write_seconds=0.01)
    conversation = Conversation(service, limits, "client", Deaf())
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(conversation.run(requests()))

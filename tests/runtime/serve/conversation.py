# SPDX-License-Identifier: Apache-2.0
"""Many concurrent sequences, sent with NVIDIA's client to any server of the protocol.

Each way of talking sends the same sequences, of random numbers of chunks of random lengths, and
gives the answers to each sequence. They must be those of a `Stream` that no other stream touches:
`check` compares them. The same functions talk to `stateport serve` and to Triton:

    python -m tests.runtime.serve.conversation --http ADDRESS --grpc ADDRESS MODEL.onnx
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype

import stateport
from stateport import Model

Array = NDArray[Any]
Answers = list[list[Array]]

#: In batches of other sizes ONNX Runtime sums in another order, and the difference lives on in the
#: state; the reference network forgets it again.
CLOSE: Final = 2e-6
#: So many sequences share one stream of gRPC.
_ON_ONE_STREAM: Final = 10


@dataclass(frozen=True)
class Server:
    """Where a server listens.

    Attributes:
        http: the address of REST, as 127.0.0.1:8000.
        grpc: the address of gRPC.
        model: the name of the model there.
    """

    http: str
    grpc: str
    model: str


@dataclass(frozen=True)
class Sequence:
    """One sequence: its id, and its chunks, each an array (1, time, ...) for the only input."""

    id: int | str
    input: str
    chunks: tuple[Array, ...]

    def flags(self, index: int) -> dict[str, Any]:
        """What the client's calls take beside the chunk of this index."""
        return {
            "sequence_id": self.id,
            "sequence_start": index == 0,
            "sequence_end": index == len(self.chunks) - 1,
        }


#: Sends the sequences, and gives the answers to the chunks of each.
Way = Callable[[Server, list[Sequence]], Answers]


def sequences(model: Model, count: int = 50, seed: int = 0) -> list[Sequence]:
    """So many random sequences for a model with one input: 1 to 12 chunks of 1 to 20 steps.

    Half of them have integers as ids, the largest of the protocol among them, half have strings.
    """
    random = np.random.default_rng(seed)
    [spec] = model.contract.inputs
    made = []
    for number in range(count):
        chunks = []
        for _ in range(random.integers(1, 13)):
            sizes = {"batch": 1, "time": int(random.integers(1, 21))}
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape]
            chunks.append(random.standard_normal(shape).astype(spec.dtype))
        made.append(Sequence(_id(number), spec.name, tuple(chunks)))
    return made


def _id(number: int) -> int | str:
    if number == 0:
        return 2**63 - 1
    return f"sequence {number}, größer/Ω" if number % 2 else number


def check(model: Model, sent: list[Sequence], answers: Answers) -> None:
    """Compares the answers with those of a stream for each sequence.

    Raises:
        AssertionError: an answer differs; the message names the sequence and the chunk.
    """
    assert len(answers) == len(sent)
    for sequence, answer in zip(sent, answers, strict=True):
        stream = model.stream()
        assert len(answer) == len(sequence.chunks), f"{sequence.id}: {len(answer)} answers"
        for index, (chunk, y) in enumerate(zip(sequence.chunks, answer, strict=True)):
            expected = stream(chunk)
            where = f"sequence {sequence.id!r}, chunk {index}"
            assert (y.shape, y.dtype) == (expected.shape, expected.dtype), where
            difference = float(np.abs(y - expected).max(initial=0))
            assert difference <= CLOSE, f"{where}: the answer is off by {difference}"


def over_rest(binary: bool) -> Way:
    """A thread and a connection for each sequence; tensors as bytes, or as JSON."""
    module = tritonclient.http

    def send(server: Server, sent: list[Sequence]) -> Answers:
        output = server_output(server)

        def talk(sequence: Sequence) -> list[Array]:
            answers = []
            with module.InferenceServerClient(server.http) as client:
                for index, chunk in enumerate(sequence.chunks):
                    given = module.InferInput(sequence.input, chunk.shape, _type(chunk))
                    given.set_data_from_numpy(chunk, binary_data=binary)
                    wanted = module.InferRequestedOutput(output, binary_data=binary)
                    result = client.infer(
                        server.model, [given], outputs=[wanted], **sequence.flags(index)
                    )
                    answers.append(result.as_numpy(output))
            return answers

        with ThreadPoolExecutor(len(sent)) as threads:
            return list(threads.map(talk, sent))

    return send


def over_async_rest(server: Server, sent: list[Sequence]) -> Answers:
    """A task for each sequence; all share one client."""
    module, output = tritonclient.http.aio, server_output(server)

    async def talk(client: Any, sequence: Sequence) -> list[Array]:
        answers = []
        for index, chunk in enumerate(sequence.chunks):
            given = module.InferInput(sequence.input, chunk.shape, _type(chunk))
            given.set_data_from_numpy(chunk)
            result = await client.infer(server.model, [given], **sequence.flags(index))
            answers.append(result.as_numpy(output))
        return answers

    async def talk_all() -> Answers:
        async with module.InferenceServerClient(server.http) as client:
            return await asyncio.gather(*(talk(client, sequence) for sequence in sent))

    return asyncio.run(talk_all())


def over_grpc(server: Server, sent: list[Sequence]) -> Answers:
    """A thread for each sequence; all share one channel."""
    output = server_output(server)

    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:

        def talk(sequence: Sequence) -> list[Array]:
            answers = []
            for index in range(len(sequence.chunks)):
                result = client.infer(
                    server.model, [_given(sequence, index)], **sequence.flags(index)
                )
                answers.append(result.as_numpy(output))
            return answers

        with ThreadPoolExecutor(len(sent)) as threads:
            return list(threads.map(talk, sent))


def over_grpc_in_turn(server: Server, sent: list[Sequence]) -> Answers:
    """One request after the other, of a random sequence each; tensors as lists of numbers.

    The client always sends bytes; programs that use the generated calls may send lists.
    """
    answers: Answers = [[] for _ in sent]
    with tritonclient.grpc.grpc.insecure_channel(server.grpc) as channel:
        call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for number, index in _interleaved(sent):
            sequence = sent[number]
            chunk = sequence.chunks[index]
            request = service_pb2.ModelInferRequest(model_name=server.model)
            given = request.inputs.add(name=sequence.input, datatype=_type(chunk))
            given.shape.extend(chunk.shape)
            given.contents.fp32_contents.extend(chunk.ravel().tolist())
            for name, value in sequence.flags(index).items():
                kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
                setattr(request.parameters[name], kind, value)
            response = call(request)
            y = np.frombuffer(response.raw_output_contents[0], np.float32)
            answers[number].append(y.reshape([*response.outputs[0].shape]))
    return answers


def over_grpc_streams(server: Server, sent: list[Sequence]) -> Answers:
    """Streams of gRPC with ten sequences on each; no request waits for any answer."""
    with ThreadPoolExecutor(len(sent)) as threads:
        parts = [sent[i : i + _ON_ONE_STREAM] for i in range(0, len(sent), _ON_ONE_STREAM)]
        answers = threads.map(lambda part: _over_one_stream(server, part), parts)
        return [answer for part in answers for answer in part]


def _over_one_stream(server: Server, sent: list[Sequence]) -> Answers:
    """The answers may come in any order; the request's own id says which it is."""
    results: SimpleQueue[Any] = SimpleQueue()
    order = _interleaved(sent)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: results.put(error or result))
        for number, index in order:
            client.async_stream_infer(
                server.model,
                [_given(sent[number], index)],
                request_id=f"{number}/{index}",
                **sent[number].flags(index),
            )
        answers = [results.get() for _ in order]
        client.stop_stream()
    return _sorted(server, sent, answers)


def over_async_grpc_stream(server: Server, sent: list[Sequence]) -> Answers:
    """One stream of gRPC with all the sequences, from a coroutine."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, index in _interleaved(sent):
            yield {
                "model_name": server.model,
                "inputs": [_given(sent[number], index)],
                "request_id": f"{number}/{index}",
                **sent[number].flags(index),
            }

    async def talk() -> list[Any]:
        async with tritonclient.grpc.aio.InferenceServerClient(server.grpc) as client:
            answers = []
            async for result, error in client.stream_infer(requests()):
                answers.append(error or result)
            return answers

    return _sorted(server, sent, asyncio.run(talk()))


def server_output(server: Server) -> str:
    """The name of the model's first output, as its metadata have it."""
    with tritonclient.http.InferenceServerClient(server.http) as client:
        name: str = client.get_model_metadata(server.model)["outputs"][0]["name"]
    return name


def _given(sequence: Sequence, index: int) -> Any:
    """A chunk as the input of a call of gRPC."""
    chunk = sequence.chunks[index]
    given = tritonclient.grpc.InferInput(sequence.input, chunk.shape, _type(chunk))
    given.set_data_from_numpy(chunk)
    return given


def _type(chunk: Array) -> str:
    name: str = np_to_triton_dtype(chunk.dtype)
    return name


def _interleaved(sent: list[Sequence]) -> list[tuple[int, int]]:
    """All chunks in random order, those of a sequence in theirs: (sequence, chunk) numbers."""
    numbers = np.repeat(np.arange(len(sent)), [len(sequence.chunks) for sequence in sent])
    np.random.default_rng(1).shuffle(numbers)
    chunks = [iter(range(len(sequence.chunks))) for sequence in sent]
    return [(number, next(chunks[number])) for number in numbers.tolist()]


def _sorted(server: Server, sent: list[Sequence], results: list[Any]) -> Answers:
    """The answers of a stream by sequence and chunk.

    Raises:
        InferenceServerException: one of them is an error.
    """
    output = server_output(server)
    answers: Answers = [[np.empty(0)] * len(sequence.chunks) for sequence in sent]
    for result in results:
        if isinstance(result, Exception):
            raise result
        number, index = map(int, result.get_response().id.split("/"))
        answers[number][index] = result.as_numpy(output)
    return answers


WAYS: Final[Mapping[str, Way]] = {
    "REST, binary": over_rest(binary=True),
    "REST, JSON": over_rest(binary=False),
    "REST, asynchronous": over_async_rest,
    "gRPC": over_grpc,
    "gRPC, in turn": over_grpc_in_turn,
    "gRPC streams": over_grpc_streams,
    "gRPC stream, asynchronous": over_async_grpc_stream,
}


def main() -> None:
    """Talks to a server in every way, and prints each way that passes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--http", default="127.0.0.1:8000")
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    parser.add_argument("--model", help="the model's name there; without it, the file's")
    parser.add_argument("--sequences", type=int, default=50)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    model = stateport.load(options.file)
    server = Server(options.http, options.grpc, options.model or options.file.stem)
    for name, passed in conversations(server, model, options.sequences):
        print(f"{name}: {passed} chunks as a stream of its own answers")  # noqa: T201


def conversations(server: Server, model: Model, count: int = 50) -> Iterator[tuple[str, int]]:
    """Talks in every way, and gives each way's name and the number of chunks that were right."""
    for seed, (name, way) in enumerate(WAYS.items()):
        sent = sequences(model, count, seed)
        check(model, sent, way(server, sent))
        yield name, sum(len(sequence.chunks) for sequence in sent)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Writes what Triton and stateport answer to each case into docs/serving.md.

    python -m tests.triton.compare

`make triton-check` does it. The tables stand between two comments of that page.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

import stateport
from models.lstm import ReferenceLSTM
from stateport_exporter import export
from tests.runtime.serve.process import serving

from .cases import CHUNK, GRPC_NOTES, TABLES, Ask, Case, X, of
from .server import ROOT, Triton, triton

Array = NDArray[Any]

PAGE: Final = ROOT / "docs" / "serving.md"
BEGIN: Final = "<!-- The tables of tests/triton/compare.py begin. -->"
END: Final = "<!-- The tables of tests/triton/compare.py end. -->"
_LONGEST: Final = 100
_PARSER: Final = "The fault is the client's. Triton's parser answers 500."
_CRASH: Final = "the server ended"


class Judge:
    """Says in words what a server answered."""

    def __init__(self, path: Path) -> None:
        stream = stateport.load(path).stream()
        x = np.array(CHUNK, np.float32)
        self._steps = [np.array(stream(x)) for _ in range(4)]

    def of_rest(self, status: int, body: bytes) -> str:
        """An answer over REST."""
        if not status:
            return _CRASH
        try:
            document = json.loads(body) if body else {}
        except ValueError:
            return f"{status} {_shortened(repr(body))}"
        if not isinstance(document, dict) or status != 200 or "outputs" not in document:
            text = document.get("error", "") if isinstance(document, dict) else ""
            return f"{status} {_shortened(text)}".strip()
        return f"200 {self._outputs(document['outputs'])}".strip()

    def of_grpc(self, response: Any) -> str:
        """A successful answer over gRPC."""
        y = np.frombuffer(response.raw_output_contents[0], np.float32)
        return f"OK {self._step(y.reshape([*response.outputs[0].shape]))}"

    def _outputs(self, outputs: list[dict[str, Any]]) -> str:
        if outputs[0].get("data") is None:
            return "the outputs"  # a model's metadata has outputs, too
        arrays = {each["name"]: np.array(each["data"], np.float32) for each in outputs}
        y = arrays["y"].reshape(outputs[0]["shape"])
        more = [name for name in arrays if name != "y"]
        return self._step(y) + (f", and {', '.join(more)}" if more else "")

    def _step(self, y: Array) -> str:
        for number, expected in enumerate(self._steps, 1):
            if y.shape == expected.shape and np.abs(y - expected).max() < 1e-5:
                return f"step {number}"
        return f"y {list(y.shape)}"


def send(address: str, ask: Ask) -> tuple[int, bytes]:
    """Sends a request over a new connection."""
    connection = HTTPConnection(address, timeout=30)
    try:
        connection.request(ask.method, ask.path, ask.body or None, dict(ask.headers))
        response = connection.getresponse()
        return response.status, response.read()
    except ConnectionError:
        return 0, b""
    finally:
        connection.close()


def answer(address: str, case: Case, judge: Judge) -> str:
    """Sends a case's requests, and says what the last answer was."""
    *before, last = case.requests
    for ask in before:
        send(address, ask)
    time.sleep(case.pause)
    return judge.of_rest(*send(address, last))


def grpc_cases(address: str, judge: Judge) -> Iterator[tuple[str, str]]:
    """What a server answers over gRPC, by case."""
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def said(call: Callable[[], Any]) -> str:
            try:
                response = call()
            except grpc.RpcError as error:
                return f"{error.code().name} {_shortened(error.details() or '')}".strip()
            if isinstance(response, service_pb2.ModelStreamInferResponse):
                if response.error_message:
                    return f"in-band: {_shortened(response.error_message)}"
                response = response.infer_response
            if isinstance(response, service_pb2.ModelInferResponse):
                return judge.of_grpc(response)
            return "OK"

        def stream(request: Any, *metadata: tuple[str, str]) -> Any:
            return next(iter(stub.ModelStreamInfer(iter([request]), metadata=metadata)))

        once = of(11, start=True, end=True)
        pb = service_pb2
        yield "start and end", said(lambda: stub.ModelInfer(_message(once)))
        yield "a sequence that never started", said(lambda: stub.ModelInfer(_message(of(97))))
        yield "the same on a stream", said(lambda: stream(_message(of(97))))
        yield (
            "the same with `triton_grpc_error: true`",
            said(lambda: stream(_message(of(97)), ("triton_grpc_error", "true"))),
        )
        yield "no id", said(lambda: stub.ModelInfer(_message({})))
        yield "an id as uint64", said(lambda: stub.ModelInfer(_message(once, kind="uint64_param")))
        yield "id -1", said(lambda: stub.ModelInfer(_message(of(-1, start=True, end=True))))
        yield (
            "start as int64",
            said(lambda: stub.ModelInfer(_message({**once, "sequence_start": 1}))),
        )
        yield "an unknown model", said(lambda: stub.ModelInfer(_message(once, model="other")))
        yield "no model", said(lambda: stub.ModelInfer(pb.ModelInferRequest()))
        yield "version 7", said(lambda: stub.ModelInfer(_message(once, version="7")))
        yield "numbers and bytes both", said(lambda: stub.ModelInfer(_with_both(once)))
        yield "4 bytes short", said(lambda: stub.ModelInfer(_message(once, size=36)))
        yield "no bytes", said(lambda: stub.ModelInfer(_message(once, size=None)))
        yield "is the server alive", said(lambda: stub.ServerLive(pb.ServerLiveRequest()))
        yield (
            "is an unknown model ready",
            said(lambda: stub.ModelReady(pb.ModelReadyRequest(name="other"))),
        )
        for name in ("RepositoryIndex", "SystemSharedMemoryStatus", "LogSettings", "TraceSetting"):
            call, request = getattr(stub, name), getattr(pb, f"{name}Request")()
            yield name, said(partial(call, request))


def _message(
    parameters: dict[str, Any],
    model: str = "lstm",
    version: str = "",
    kind: str = "int64_param",
    size: int | None = 40,
) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    given = request.inputs.add(name=X["name"], datatype=X["datatype"])
    given.shape.extend(X["shape"])
    if size is not None:
        request.raw_input_contents.append(np.array(CHUNK, np.float32).tobytes()[:size])
    for name, value in parameters.items():
        setattr(request.parameters[name], "bool_param" if type(value) is bool else kind, value)
    return request


def _with_both(parameters: dict[str, Any]) -> Any:
    request = _message(parameters)
    request.inputs[0].contents.fp32_contents.extend([0.0] * 10)
    return request


def _shortened(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rstrip()} ..."


class Theirs:
    """Triton, which is started again after a case that ended it."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._models = {"lstm": path, "brief": path}
        self._folder = folder
        self._stack = ExitStack()
        self._starts = 0
        self.running = self._start()

    def restart(self) -> None:
        """Starts it again."""
        self.close()
        self.running = self._start()

    def close(self) -> None:
        """Ends it."""
        self._stack.close()

    def _start(self) -> Triton:
        self._starts += 1
        folder = self._folder / f"repository-{self._starts}"
        return self._stack.enter_context(triton(folder, self._models, idle=2))


def tables() -> str:
    """The tables of the page, from two servers that run for it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        path = folder / "lstm.onnx"
        module = ReferenceLSTM()
        export(module, module.example_inputs, path)
        judge = Judge(path)
        theirs = stack.enter_context(closing(Theirs(folder, path)))
        ours = stack.enter_context(serving({"lstm": path, "brief": path}, "--idle", "2"))

        lines: list[str] = []
        for title, cases in TABLES.items():
            lines += [f"### {title}", "", *_head("REST")]
            for case in cases:
                their = answer(theirs.running.http, case, judge)
                our = answer(ours.http, case, judge)
                lines.append(_row(case.name, their, our, case.why))
                if their == _CRASH:
                    theirs.restart()
            lines.append("")

        lines += ["### Over gRPC", "", *_head("gRPC")]
        for (name, their), (_, our) in zip(
            grpc_cases(theirs.running.grpc, judge), grpc_cases(ours.grpc, judge), strict=True
        ):
            lines.append(_row(name, their, our, GRPC_NOTES.get(name, "")))
    return "\n".join(lines)


def _head(kind: str) -> list[str]:
    return [f"| case | Triton, {kind} | stateport, {kind} | |", "| --- | --- | --- | --- |"]


def _row(name: str, their: str, our: str, why: str) -> str:
    cells = [name, *(text.replace("|", "\\|") for text in (their, our))]
    note = "as Triton"
    if _kind(their) != _kind(our):
        is_parser = their.startswith("500") and our.startswith("400")
        note = why or (_PARSER if is_parser else "")
    return f"| {' | '.join(cells)} | {note} |"


def _kind(text: str) -> tuple[str, ...]:
    """What two answers must have in common to be alike: the status, and what was computed."""
    computed = re.search(r"\bstep \d|\by \[", text)
    return text.split()[0], computed[0] if computed else ""


def main() -> None:
    """Writes the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

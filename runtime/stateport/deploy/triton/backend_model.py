# SPDX-License-Identifier: Apache-2.0
"""A model for Triton's Python backend: the streams of a stateport pool, one for each sequence.

`stateport deploy triton` copies this file into a repository as `model.py`, beside `model.onnx` and
`config.pbtxt`. Triton reads it in the backend's process, whose Python has to have stateport.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import stateport


class TritonPythonModel:
    """Steps all requests of a call that have one length in one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the file beside this one, as the configuration's parameters say."""
        config = pb_utils.ModelConfig(args["model_config"]).as_dict()
        parameters = {key: each["string_value"] for key, each in config["parameters"].items()}
        path = Path(args["model_repository"], args["model_version"], "model.onnx")

        self.model = stateport.load(
            path, engine=parameters["engine"], threads=int(parameters["threads"])
        )
        self.pool = self.model.pool(int(parameters["capacity"]))
        # Streams by their sequence; the one that was used last is the last one.
        self.streams: OrderedDict[int | str, int] = OrderedDict()
        contract = self.model.contract
        self.inputs = {spec.name: spec.shape.index("batch") for spec in contract.inputs}
        self.outputs = {spec.name: spec.shape.index("batch") for spec in contract.outputs}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers requests of different sequences; Triton never gives two of one sequence."""
        batches: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        chunks = [self._chunk(request) for request in requests]
        for index, chunk in enumerate(chunks):
            batches[tuple(array.shape for array in chunk.values())].append(index)

        answers: list[Any] = [None] * len(requests)
        for indices in batches.values():
            rows = self._answers(
                [requests[index] for index in indices], [chunks[index] for index in indices]
            )
            for index, answer in zip(indices, rows, strict=True):
                answers[index] = answer

        for request in requests:
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
                self._end(request.correlation_id())
        return answers

    def _answers(self, requests: list[Any], chunks: list[dict[str, Any]]) -> list[Any]:
        """The answers to requests of one length, or an error for each of them."""
        try:
            outputs = self._step([self._stream(request) for request in requests], chunks)
        except stateport.StateportError as error:
            return [
                pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))) for _ in requests
            ]

        answers = []
        for row in range(len(requests)):
            tensors = [pb_utils.Tensor(name, y[row : row + 1]) for name, y in outputs.items()]
            answers.append(pb_utils.InferenceResponse(tensors))
        return answers

    def _chunk(self, request: Any) -> dict[str, Any]:
        return {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self.inputs
        }

    def _stream(self, request: Any) -> int:
        """The request's stream. Triton has seen to it that a sequence begins with START."""
        sequence = request.correlation_id()
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self._end(sequence)
            if len(self.streams) == self.pool.capacity:  # Triton does not say which have expired
                self._end(next(iter(self.streams)))
            self.streams[sequence] = self.pool.open()
        self.streams.move_to_end(sequence)
        return self.streams[sequence]

    def _end(self, sequence: int | str) -> None:
        if sequence in self.streams:
            self.pool.close(self.streams.pop(sequence))

    def _step(self, streams: list[int], chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """Steps these streams. In Triton the batch axis is the first one."""
        arrays = {}
        for name, axis in self.inputs.items():
            array = np.concatenate([chunk[name] for chunk in chunks])
            arrays[name] = np.ascontiguousarray(np.moveaxis(array, 0, axis))

        outputs = self.pool.step(
            streams, arrays if len(arrays) > 1 else next(iter(arrays.values()))
        )
        if not isinstance(outputs, dict):
            outputs = dict.fromkeys(self.outputs, outputs)
        return {
            name: np.ascontiguousarray(np.moveaxis(y, self.outputs[name], 0))
            for name, y in outputs.items()
        }

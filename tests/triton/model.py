# SPDX-License-Identifier: Apache-2.0
"""A model for Triton's Python backend: the streams of a stateport pool, one for each sequence.

Triton reads this file inside of the backend's process. `server.py` writes the configuration.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import stateport


class TritonPythonModel:
    """Steps all requests of a call that have one length in one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the file that the configuration names."""
        config = pb_utils.ModelConfig(args["model_config"]).as_dict()
        parameters = {key: each["string_value"] for key, each in config["parameters"].items()}
        self.model = stateport.load(parameters["file"], threads=int(parameters["threads"]))
        self.pool = self.model.pool(int(parameters["capacity"]))
        self.streams: OrderedDict[int | str, int] = OrderedDict()
        self.inputs = [spec.name for spec in self.model.contract.inputs]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers requests of different sequences; Triton never gives two of one sequence."""
        batches: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        chunks = [self._chunk(request) for request in requests]
        for index, chunk in enumerate(chunks):
            batches[tuple(array.shape for array in chunk.values())].append(index)

        answers: list[Any] = [None] * len(requests)
        for indices in batches.values():
            try:
                streams = [self._stream(requests[index]) for index in indices]
                outputs = self._step(streams, [chunks[index] for index in indices])
            except stateport.StateportError as error:
                for index in indices:
                    answers[index] = pb_utils.InferenceResponse(
                        error=pb_utils.TritonError(str(error))
                    )
                continue
            for row, index in enumerate(indices):
                answers[index] = pb_utils.InferenceResponse(
                    [pb_utils.Tensor(name, y[row : row + 1]) for name, y in outputs.items()]
                )

        for request in requests:
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END:
                self._end(request.correlation_id())
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
        arrays = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in self.inputs}
        outputs = self.pool.step(
            streams, arrays if len(arrays) > 1 else next(iter(arrays.values()))
        )
        names = [spec.name for spec in self.model.contract.outputs]
        return outputs if isinstance(outputs, dict) else {names[0]: outputs}

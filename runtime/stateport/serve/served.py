# SPDX-License-Identifier: Apache-2.0
"""A model as it is served: its name, its version and what was counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..contract import Contract
from ..model import Model

#: The platform's name by engine. KServe has "onnxruntime_onnx"; the others are made after it.
_PLATFORMS = {"ort-cpu": "onnxruntime_onnx", "ort-cuda": "onnxruntime_onnx"}


@dataclass(slots=True)
class Statistics:
    """What was counted since the start. All times are in nanoseconds.

    Attributes:
        requests: requests that were answered.
        request_ns: the time from their arrival to their answers.
        failures: requests that were refused or failed.
        failure_ns: the time that these took.
        inferences: steps and calls that the engine has run, each row of a batch counted.
        executions: calls of the engine; a batch is one.
        queue_ns: the time that steps waited for the engine, summed over the rows.
        compute_ns: the time in the engine, summed over the rows.
        last_ms: when the last request was answered, in milliseconds since 1970; 0 if none was.
        batches: calls of the engine by the number of rows.
    """

    requests: int = 0
    request_ns: int = 0
    failures: int = 0
    failure_ns: int = 0
    inferences: int = 0
    executions: float = 0
    queue_ns: int = 0
    compute_ns: int = 0
    last_ms: int = 0
    batches: dict[int, float] = field(default_factory=dict)

    def count_step(self, waited: float, ran: float, batch: int) -> None:
        """Counts one row of a call of the engine."""
        self.inferences += 1
        self.executions += 1 / batch
        self.queue_ns += int(waited * 1e9)
        self.compute_ns += int(ran * 1e9)
        self.batches[batch] = self.batches.get(batch, 0.0) + 1 / batch


@dataclass(slots=True, eq=False)
class Served:
    """One model of the server.

    Attributes:
        name: the name that requests use.
        model: the loaded model.
        version: its version, "1". A model that replaces another one has it, too.
        digest: the digest of its contract and weights; "" where the file is not known.
        statistics: what was counted.
    """

    name: str
    model: Model
    version: str = "1"
    digest: str = ""
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def contract(self) -> Contract:
        """What the model's file promises."""
        return self.model.contract

    @property
    def platform(self) -> str:
        """What runs the model, as the protocol names it: "onnxruntime_onnx"."""
        engine = self.model.engine
        return _PLATFORMS.get(engine, f"{engine.replace('-', '_')}_onnx")

# SPDX-License-Identifier: Apache-2.0
"""What the server tells of itself and of its models: metadata, configuration and statistics.

The documents have the fields of the protocol's messages, for REST and for gRPC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from .. import __version__
from ..contract import ArraySpec, Contract, StateSpec
from .served import Served, Statistics
from .service import Service
from .wire.datatypes import datatype_of

#: The extensions of the protocol that this server has, in Triton's words; the last two are its own.
EXTENSIONS: Final = (
    "binary_tensor_data",
    "model_configuration",
    "parameters",
    "sequence",
    "statistics",
    "stateport_sequence_step",
    "stateport_websocket",
)


@dataclass(frozen=True)
class Catalogue:
    """The models of a service, described.

    Attributes:
        service: the service.
        capacity: how many streams of each model are in memory at most.
        idle: seconds after which a stream that is not used expires.
    """

    service: Service
    capacity: int
    idle: float

    def server(self) -> dict[str, Any]:
        """The server's metadata."""
        return {"name": "stateport", "version": __version__, "extensions": list(EXTENSIONS)}

    def model(self, name: str, version: str) -> dict[str, Any]:
        """A model's metadata. States are inputs and outputs like others; only streams keep them.

        Raises:
            ServeError: there is no such model.
        """
        served = self.service.find(name, version)
        contract = served.contract
        return {
            "name": served.name,
            "versions": [served.version],
            "platform": served.platform,
            "inputs": _tensors((*contract.inputs, *contract.state_inputs)),
            "outputs": _tensors((*contract.outputs, *contract.state_outputs)),
        }

    def config(self, name: str, version: str) -> dict[str, Any]:
        """A model's configuration: the fields of Triton's `ModelConfig` that have a meaning here.

        Raises:
            ServeError: there is no such model.
        """
        served = self.service.find(name, version)
        contract = served.contract
        return {
            "name": served.name,
            "platform": served.platform,
            "backend": "stateport",
            "max_batch_size": 0,  # shapes have their batch axis
            "input": _ports(contract.inputs, optional=False)
            + _ports(contract.state_inputs, optional=True),
            "output": _ports((*contract.outputs, *contract.state_outputs)),
            **self._scheduling(contract),
            "parameters": {
                "engine": {"string_value": served.model.engine},
                "engine_version": {"string_value": served.model.engine_version},
                "contract": {"string_value": contract.to_json()},
            },
        }

    def statistics(self, name: str, version: str) -> dict[str, Any]:
        """What was counted of one model, or of all if there is no name.

        Raises:
            ServeError: there is no such model.
        """
        names = [name] if name else list(self.service.models)
        return {"model_stats": [_statistics(self.service.find(each, version)) for each in names]}

    def _scheduling(self, contract: Contract) -> dict[str, Any]:
        """How streams are batched, for a model that has streams."""
        if contract.streaming.ok is False:
            return {}
        return {
            "sequence_batching": {
                "max_sequence_idle_microseconds": int(self.idle * 1e6),
                "oldest": {"max_candidate_sequences": self.capacity},
                "state": [*map(_state, contract.states)],
            }
        }


def _tensors(specs: Iterable[ArraySpec]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": _dims(spec)}
        for spec in specs
    ]


def _ports(specs: Iterable[ArraySpec], optional: bool | None = None) -> list[dict[str, Any]]:
    ports = []
    for spec in specs:
        port: dict[str, Any] = {
            "name": spec.name,
            "data_type": f"TYPE_{datatype_of(spec.dtype)}",
            "dims": _dims(spec),
        }
        if optional:
            port["optional"] = True
        ports.append(port)
    return ports


def _dims(spec: ArraySpec) -> list[int]:
    """The shape in the protocol's form: -1 for each dynamic axis."""
    return [axis if isinstance(axis, int) else -1 for axis in spec.shape]


def _state(spec: StateSpec) -> dict[str, Any]:
    array = ArraySpec(spec.input, spec.dtype, spec.shape)
    kind, dims = f"TYPE_{datatype_of(spec.dtype)}", _dims(array)
    first: dict[str, Any] = {"name": spec.initial, "data_type": kind, "dims": dims}
    if spec.initial == "zeros":
        first["zero_data"] = True
    return {
        "input_name": spec.input,
        "output_name": spec.output,
        "data_type": kind,
        "dims": dims,
        "initial_state": [first],
    }


def _statistics(served: Served) -> dict[str, Any]:
    counted = served.statistics
    return {
        "name": served.name,
        "version": served.version,
        "last_inference": counted.last_ms,
        "inference_count": counted.inferences,
        "execution_count": round(counted.executions),
        "inference_stats": {
            "success": _duration(counted.requests, counted.request_ns),
            "fail": _duration(counted.failures, counted.failure_ns),
            "queue": _duration(counted.inferences, counted.queue_ns),
            "compute_input": _duration(0, 0),
            "compute_infer": _duration(counted.inferences, counted.compute_ns),
            "compute_output": _duration(0, 0),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": _batches(counted),
    }


def _batches(counted: Statistics) -> list[dict[str, Any]]:
    """How often each size of batch ran. The time of single sizes is not kept."""
    return [
        {"batch_size": size, "compute_infer": _duration(round(times), 0)}
        for size, times in sorted(counted.batches.items())
    ]


def _duration(count: int, nanoseconds: int) -> dict[str, int]:
    return {"count": count, "ns": nanoseconds}

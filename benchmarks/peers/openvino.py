"""OpenVINO with its own stateful API: it keeps the state in variables of the request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino
from openvino._offline_transformations import apply_make_stateful_transformation

from ..contender import Array, Contender
from ..loads import Load
from ..networks import Network


def contenders(network: Network, load: Load, threads: int) -> Iterator[Contender]:
    """In float32, and in bfloat16, which is what OpenVINO takes by itself where there is AMX."""
    if load.among is not None:
        return  # its variables are those of a whole batch
    for hint, precision in (("f32", "float32"), ("bf16", "bfloat16")):
        core: Any = openvino.Core()
        model = core.read_model(network.path)
        apply_make_stateful_transformation(model, {"h0": "hn", "c0": "cn"})
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        zeros = np.zeros(network.state_shape(load.streams), np.float32)
        for state in request.query_state():
            state.state = openvino.Tensor(zeros)

        def step(x: Array, request: Any = request) -> Array:
            results = request.infer([x], share_inputs=True, share_outputs=True)
            return results[0]  # type: ignore[no-any-return]

        name = "OpenVINO, its own states"
        yield Contender("OpenVINO", f"{name}, {precision}", step, precision, array=np.array)

# SPDX-License-Identifier: Apache-2.0
"""Run recurrent networks from ONNX files, with their state in your hands.

>>> import stateport
>>> model = stateport.load("model.onnx")
>>> y, state = model(x)                # from the zero state
>>> y, state = model(x_next, state)    # carry the state
>>> stream = model.stream()            # or let a stream carry it
>>> y = stream(x)
>>> pool = model.pool(capacity=1024)   # or a pool, for many streams at once
>>> ys = pool.step(pool.open(256), xs)
>>> stateport.verify("model.onnx").passed  # against PyTorch's recorded answers
True
"""

from typing import TYPE_CHECKING

from ._lazy import on_first_use as _on_first_use

if TYPE_CHECKING:
    from .async_pool import AsyncPool
    from .contract import ArraySpec, Contract, StateSpec, Streaming
    from .engines.choice import EngineChoice
    from .errors import (
        ContractError,
        EngineError,
        EngineUnavailable,
        FileError,
        InputError,
        StateError,
        StateportError,
        StreamingError,
    )
    from .model import Model, load
    from .parity.engine_report import EngineReport, ErrorCurve, Measurement
    from .parity.fault import LocatedFault
    from .parity.matrix import CarriedStream, EngineVerdict, Matrix
    from .parity.verify import verify
    from .pool import Pool, PoolStream
    from .state import State
    from .stream import Stream

__version__ = "0.1.0"

__all__ = [
    "ArraySpec",
    "AsyncPool",
    "CarriedStream",
    "Contract",
    "ContractError",
    "EngineChoice",
    "EngineError",
    "EngineReport",
    "EngineUnavailable",
    "EngineVerdict",
    "ErrorCurve",
    "FileError",
    "InputError",
    "LocatedFault",
    "Matrix",
    "Measurement",
    "Model",
    "Pool",
    "PoolStream",
    "State",
    "StateError",
    "StateSpec",
    "StateportError",
    "Stream",
    "Streaming",
    "StreamingError",
    "load",
    "verify",
]

# pytest imports this package in every project where stateport is installed, so that each name is
# imported on first use. All of these modules except the first import NumPy.
__getattr__, __dir__ = _on_first_use(
    __name__,
    __all__,
    (
        "errors",
        "contract",
        "state",
        "stream",
        "pool",
        "model",
        "async_pool",
        "engines.choice",
        "parity.engine_report",
        "parity.fault",
        "parity.matrix",
        "parity.verify",
    ),
)

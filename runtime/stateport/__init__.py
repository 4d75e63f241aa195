"""Run recurrent networks from ONNX files, with their state in your hands.

>>> import stateport
>>> model = stateport.load("model.onnx")
>>> y, state = model(x)                # zero state
>>> y, state = model(x_next, state)    # carry it
>>> stream = model.stream()            # or let a stream carry it
>>> y = stream(x)
>>> pool = model.pool(capacity=1024)   # or a pool, for many streams at once
>>> ys = pool.step(pool.open(256), xs)
"""

from typing import TYPE_CHECKING

from ._lazy import on_first_use as _on_first_use

if TYPE_CHECKING:
    from .contract import ArraySpec, Contract, StateSpec, Streaming
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
    from .pool import Pool
    from .state import State
    from .stream import Stream

__version__ = "0.1.0"

__all__ = [
    "ArraySpec",
    "Contract",
    "ContractError",
    "EngineError",
    "EngineUnavailable",
    "FileError",
    "InputError",
    "Model",
    "Pool",
    "State",
    "StateError",
    "StateSpec",
    "StateportError",
    "Stream",
    "Streaming",
    "StreamingError",
    "load",
]

# pytest imports this package wherever stateport is installed: so all comes on first use.
# All of these modules but the first import NumPy.
__getattr__ = _on_first_use(
    __name__, __all__, ("errors", "contract", "state", "stream", "pool", "model")
)

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

#: Where each name is; all but the first of these import NumPy.
_MODULES = ("errors", "contract", "state", "stream", "pool", "model")


def __getattr__(name: str) -> object:
    # pytest imports this package in every project where stateport is installed: so on first use.
    from importlib import import_module

    for module in _MODULES if name in __all__ else ():
        found = vars(import_module(f".{module}", __name__))
        if name in found:
            return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

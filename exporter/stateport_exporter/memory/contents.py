"""What is in a slot, in a form that can be compared, and seen without a call of the author's code.

A plain value is itself; an array is its bytes; an iterator or a generator is where it stands.
"""

from __future__ import annotations

import io
import numbers
import os
import random
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..authors import is_holder

#: Larger tensors are not read: that they were written to is seen without. Smaller arrays are kept.
_MOST_BYTES: Final = 1 << 24
_SMALL: Final = 1 << 13
_LONGEST_CHAIN: Final = 1 << 12


class Environment(Mapping[str, str]):
    """The variables of the environment, as they are when they are looked at."""

    def __getitem__(self, key: str) -> str:
        return os.environ[key]

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


class Numbers:
    """A small array as it was."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array.copy()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and self._key() == other._key()

    def _key(self) -> tuple[Any, ...]:
        return self.array.shape, self.array.dtype, self.array.tobytes()

    __hash__ = None  # type: ignore[assignment]


class Kept:
    """A tensor as it was: another one in its place, or a write into it, makes another of this.

    It keeps the tensor, so that no later one can have the same identity.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.version = None if tensor.is_inference() else tensor._version
        small = tensor.numel() * tensor.element_size() <= _MOST_BYTES
        is_parameter = isinstance(tensor, nn.Parameter)
        self.bytes = _bytes_of(tensor) if small and not is_parameter else 0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Kept)
            and self.tensor is other.tensor
            and self.version == other.version
            and self.bytes == other.bytes
        )

    __hash__ = None  # type: ignore[assignment]


def _bytes_of(tensor: Tensor) -> int:
    try:
        return zlib.crc32(tensor.detach().contiguous().numpy().tobytes())
    except (RuntimeError, TypeError):  # sparse, quantized, bfloat16: its version tells enough
        return 0


def content(value: Any) -> Any:
    """What a value is, to be held against what it is later."""
    if value is None or isinstance(value, bool | complex | str | bytes):
        return type(value), value
    if isinstance(value, numbers.Number | np.generic):
        return type(value), repr(value) if value != value else value  # NaN
    if isinstance(value, Tensor):
        return Kept(value)
    if isinstance(value, np.ndarray):
        small = value.nbytes <= _SMALL and value.dtype.kind in "iufb"
        return Numbers(value) if small else zlib.crc32(np.ascontiguousarray(value).tobytes())
    if isinstance(value, dict | list | tuple | set | frozenset | deque | bytearray):
        return type(value), len(value), _depth(value)  # the items have slots of their own
    if isinstance(value, Environment):
        return dict(value)
    return type(value) if is_holder(value) else _standing(value)  # its attributes have slots, too


def _depth(value: Any) -> int:
    """How deep a chain of containers is that each hold the next one as the first or last item."""
    depth = 0
    while isinstance(value, list | tuple) and value and depth < _LONGEST_CHAIN:
        inner = [item for item in (value[0], value[-1]) if isinstance(item, list | tuple)]
        value, depth = inner[-1] if inner else None, depth + 1
    return depth


def _standing(value: Any) -> Any:
    """Where something stands that moves on by being used: generators of any kind, iterators."""
    if isinstance(value, torch.Generator):
        return Kept(value.get_state()).bytes
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state(legacy=False))
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        return (frame.f_lasti, repr(frame.f_locals)) if frame is not None else None
    if isinstance(value, io.IOBase):
        return None if value.closed or not value.seekable() else value.tell()
    if hasattr(type(value), "__next__"):
        return _position(value)
    return id(value)


def _position(iterator: Any) -> Any:
    """Where an iterator of Python's own stands, and those that it takes from."""
    try:
        parts = iterator.__reduce__()
    except (TypeError, AttributeError):
        return object()  # which cannot be looked into: it may have moved
    waiting, position = list(parts[1:]), []
    while waiting:
        part = waiting.pop()
        if isinstance(part, tuple):
            waiting += part
        elif hasattr(type(part), "__next__") and not isinstance(part, GeneratorType):
            position.append(_position(part))
        elif isinstance(part, int):
            position.append(part)
    return tuple(position)

"""What a network keeps from call to call, and whether results will ever hang on it."""

# ruff: noqa: ARG005, S311  # networks are told apart by small functions of the same arguments

from __future__ import annotations

import argparse
import collections
import contextvars
import datetime
import fractions
import functools
import io
import itertools
import logging
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError
from tests.exporter.memory.networks import After, Keeping, check

COUNTED = 0
TABLE = {"n": 0}
VARIABLE = contextvars.ContextVar("variable", default=0)
LOGGER = logging.getLogger("tests.keeping")


def _global(_: Any, x: Tensor, y: Tensor) -> Tensor:
    global COUNTED
    COUNTED += 1
    return y * 2 if COUNTED > 5000 else y


def _by_name(_: Any, x: Tensor, y: Tensor) -> Tensor:
    globals()["COUNTED"] += 1
    return y * 2 if COUNTED > 5000 else y


def _global_table(_: Any, x: Tensor, y: Tensor) -> Tensor:
    TABLE["n"] += 1
    return y * 2 if TABLE["n"] > 5000 else y


def _context(_: Any, x: Tensor, y: Tensor) -> Tensor:
    VARIABLE.set(VARIABLE.get() + 1)
    return y * 2 if VARIABLE.get() > 5000 else y


def _default(_: Any, x: Tensor, y: Tensor, seen: list[int] = [0]) -> Tensor:  # noqa: B006
    seen[0] += 1
    return y * 2 if seen[0] > 5000 else y


def _attribute_of_itself(_: Any, x: Tensor, y: Tensor) -> Tensor:
    _attribute_of_itself.n += 1  # type: ignore[attr-defined]
    return y * 2 if _attribute_of_itself.n > 5000 else y  # type: ignore[attr-defined]


_attribute_of_itself.n = 0  # type: ignore[attr-defined]


def _around() -> Callable[[Tensor], Tensor]:
    n = 0

    def count(y: Tensor) -> Tensor:
        nonlocal n
        n += 1
        return y * 2 if n > 5000 else y

    return count


def _numbers() -> Iterator[float]:
    yield from itertools.chain([1.0] * 5000, itertools.repeat(2.0))


class Plain:
    def __init__(self) -> None:
        self.n = 0


class Slotted:
    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Shared(Keeping):
    n = 0


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, y: Tensor) -> Tensor:
        self.n += 1
        return y * 2 if self.n % 977 == 0 else y


def _count(then: Callable[[Any, Tensor], Any], by: Any = 1) -> After:
    def after(net: Any, _: Tensor, y: Tensor) -> Any:
        net.n += by
        return then(net, y)

    return after


def _of_class(net: Any, x: Tensor, y: Tensor) -> Tensor:
    type(net).n += 1
    return y * 2 if type(net).n > 5000 else y


def _of(name: str) -> After:
    def after(net: Any, x: Tensor, y: Tensor) -> Tensor:
        held = getattr(net, name)
        held.n += 1
        return y * 2 if held.n > 321 else y

    return after


def _grown(change: Callable[[Any], Any], most: int) -> After:
    def after(net: Any, x: Tensor, y: Tensor) -> Tensor:
        change(net)
        return y * 2 if len(net.kept) > most else y

    return after


def _joined(net: Any) -> None:
    net.kept = net.kept + net.kept[:1]


def _linked(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.head, length = (1, net.head), 0
    head = net.head
    while head is not None:
        length, head = length + 1, head[1]
    return y * 2 if length > 50 else y


def _written(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.kept.write("x")
    return y * 2 if net.kept.tell() > 50 else y


def _array(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.n[1] += 1
    return y * 2 if net.n[1] == 733 else y


def _pair(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.n = (net.n[0] + 1, "steps")
    return y * 2 if net.n[0] == 600 else y


def _drawn_from_itself(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.n = (net.n * 1103515245 + 12345) % 2**31
    return y * 2 if net.n < 1000 else y


def _gain(net: Any, y: Tensor) -> Any:
    return y * [1.0, 2.0][min(net.n // 1000, 1)]


def _environment(_: Any, x: Tensor, y: Tensor) -> Tensor:
    os.environ["COUNTED"] = str(int(os.environ.get("COUNTED", "0")) + 1)
    return y * 2 if int(os.environ["COUNTED"]) > 5000 else y


def _longest(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.n += 1
    return y * 2 if time.monotonic() - net.began > 3600 else y


def _eleven(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.n = (net.n + 1) % 11
    return y * 2 if net.n == 10 else y


#: What may matter in some later call, and how it is called.
REMEMBERED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a number": (
        lambda: Keeping(_count(lambda net, y: y * 2 if net.n > 10 else y), n=0),
        r"counts in 'n' \(test_check.py:\d+, .*net.n > 10",
    ),
    "one call": (
        lambda: Keeping(_count(lambda net, y: y * 2 if net.n == 600 else y), n=0),
        "counts in 'n'",
    ),
    "a remainder": (
        lambda: Keeping(_count(lambda net, y: y * 2 if net.n % 977 == 0 else y), n=0),
        "counts in 'n'",
    ),
    "a product": (
        lambda: Keeping(_count(lambda net, y: y * 2 if 3 * net.n > net.k**2 else y), n=0, k=99),
        "counts in 'n'",
    ),
    "fractions of a number": (
        lambda: Keeping(_count(lambda net, y: y * 2 if net.n > 321.1 else y, 0.25), n=0.0),
        "counts in 'n'",
    ),
    "another kind of number": (
        lambda: Keeping(
            _count(lambda net, y: y * 2 if net.n > 100 else y, fractions.Fraction(1, 3)),
            n=fractions.Fraction(),
        ),
        "counts in 'n'",
    ),
    "a number of NumPy": (
        lambda: Keeping(_count(lambda net, y: y * 2 if net.n > 500 else y), n=np.int64()),
        "counts in 'n'",
    ),
    "an index": (lambda: Keeping(_count(_gain), n=0), "counts in 'n'"),
    "a factor": (lambda: Keeping(_count(lambda net, y: y + 1e-10 * net.n), n=0), "'n'"),
    "a period": (
        lambda: Keeping(
            _eleven,
            n=0,
        ),
        "'n'",
    ),
    "a number that is drawn": (
        lambda: Keeping(_drawn_from_itself, n=1),
        "decides something by a number that changes",
    ),
    "a pair": (lambda: Keeping(_pair, n=(0, "steps")), r"counts in 'n\[0\]'"),
    "an array": (lambda: Keeping(_array, n=np.zeros(2, int)), "counts in 'n'"),
    "a list": (
        lambda: Keeping(_grown(lambda net: net.kept.append(1), 10), kept=[]),
        "counts in 'kept'",
    ),
    "a tuple": (lambda: Keeping(_grown(_joined, 300), kept=(1,)), "counts in 'kept'"),
    "a text": (lambda: Keeping(_grown(_joined, 300), kept="x"), "counts in 'kept'"),
    "bytes": (
        lambda: Keeping(_grown(lambda net: net.kept.extend(b"x"), 700), kept=bytearray()),
        "counts in 'kept'",
    ),
    "a queue that is full": (
        lambda: Keeping(
            _grown(lambda net: net.kept.append(1), 49), kept=collections.deque(maxlen=50)
        ),
        "counts in 'kept'",
    ),
    "a list of a class of Python's": (
        lambda: Keeping(
            _grown(lambda net: net.kept.append(1), 70), kept=collections.UserList[int]()
        ),
        "counts in 'kept.data'",
    ),
    "a dict": (
        lambda: Keeping(
            lambda net, x, y: (
                net.kept.update(n=net.kept.get("n", 0) + 1),
                y * (1 + (net.kept["n"] > 10)),
            )[1],
            kept={},
        ),
        r"counts in \"kept\['n'\]\"",
    ),
    "a chain": (lambda: Keeping(_linked, head=None), "changes .*'head"),
    "a stream of text": (lambda: Keeping(_written, kept=io.StringIO()), "moves 'kept' on"),
    "an object": (lambda: Keeping(_of("held"), held=Plain()), "counts in 'held.n'"),
    "an object of slots": (lambda: Keeping(_of("held"), held=Slotted()), "counts in 'held.n'"),
    "a namespace": (
        lambda: Keeping(_of("held"), held=argparse.Namespace(n=0)),
        "counts in 'held.n'",
    ),
    "a part": (
        lambda: Keeping(lambda net, x, y: net.part(y), part=Part()),
        "counts in 'part.n'",
    ),
    "a class": (lambda: Shared(_of_class), "counts in 'Shared.n'"),
    "a global": (lambda: Keeping(_global), "counts in 'COUNTED in test_check.py'"),
    "a global by its name": (lambda: Keeping(_by_name), "counts in 'COUNTED in test_check.py'"),
    "a global dict": (lambda: Keeping(_global_table), r"TABLE in test_check.py\['n'\]"),
    "a context": (lambda: Keeping(_context), "counts in 'VARIABLE in test_check.py.value'"),
    "a default": (lambda: Keeping(_default), r"counts in 'default 0 of _default\[0\]'"),
    "a function": (lambda: Keeping(_attribute_of_itself), "'_attribute_of_itself.n'"),
    "a closure": (
        lambda: Keeping(lambda net, x, y: net.count(y), count=_around()),
        "counts in 'n around",
    ),
    "an iterator": (
        lambda: Keeping(
            lambda net, x, y: y * next(net.kept), kept=itertools.cycle([1.0] * 30 + [2.0])
        ),
        "moves 'kept' on in every call",
    ),
    "a generator of its own": (
        lambda: Keeping(
            lambda net, x, y: y * (1 + (net.kept.random() < 1e-9)), kept=random.Random(0)
        ),
        "moves 'kept' on in every call",
    ),
    "the environment": (lambda: Keeping(_environment), "moves 'os.environ' on"),
    "a clock": (
        lambda: Keeping(_longest, n=0, began=time.monotonic()),
        r"reads a clock \(test_check.py:\d+, .*> 3600",
    ),
    "the date": (
        lambda: Keeping(lambda _, x, y: y * (1 + (datetime.datetime.now().year > 2100))),
        "asks for the date in every call",
    ),
    "a random number": (
        lambda: Keeping(lambda _, x, y: y * 2 if random.random() < 1e-9 else y),
        r"draws random numbers \(test_check.py:\d+",
    ),
    "a random number of NumPy": (
        lambda: Keeping(lambda _, x, y: y * 2 if np.random.rand() < 1e-9 else y),
        "draws random numbers",
    ),
    "a random choice": (
        lambda: Keeping(lambda _, x, y: y * random.choice([1.0] * 10_000)),
        "draws random numbers",
    ),
}


@pytest.mark.parametrize("name", REMEMBERED)
def test_what_may_matter_in_a_later_call_is_refused(name: str) -> None:
    make, message = REMEMBERED[name]
    with pytest.raises(ExportError, match=message):
        check(make())


def _first(net: Any, x: Tensor, y: Tensor) -> Any:
    net.n += 1
    if net.n == 1:
        net.kept = torch.full((6,), 3.0)
    return y * net.kept


def _shapes(net: Any, x: Tensor, y: Tensor) -> Any:
    net.batch, net.shape, net.last = x.size(0), tuple(x.shape), y.detach()
    return y.reshape(net.batch, x.size(1), -1)


def _trimmed(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.kept.append(y.mean())
    if len(net.kept) > 100:
        net.kept.pop(0)
    return y


def _measured(net: Any, x: Tensor, y: Tensor) -> Tensor:
    began = time.perf_counter()
    net.spent += time.perf_counter() - began
    return y


def _told(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.n += 1
    LOGGER.debug("call %d of %s", net.n, tuple(x.shape))
    if net.n % 100 == 0:
        net.message = f"call {net.n}"
    if net.n == 1:
        warnings.warn("the first call", stacklevel=1)
    return y


def _drawn_in_vain(net: Any, x: Tensor, y: Tensor) -> Tensor:
    share = np.random.uniform(0, 1), random.random(), torch.rand([])
    return y * 2 if net.training and share[0] < 0.5 else y


@functools.lru_cache
def _cached(number: int) -> float:
    return float(number)


def _read_once(net: Any, x: Tensor, y: Tensor) -> Any:
    if net.kept is None:
        net.kept = len(Path(__file__).read_text())
    return y * (net.kept > 0)


def _turning(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.n = (net.n + 0.7) % 6.28
    return y


def _object(net: Any, x: Tensor, y: Tensor) -> Tensor:
    net.kept = Plain()
    return y


#: What changes from call to call, and never matters.
HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "a number": lambda: Keeping(_count(lambda net, y: y), n=0),
    "a period": lambda: Keeping(_turning, n=0.0),
    "a list": lambda: Keeping(lambda net, x, y: (net.kept.append(x.size(1)), y)[1], kept=[]),
    "a list that is cut": lambda: Keeping(_trimmed, kept=[]),
    "the first call": lambda: Keeping(_first, n=0),
    "sizes and results": lambda: Keeping(_shapes),
    "time that is measured": lambda: Keeping(_measured, spent=0.0),
    "what is told": lambda: Keeping(_told, n=0),
    "random numbers that nobody uses": lambda: Keeping(_drawn_in_vain),
    "a cache": lambda: Keeping(lambda _, x, y: y * _cached(3)),
    "a file that is read once": lambda: Keeping(_read_once, kept=None),
    "an object of each call": lambda: Keeping(_object),
    "nothing": lambda: Keeping(lambda _, x, y: y),
}


@pytest.mark.filterwarnings("ignore:the first call")
@pytest.mark.parametrize("name", HARMLESS)
def test_what_never_matters_is_allowed(name: str) -> None:
    check(HARMLESS[name]())


def test_what_is_changed_outside_is_put_back() -> None:
    before = COUNTED, dict(TABLE), Shared.n, random.getstate()
    for name in ("a global", "a global dict", "a class", "a random number"):
        with pytest.raises(ExportError):
            check(REMEMBERED[name][0]())
    after = COUNTED, dict(TABLE), Shared.n, random.getstate()
    assert after == before


def test_a_generator_of_an_author_is_moved_on() -> None:
    numbers = _numbers()
    with pytest.raises(ExportError, match=r"moves 'numbers around .*' on in every call"):
        check(Keeping(lambda _, x, y: y * next(numbers)))

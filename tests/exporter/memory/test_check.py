"""What a network keeps from call to call, and whether results can ever depend on it."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import uniform
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stateport_exporter import ExportError, Spec, export
from stateport_exporter.memory.check import check_kept
from stateport_exporter.memory.kept import authored
from stateport_exporter.network.blame import is_authors
from stateport_exporter.network.example import Example

X = Spec("float32", "batch", "time", 3)

CALLS = 0
LOG: list[Any] = []
TICKS = itertools.count()


def _numbers() -> Iterator[int]:
    yield from range(10**9)


NUMBERS = _numbers()


@dataclass
class Stats:
    """Objects in which a network may keep something."""

    calls: int = 0
    sums: list[Any] = field(default_factory=list)


def _hook() -> Callable[..., Any]:
    calls = 0

    def count(_: nn.Module, __: Any, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return y * 2 if calls > 50 else y

    return count


class Base(nn.Module):
    """A network that keeps something; `calls` is in each the number of calls so far."""

    shared: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.calls = 0
        self.log: list[Any] = []
        self.last: deque[Any] = deque(maxlen=20)
        self.line: deque[Any] = deque()
        self.stats: dict[Any, Any] = {"calls": 0}
        self.own = SimpleNamespace(calls=0)
        self.kept = Stats()
        self.ticks = itertools.cycle(range(50))
        self.array = np.zeros(2)
        self.hooked = nn.Identity()
        self.hooked.register_forward_hook(_hook())
        self.chance = random.Random(0)  # noqa: S311
        self.dice = np.random.default_rng(0)
        self.mode = "a"
        self.pair = (0, 1.0)
        self.seen: set[Any] = set()
        self.peak = torch.zeros(())
        self.history = torch.zeros(0)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ring", torch.zeros(20))

    def forward(self, x: Tensor) -> Any:
        y: Tensor = self.linear(x)
        return self.run(y)

    run: ClassVar[Callable[[Any, Tensor], Any]]


def _class(self: Any, y: Tensor) -> Any:
    type(self).shared += 1
    return y * 2 if type(self).shared > 100 else y


def _global(self: Any, y: Tensor) -> Any:
    global CALLS
    CALLS += 1
    return y if CALLS % 64 else y * 2


def _global_list(self: Any, y: Tensor) -> Any:
    LOG.append(y)
    return y * 2 if len(LOG) == 300 else y


def _global_iterator(self: Any, y: Tensor) -> Any:
    return y * 2 if next(TICKS) > 1000 else y


def _global_generator(self: Any, y: Tensor) -> Any:
    return y * 2 if next(NUMBERS) > 1000 else y


def _counter(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return y * 2 if self.calls == 50 else y


def _nested_counter(self: Any, y: Tensor) -> Any:
    self.calls += 1
    if self.calls > 20:
        self.mode = "b"
        if self.calls > 30:
            return y * 2
    return y


def _modulo(self: Any, y: Tensor) -> Any:
    self.calls = (self.calls + 1) % 100
    return y * 2 if self.calls == 99 else y


def _counted_index(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return y * (([1.0] * 40) + [2.0] * 1000)[self.calls]


def _counted_key(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return y * {50: 2.0}.get(self.calls, 1.0)


def _counted_float(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return y * (1 + max(0, self.calls - 50))


def _decay(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return y * 2 if 0.5**self.calls < 1e-9 else y


def _chunks(self: Any, y: Tensor) -> Any:
    self.log.append(y)
    return y * 2 if len(self.log) > 50 else y


def _true_list(self: Any, y: Tensor) -> Any:
    self.log.append(1)
    return y * 2 if sum(self.log) > 50 else y


def _whole_number(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return y * 2 if int(self.calls) > 50 else y


def _longest_of_all(self: Any, y: Tensor) -> Any:
    self.log.append(len(self.log))
    return y * 2 if max(self.log) > 50 else y


def _delay_line(self: Any, y: Tensor) -> Any:
    self.line.append(y)
    return y + self.line.popleft() if len(self.line) > 20 else y


def _old_chunk(self: Any, y: Tensor) -> Any:
    self.last.append(y.mean())
    return y + 0 * y.mean() if len(self.last) < 20 else y + self.last[0]


def _dict(self: Any, y: Tensor) -> Any:
    self.stats["calls"] += 1
    return y * 2 if self.stats["calls"] > 50 else y


def _dict_grows(self: Any, y: Tensor) -> Any:
    self.stats[len(self.stats)] = 1
    return y * 2 if 50 in self.stats else y


def _namespace(self: Any, y: Tensor) -> Any:
    self.own.calls += 1
    return y * 2 if self.own.calls > 50 else y


def _object(self: Any, y: Tensor) -> Any:
    self.kept.calls += 1
    return y * 2 if self.kept.calls > 50 else y


def _object_list(self: Any, y: Tensor) -> Any:
    self.kept.sums.append(0)
    return y * 2 if len(self.kept.sums) > 50 else y


def _iterator(self: Any, y: Tensor) -> Any:
    return y * 2 if next(self.ticks) > 40 else y


def _array(self: Any, y: Tensor) -> Any:
    self.array[0] += 1
    return y * 2 if self.array.max() > 50 else y


def _own_chance(self: Any, y: Tensor) -> Any:
    return y * 2 if self.chance.random() < 1e-6 else y


def _own_dice(self: Any, y: Tensor) -> Any:
    return y * 2 if self.dice.normal() > 6 else y


def _chance(self: Any, y: Tensor) -> Any:
    return y * 2 if random.random() < 1e-6 else y  # noqa: S311


def _named_chance(self: Any, y: Tensor) -> Any:
    return y * 2 if uniform(0, 1) < 1e-6 else y  # noqa: S311


def _numpy_chance(self: Any, y: Tensor) -> Any:
    return y * 2 if np.random.rand() < 1e-6 else y


def _text(self: Any, y: Tensor) -> Any:
    self.mode += "a"
    return y * 2 if self.mode.count("a") > 50 else y


def _tuple(self: Any, y: Tensor) -> Any:
    self.pair = (self.pair[0] + 1, self.pair[1])
    return y * 2 if self.pair[0] > 50 else y


def _set(self: Any, y: Tensor) -> Any:
    self.seen.add(len(self.seen))
    return y * 2 if 50 in self.seen else y


def _buffer(self: Any, y: Tensor) -> Any:
    self.count += 1
    return torch.where(self.count == 50, y * 2, y)


def _new_buffer(self: Any, y: Tensor) -> Any:
    self.count = self.count + 1
    return y + (self.count > 50)


def _ring(self: Any, y: Tensor) -> Any:
    self.ring[self.calls % 20] = y.mean().detach()
    self.calls += 1
    return y + self.ring[19] * (self.calls > 100)


def _rolled(self: Any, y: Tensor) -> Any:
    self.ring = torch.roll(self.ring, 1)
    self.ring[0] = y.detach().mean()
    return y * (1 + self.ring[-1].abs().gt(1e9))


def _peak(self: Any, y: Tensor) -> Any:
    self.peak = torch.maximum(self.peak, y.detach().max())
    return y + (self.peak > 1e6)


def _history(self: Any, y: Tensor) -> Any:
    self.history = torch.cat([self.history, y.detach().mean()[None]])
    return y * 2 if self.history.size(0) > 50 else y


def _written(self: Any, y: Tensor) -> Any:
    self.count += 1
    result = torch.zeros_like(y)
    result[:] = torch.minimum(self.count, torch.tensor(100)) // 100
    return y + result


def _written_part(self: Any, y: Tensor) -> Any:
    self.count += 1
    result = torch.zeros_like(y)
    result[:, 0].copy_(self.count // 100)
    return y + result


def _copied(self: Any, y: Tensor) -> Any:
    self.count += 1
    return y + torch.tensor([self.count // 100, 0, 0])


def _hooked(self: Any, y: Tensor) -> Any:
    return self.hooked(y)


def _default(self: Any, y: Tensor, log: list[Any] = []) -> Any:  # noqa: B006
    log.append(1)
    return y * 2 if len(log) > 50 else y


def _attribute(self: Any, y: Tensor) -> Any:
    _attribute.calls = getattr(_attribute, "calls", 0) + 1  # type: ignore[attr-defined]
    return y * 2 if _attribute.calls > 50 else y  # type: ignore[attr-defined]


def _clock(self: Any, y: Tensor) -> Any:
    return y * 2 if time.time() > 4e9 else y


def _date(self: Any, y: Tensor) -> Any:
    return y * 2 if datetime.now().year > 2100 else y


def _raises(self: Any, y: Tensor) -> Any:
    self.calls += 1
    if self.calls > 100:
        raise RuntimeError("no more than 100 calls")
    return y


def _closed_over() -> Callable[[Any, Tensor], Any]:
    calls = 0

    def run(self: Any, y: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return y * 2 if calls > 50 else y

    return run


def _longest(self: Any, y: Tensor) -> Any:
    self.kept.calls = max(self.kept.calls, y.size(1))
    return y * self.kept.calls


def _shape(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return torch.cat([y, y], -1) if self.calls > 50 else y


HANGING: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "attribute of the class": (_class, "Here.shared"),
    "global": (_global, "CALLS in"),
    "global list": (_global_list, "LOG in"),
    "global iterator": (_global_iterator, "TICKS in"),
    "global generator": (_global_generator, "NUMBERS in"),
    "counter": (_counter, "calls"),
    "counter behind a counter": (_nested_counter, "calls"),
    "counter modulo": (_modulo, "calls"),
    "counter as index": (_counted_index, "calls"),
    "counter as key": (_counted_key, "calls"),
    "counter in arithmetic": (_counted_float, "calls"),
    "decay": (_decay, "calls"),
    "number of chunks": (_chunks, "log"),
    "sum of a list": (_true_list, "log"),
    "whole number": (_whole_number, "calls"),
    "largest of a list": (_longest_of_all, "log"),
    "delay line": (_delay_line, "line"),
    "old chunk": (_old_chunk, "last"),
    "dict": (_dict, r"stats\['calls'\]"),
    "dict that grows": (_dict_grows, "stats"),
    "namespace": (_namespace, "own.calls"),
    "object": (_object, "kept.calls"),
    "list in an object": (_object_list, "kept.sums"),
    "iterator": (_iterator, "ticks"),
    "array": (_array, "array"),
    "generator of random numbers": (_own_chance, "chance"),
    "generator of NumPy's": (_own_dice, "dice"),
    "random": (_chance, "draws random numbers"),
    "random by name": (_named_chance, "draws random numbers"),
    "random in NumPy": (_numpy_chance, "draws random numbers"),
    "text": (_text, "mode"),
    "tuple": (_tuple, r"pair\[0\]"),
    "set": (_set, "seen"),
    "buffer": (_buffer, "count"),
    "buffer made anew": (_new_buffer, "count"),
    "ring": (_ring, "ring|calls"),
    "rolled": (_rolled, "ring"),
    "peak": (_peak, "peak"),
    "history": (_history, "history"),
    "written into a result": (_written, "count"),
    "written into a part": (_written_part, "count"),
    "copied": (_copied, "count"),
    "hook": (_hooked, "calls around"),
    "default argument": (_default, "the defaults of _default"),
    "attribute of a function": (_attribute, "_attribute.calls"),
    "clock": (_clock, "the clock 'time'"),
    "date": (_date, "the clock 'datetime'"),
    "raises later": (_raises, "calls"),
    "closure": (_closed_over(), "calls around"),
    "longest": (_longest, "kept.calls"),
    "shape": (_shape, "calls"),
}


def _network(run: Callable[[Any, Tensor], Any]) -> nn.Module:
    class Here(Base):
        pass

    Here.run = run
    Here.__qualname__ = "Here"
    return Here().eval()


def _check(run: Callable[[Any, Tensor], Any]) -> None:
    network = _network(run)
    check_kept(network, "forward", Example(network.forward, (X,)), {})


@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support:DeprecationWarning")
@pytest.mark.parametrize("name", HANGING)
def test_what_results_may_hang_on_later_is_refused_by_name(name: str) -> None:
    run, said = HANGING[name]
    with pytest.raises(ExportError, match=said):
        _check(run)


def _only_counted(self: Any, y: Tensor) -> Any:
    self.calls += 1
    self.stats["calls"] += 1
    self.own.calls -= 1
    self.count += 1
    type(self).shared += 1
    self.array[1] += y.shape[0]
    self.pair = (self.pair[0] + 1, self.pair[1])
    return y


def _only_logged(self: Any, y: Tensor) -> Any:
    self.log.append(y.mean())
    self.last.append(y)
    self.stats["last"] = y
    self.stats[time.time()] = y.shape
    self.kept.sums.extend([1, 2])
    self.history = torch.cat([self.history, y.detach().mean()[None]])
    LOG.append(y)
    return y


def _trimmed_log(self: Any, y: Tensor) -> Any:
    self.log.append(y)
    if len(self.log) > 100:
        self.log.pop(0)
    self.kept.sums.append(1)
    self.kept.sums = self.kept.sums[-50:]
    while len(self.line) > 10:
        self.line.popleft()
    self.line.append(y)
    return y


def _logged_sometimes(self: Any, y: Tensor) -> Any:
    self.calls += 1
    if self.calls % 100 == 0:
        logging.getLogger("stateport.test").debug("%s calls", self.calls)
        self.log.append(f"{self.calls} calls")
    self.last.append("%d calls, %.1f" % (self.calls, self.calls / 2))  # noqa: UP031
    return y


def _timed_by_name(self: Any, y: Tensor) -> Any:
    """Its attributes have the same names as those of a stand-in for `time`."""
    self._value = self._name = time.time()
    return y


def _timed(self: Any, y: Tensor) -> Any:
    begin = time.perf_counter()
    y = y + 0
    self.last.append(time.perf_counter() - begin)
    self.own.mean = sum(self.last) / len(self.last)
    self.own.longest = max(self.last)
    self.kept.calls = datetime.now()
    return y


def _means(self: Any, y: Tensor) -> Any:
    self.calls += 1
    self.peak = self.peak * 0.9 + y.mean() * 0.1
    self.own.mean = self.peak / self.calls
    self.own.both = torch.tensor([self.calls, 1.0])
    return y


def _used_in_the_same_call(self: Any, y: Tensor) -> Any:
    self.kept.sums = [y.mean()]
    self.peak = y.detach().max()
    return y - self.kept.sums[0] + self.peak


def _table(self: Any, y: Tensor) -> Any:
    if self.stats.get(y.size(1)) is None:
        self.stats[y.size(1)] = torch.arange(y.size(1))[:, None]
    return y + self.stats[y.size(1)]


def _idle_chance(self: Any, y: Tensor) -> Any:
    if random.uniform(0, 1) < 0.1 and self.training:  # noqa: S311
        return y * 2
    return y


def _first_call(self: Any, y: Tensor) -> Any:
    if self.calls == 0:
        self.history = torch.ones(3)
    self.calls += 1
    return y * self.history


def _same_either_way(self: Any, y: Tensor) -> Any:
    self.calls += 1
    return y + y if self.calls % 2 else y * 2


def _identities(self: Any, y: Tensor) -> Any:
    self.own.calls = next(TICKS)
    self.own.spare = next(self.ticks)
    return y


HARMLESS: dict[str, Callable[[Any, Tensor], Any]] = {
    "only counted": _only_counted,
    "only logged": _only_logged,
    "trimmed log": _trimmed_log,
    "logged sometimes": _logged_sometimes,
    "timed": _timed,
    "timed by name": _timed_by_name,
    "means": _means,
    "used in the same call": _used_in_the_same_call,
    "table": _table,
    "idle chance": _idle_chance,
    "first call": _first_call,
    "same either way": _same_either_way,
    "identities": _identities,
}


@pytest.mark.filterwarnings("ignore:Pickle, copy, and deepcopy support:DeprecationWarning")
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_only_written_is_taken(name: str) -> None:
    _check(HARMLESS[name])


def test_an_export_leaves_what_the_network_changes_as_it_was(tmp_path: Path) -> None:
    network: Any = _network(lambda self, y: _only_logged(self, _only_counted(self, y)))
    before = len(LOG)
    export(network, (X,), tmp_path / "m.onnx")
    assert (network.calls, network.log, network.stats) == (0, [], {"calls": 0})
    assert (type(network).shared, len(LOG), network.array.tolist()) == (0, before, [0, 0])
    assert not {"len", "sum", "range"} & globals().keys()


class OnDemand(dict[str, str]):
    """A dict whose items are imported when they are asked for, if they are installed."""

    def __getitem__(self, key: str) -> Any:
        raise ImportError(f"{super().__getitem__(key)} is not installed")

    def values(self) -> Any:
        return [self[key] for key in self]

    def __iter__(self) -> Any:
        raise ImportError("nothing is installed")


KINDS = OnDemand(plain="plain_layers")


def _on_demand(self: Any, y: Tensor) -> Any:
    return y if "plain" in KINDS else -y


def test_containers_of_the_authors_own_are_not_made_to_compute(tmp_path: Path) -> None:
    network: Any = _network(_on_demand)
    network.kinds = KINDS
    report = export(network, (X,), tmp_path / "m.onnx").report
    assert report is not None
    assert report.passed


def test_modules_without_a_file_are_no_authors() -> None:
    assert not is_authors("")


def test_what_pytest_puts_into_an_assertion_is_no_code_of_the_author() -> None:
    def checked(self: Any, y: Tensor) -> Any:
        assert self.training is False
        return y

    functions = authored(_network(checked)).functions
    assert checked in functions
    assert not [each for each in functions if each.__module__.startswith(("_pytest", "pluggy"))]

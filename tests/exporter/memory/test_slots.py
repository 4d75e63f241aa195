"""Everything that a network may keep something in."""

# ruff: noqa: S311  # networks are told apart by small functions of the same arguments

from __future__ import annotations

import collections
import random
from typing import Any

import numpy as np
import torch
from torch import nn

from stateport_exporter.memory.contents import content
from stateport_exporter.memory.slots import contents, put_back_shared, slots
from tests.exporter.memory.networks import Keeping

KEPT: dict[str, Any] = {"list": [1], "tensor": torch.zeros(2), "deque": collections.deque([1])}
NUMBER = 1


def _look(net: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    return KEPT, NUMBER, y


def _changed(network: nn.Module, change: Any) -> set[str]:
    before = contents(network)
    change()
    after = contents(network)
    return {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}


def test_slots_are_named_as_people_write_them() -> None:
    network = Keeping(_look, kept={"a": [1, (2, 3)]}, weight=nn.Linear(2, 2))
    names = slots(network).keys()
    assert {"kept", "kept['a']", "kept['a'][1][0]", "weight.bias", "gru.hidden_size"} <= names
    assert {"NUMBER in test_slots.py", "KEPT in test_slots.py['list'][0]"} <= names
    assert not any("_modules" in name or "_forward_hooks" in name for name in names)


def test_each_slot_takes_another_value() -> None:
    network = Keeping(_look, kept={"a": [1, (2, 3)]})
    for name in ("kept['a'][1][0]", "kept['a'][0]", "kept"):
        slots(network)[name].put(9)
        assert slots(network)[name].value == 9


def test_a_write_is_seen_where_the_value_stays() -> None:
    network: Any = Keeping(_look, kept=torch.zeros(2))
    assert _changed(network, lambda: None) == set()
    assert _changed(network, lambda: network.kept.add_(0)) == {"kept"}
    assert _changed(network, lambda: setattr(network, "kept", torch.zeros(2))) == {"kept"}
    assert _changed(network, lambda: network.kept.numpy().fill(1)) == {"kept"}


def test_what_is_outside_is_put_back() -> None:
    before = [*KEPT["list"]], KEPT["tensor"].clone(), KEPT["tensor"]
    with put_back_shared(Keeping(_look)):
        globals()["NUMBER"] = 2
        KEPT["list"].append(2)
        KEPT["deque"].clear()
        KEPT["tensor"].add_(1)
        KEPT["more"] = 1
    assert NUMBER == 1
    assert KEPT["list"] == before[0]
    assert list(KEPT["deque"]) == [1]
    assert torch.equal(KEPT["tensor"], before[1])
    assert KEPT["tensor"] is before[2]
    assert KEPT.keys() == {"list", "tensor", "deque"}


def test_contents_tell_where_something_stands() -> None:
    generators: list[tuple[Any, Any]] = [
        (random.Random(0), lambda one: one.random()),
        (np.random.default_rng(0), lambda one: one.random()),
        (np.random.RandomState(0), lambda one: one.rand()),
        (torch.Generator(), lambda one: torch.rand(1, generator=one)),
        (iter([1, 2, 3]), next),
        ((n for n in range(3)), next),
    ]
    for generator, move in generators:
        before = content(generator)
        assert content(generator) == before
        move(generator)
        assert content(generator) != before
    assert content(float("nan")) == content(float("nan"))
    assert content(np.zeros(3)) == content(np.zeros(3))
    assert content(np.zeros(3)) != content(np.ones(3))

# SPDX-License-Identifier: Apache-2.0
"""A cache that grows with every call is refused for what it is; one of fixed length is a state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

import stateport
from stateport import InputError
from stateport.model_file.infer_contract import infer_contract
from stateport.model_file.onnx_outline import read
from stateport_exporter import add_contract, lift
from tests.exporter.test_contract_file import port, written

PAST, PRESENT = "past_key", "present_key"


def cache(
    path: Path,
    before: int | str | None,
    after: int | str | None,
    *,
    window: int = 0,
    copy: bool = False,
) -> Path:
    """Keys that are joined to a cache along axis 2; of a window, the last ones stay."""
    nodes = [helper.make_node("Concat", [PAST, "k"], ["all"], axis=2)]
    if window:
        nodes.append(helper.make_node("Slice", ["all", "from", "to", "ax"], [PRESENT]))
    elif copy:
        nodes.append(helper.make_node("Identity", ["all"], [PRESENT]))
    else:
        nodes[0].output[0] = PRESENT
    nodes.append(helper.make_node("ReduceSum", [nodes[0].output[0], "ax"], ["y"], keepdims=0))

    numbers = {"from": [-window or -1], "to": [1 << 40], "ax": [2]}
    weights = [numpy_helper.from_array(np.array(n), name) for name, n in numbers.items()]
    ins = [port("k", "batch", 2, "steps", 4), port(PAST, "batch", 2, before, 4)]
    outs = [port("y", "batch", 2, 4), port(PRESENT, "batch", 2, after, 4)]
    return written(path, nodes, ins, outs, weights)


@pytest.mark.parametrize(
    ("before", "after", "copy"),
    [
        ("past", "past + steps", False),
        ("past_sequence_length", "total_sequence_length", False),
        ("past", None, True),
        (None, None, False),
    ],
)
def test_it_is_refused_with_the_way_out(
    tmp_path: Path, before: int | str | None, after: int | str | None, copy: bool
) -> None:
    path = cache(tmp_path / "m.onnx", before, after, copy=copy)
    for states in (None, {PAST: PRESENT}):
        with pytest.raises(InputError, match=r"grows with every call.*cache of a fixed length"):
            infer_contract(read(path), states)
    with pytest.raises(InputError, match="grows with every call"):
        stateport.load(path, states={PAST: PRESENT})
    with pytest.raises(InputError, match="grows with every call"):
        add_contract(path, tmp_path / "c.onnx", states={PAST: PRESENT})
    with pytest.raises(InputError, match="grows with every call"):
        lift(path, tmp_path / "l.onnx", states={PAST: PRESENT})


def test_the_name_of_a_sum_is_enough(tmp_path: Path) -> None:
    """As where the join is in the branch of an If, which is not looked into."""
    nodes = [helper.make_node("Tile", [PAST, "twice"], [PRESENT])]
    twice = numpy_helper.from_array(np.array([1, 1, 2, 1]), "twice")
    path = written(
        tmp_path / "m.onnx",
        nodes,
        [port("x", "batch", 1), port(PAST, "batch", 2, "past", 4)],
        [port(PRESENT, "batch", 2, "past + 1", 4)],
        [twice],
    )
    with pytest.raises(InputError, match="grows"):
        stateport.load(path, states={PAST: PRESENT})


def test_a_window_of_fixed_length_is_a_state(tmp_path: Path) -> None:
    path = cache(tmp_path / "m.onnx", 3, 3, window=3)
    model = stateport.load(path, states={PAST: PRESENT})
    k = np.ones((1, 2, 2, 4), "f4")
    _, state = model(k)
    y, _ = model(k, state)
    np.testing.assert_array_equal(y, np.full((1, 2, 4), 4))


def test_a_window_whose_length_is_open_does_not_grow(tmp_path: Path) -> None:
    path = cache(tmp_path / "m.onnx", "window", "window", window=3)
    assert infer_contract(read(path), {PAST: PRESENT}).states[0].shape == ("batch", 2, "window", 4)

# SPDX-License-Identifier: Apache-2.0
"""A cache that grows with every call is refused for what it is; one of fixed length is a state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

import stateport
from stateport import InputError
from stateport.model_file.infer_contract import infer_contract
from stateport.model_file.onnx_outline import read
from stateport_exporter import ExportError, Spec, add_contract, export, lift
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


Join = Callable[[Tensor, Tensor], Tensor]
X, STEP = Spec("float32", "batch", "time", 4), Spec("float32", "batch", 1, 4)
CACHE = Spec("float32", "batch", "past", 4)


class Attention(nn.Module):
    """Attends to all keys and values of former calls, which it returns with its own."""

    def __init__(self, join: Join = lambda past, new: torch.cat([past, new], 1)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.join = join

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor]) -> Any:
        past_k, past_v = past
        k, v = self.join(past_k, self.k(x)), self.join(past_v, self.v(x))
        return (self.q(x) @ k.transpose(1, 2)).softmax(-1) @ v, (k, v)


@pytest.mark.parametrize("x", [X, STEP])
@pytest.mark.parametrize(
    "join",
    [
        lambda past, new: torch.cat([past, new], 1),
        lambda past, new: torch.cat([new, past], 1),
        lambda past, new: torch.cat([past, new, new], 1),
    ],
)
def test_a_network_with_one_is_refused_with_the_ways_out(
    x: Spec, join: Join, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    for states in (None, {"past.0": "2"}, {"past.1": None}):
        with pytest.raises(ExportError) as error:
            export(Attention(join).eval(), (x, (CACHE, CACHE)), path, states=states)
        text = str(error.value)
        assert "The argument 'past.0' grows with every call: it is float32[batch, past, 4]" in text
        assert "the last entries along axis 1 alone" in text
        assert text.endswith(
            "pass states={'past.0': None, 'past.1': None} (--no-state past.0 --no-state past.1)."
        )
    assert not path.exists()


@pytest.mark.parametrize("x", [X, STEP])
def test_it_is_an_ordinary_input_where_the_caller_asks_for_it(x: Spec, tmp_path: Path) -> None:
    network = Attention().eval()
    states = {"past.0": None, "past_1": None}
    result = export(network, (x, (CACHE, CACHE)), tmp_path / "m.onnx", states=states)
    contract = result.contract
    assert contract.states == ()
    assert contract.streaming.ok is False
    assert str(contract.streaming.reason).endswith("grow with every call, and no state does")

    model = stateport.load(result.path)
    random = np.random.default_rng(0)
    new, k, v = (random.standard_normal((2, n, 4)).astype("f4") for n in (1, 5, 5))
    names = [spec.name for spec in contract.inputs]
    outputs, _ = model.run(dict(zip(names, (new, k, v), strict=True)))
    with torch.no_grad():
        y, (expected_k, expected_v) = network(
            torch.from_numpy(new), (torch.from_numpy(k), torch.from_numpy(v))
        )
    for actual, expected in zip(outputs.values(), (y, expected_k, expected_v), strict=True):
        np.testing.assert_allclose(actual, expected.numpy(), atol=1e-6)


class WithToken(nn.Module):
    """Puts a learned token before the memory of an encoder, and returns both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.token = nn.Linear(4, 4), nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor, memory: Tensor) -> Any:
        memory = torch.cat([self.token.expand(x.shape[0], 1, 4), memory], 1)
        return (self.q(x) @ memory.transpose(1, 2)).softmax(-1) @ memory, memory


def test_what_gets_the_same_in_every_call_is_no_cache(tmp_path: Path) -> None:
    result = export(WithToken().eval(), (STEP, CACHE), tmp_path / "m.onnx")
    assert result.contract.outputs[1].shape == ("batch", "past + 1", 4)


def test_a_window_and_a_padded_result_do_not_grow(tmp_path: Path) -> None:
    window = Spec("float32", "batch", 3, 4)
    last = Attention(lambda past, new: torch.cat([past, new], 1)[:, -3:]).eval()
    result = export(last, (STEP, (window, window)), tmp_path / "m.onnx")
    assert len(result.contract.states) == 2

    padded = nn.ConstantPad1d((0, 2), 0.0)
    signal = Spec("float32", "batch", 3, "frames")
    contract = export(padded, (signal,), tmp_path / "p.onnx").contract
    assert contract.outputs[0].shape == ("batch", 3, "frames + 2")

"""The pool: many live sequences in one batch. Each gives what its own stream gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import stateport
from stateport import (
    ArraySpec,
    Contract,
    EngineError,
    InputError,
    Model,
    Pool,
    State,
    StateError,
    StateSpec,
    Stream,
    StreamingError,
)
from stateport.buffers.pool_buffers import PoolBuffers
from stateport_exporter import Spec, export

Array = NDArray[np.float32]
Build = Callable[..., Path]

#: In batches of other sizes ONNX Runtime sums in another order.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def model(reference: Path) -> Model:
    return stateport.load(reference)


def normal(rows: int, time: int = 1, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, time, 5), np.float32)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=CLOSE)


class PoolBesideStreams(RuleBasedStateMachine):
    """A pool, and beside it a separate stream for each stream of the pool."""

    model: Model

    @initialize(capacity=st.integers(1, 9))
    def start(self, capacity: int) -> None:
        self.pool = self.model.pool(capacity)
        self.beside: dict[int, Stream] = {}
        self.seed = 0

    @precondition(lambda self: self.beside)
    @rule(data=st.data(), count=st.integers(1, 3))
    def fork(self, data: st.DataObject, count: int) -> None:
        stream = data.draw(st.sampled_from(sorted(self.beside)))
        if len(self.pool) + count > self.pool.capacity:
            with pytest.raises(InputError, match=f"this pool holds {self.pool.capacity}"):
                self.pool.fork(stream, count)
            return

        copies = self.pool.fork(stream, count)
        for each in copies.tolist():
            self.beside[each] = self.model.stream()
            self.beside[each].restore(self.pool[stream].state)

    @rule(count=st.integers(1, 4))
    def open(self, count: int) -> None:
        if len(self.pool) + count > self.pool.capacity:
            with pytest.raises(InputError, match=f"this pool holds {self.pool.capacity}"):
                self.pool.open(count)
            return
        opened = self.pool.open(count)
        assert not set(opened.tolist()) & self.beside.keys()
        for stream in opened.tolist():
            self.beside[stream] = self.model.stream()

    @rule()
    def open_one(self) -> None:
        if len(self.pool) < self.pool.capacity:
            self.beside[self.pool.open()] = self.model.stream()

    @precondition(lambda self: self.beside)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        closed = data.draw(st.sets(st.sampled_from(sorted(self.beside)), min_size=1))
        self.pool.close(sorted(closed))
        for stream in closed:
            del self.beside[stream]
            with pytest.raises(InputError, match=f"no open stream {stream}"):
                self.pool.step([stream], normal(1))

    @precondition(lambda self: self.beside)
    @rule(time=st.integers(1, 3))
    def step_all(self, time: int) -> None:
        self.step(self.pool.streams.tolist(), time)

    @precondition(lambda self: self.beside)
    @rule(data=st.data(), time=st.integers(1, 3))
    def step_some(self, data: st.DataObject, time: int) -> None:
        streams = data.draw(st.lists(st.sampled_from(sorted(self.beside)), min_size=1, unique=True))
        self.step(streams, time)

    def step(self, streams: list[int], time: int) -> None:
        self.seed += 1
        xs = normal(len(streams), time, self.seed)
        ys = self.pool.step(streams, xs)
        for number, stream in enumerate(streams):
            close(ys[number : number + 1], self.beside[stream](xs[number : number + 1]))

    @precondition(lambda self: self.beside)
    @rule(data=st.data())
    def step_at_different_lengths(self, data: st.DataObject) -> None:
        streams = data.draw(st.lists(st.sampled_from(sorted(self.beside)), min_size=1, unique=True))
        self.seed += 1
        xs = [normal(1, data.draw(st.integers(1, 3)), self.seed)[0] for _ in streams]
        for stream, x, y in zip(streams, xs, self.pool.step(streams, xs), strict=True):
            close(y, self.beside[stream](x[None])[0])

    @precondition(lambda self: self.beside)
    @rule(data=st.data())
    def move_a_state(self, data: st.DataObject) -> None:
        one, other = (data.draw(st.sampled_from(sorted(self.beside))) for _ in range(2))
        self.pool[other].state = self.pool[one].state
        self.beside[other].restore(self.pool[one].state)
        close(*(self.pool[stream].state["h0"] for stream in (one, other)))

    @invariant()
    def the_same_streams_are_open(self) -> None:
        assert len(self.pool) == len(self.beside)
        assert set(self.pool.streams.tolist()) == self.beside.keys()


def test_every_stream_gives_what_a_stream_of_its_own_gives(model: Model) -> None:
    class Machine(PoolBesideStreams):
        pass

    Machine.model = model
    case = Machine.TestCase
    case.settings = settings(max_examples=40, stateful_step_count=25)
    case().runTest()


def test_a_thousand_streams_opened_fed_and_closed_in_any_order(model: Model) -> None:
    random = np.random.default_rng(0)
    pool, beside = model.pool(1000), dict[int, Stream]()
    for turn in range(60):
        new: Any = pool.open(int(random.integers(1, 1001 - len(pool)))) if len(pool) < 1000 else []
        beside |= {stream: model.stream() for stream in np.asarray(new).tolist()}
        streams = random.permutation(pool.streams)[: random.integers(1, len(pool) + 1)]
        xs = normal(len(streams), seed=turn)
        ys = pool.step(streams, xs)
        expected = [beside[s](xs[i : i + 1])[0] for i, s in enumerate(streams.tolist())]
        close(ys, expected)
        gone = random.permutation(pool.streams)[: random.integers(1, len(pool) + 1)]
        pool.close(gone)
        for stream in gone.tolist():
            del beside[stream]


def test_a_row_that_is_used_again_starts_from_the_first_state(model: Model) -> None:
    pool, x = model.pool(1), normal(1, 3)
    one = pool.open()
    first = pool.step([one], x)
    assert not np.array_equal(pool.step([one], x), first)
    pool.close(one)
    other = pool.open()
    assert other != one
    np.testing.assert_array_equal(pool.step([other], x), first)


class Learned(torch.nn.Module):
    """Its first state is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(5, 4, batch_first=True)
        self.first = torch.nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: torch.Tensor) -> Any:
        return self.gru(x, self.first.expand(-1, x.size(0), -1).contiguous())[0]


def test_a_stream_begins_from_the_first_state_of_the_file(tmp_path: Path) -> None:
    x = Spec("float32", "batch", "time", 5)
    model = stateport.load(export(Learned(), (x,), tmp_path / "m.onnx", check=False).path)
    pool, chunk = model.pool(4), normal(2, 3)
    pool.step(pool.open(2), chunk)
    close(pool.step(pool.open(2), chunk), model(chunk)[0])


def test_a_failing_call_changes_no_state(counter: Path) -> None:
    pool = stateport.load(counter).pool(3)
    streams = pool.open(3)
    np.testing.assert_array_equal(pool.step(streams, np.array([0, 1, 2]))[:, 0], [1, 2, 3])
    for chosen, x in ((streams, [0, 1, 9]), (streams[:2], [0, 9]), (streams[::-1], [9, 0, 0])):
        with pytest.raises(EngineError):
            pool.step(chosen, np.array(x))
        states = [pool[int(stream)].state["h0"][0, 0] for stream in streams]
        assert states == [1, 2, 3]
    np.testing.assert_array_equal(pool.step(streams, np.array([0, 0, 0]))[:, 0], [2, 3, 4])


def test_an_output_is_the_callers_to_keep(model: Model) -> None:
    pool = model.pool(4)
    streams = pool.open(4)
    for chosen in (streams, streams[:3]):
        y = pool.step(chosen, normal(len(chosen)))
        before = y.copy()
        pool.step(chosen, normal(len(chosen), seed=1))
        np.testing.assert_array_equal(y, before)


def test_several_outputs_and_inputs_go_by_name(build: Build) -> None:
    a, b, total, difference = (
        ArraySpec(name, "float32", ("batch", 2)) for name in ("a", "b", "sum", "difference")
    )
    carried = StateSpec("t0", "tn", "float32", ("batch", 2))
    nodes = [
        helper.make_node("Sum", ["a", "b", "t0"], ["tn"]),
        helper.make_node("Identity", ["tn"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    path = build(Contract((a, b), (total, difference), (carried,)), nodes)
    pool = stateport.load(path).pool(2)
    streams = pool.open(2)
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    outputs = pool.step(streams, {"a": x, "b": 10 * x})
    np.testing.assert_array_equal(outputs["sum"], 11 * x)
    np.testing.assert_array_equal(outputs["difference"], -9 * x)
    outputs = pool.step(streams[1:], {"a": x[:1], "b": x[:1]})
    np.testing.assert_array_equal(outputs["sum"], [[35, 48]])
    with pytest.raises(InputError, match=r"pass them by name: step\(streams, \{name: array\}\)"):
        pool.step(streams, x)


def test_the_order_of_named_inputs_does_not_matter(build: Build) -> None:
    a, b = (ArraySpec(name, "float32", ("batch", f"of_{name}")) for name in "ab")
    y = ArraySpec("y", "float32", ("batch", 1))
    nodes = [
        helper.make_node("ReduceSum", ["a", "axis"], ["of_a"]),
        helper.make_node("ReduceSum", ["b", "axis"], ["of_b"]),
        helper.make_node("Mul", ["of_b", "ten"], ["tens"]),
        helper.make_node("Sum", ["of_a", "tens", "h0"], ["hn"]),
        helper.make_node("Identity", ["hn"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1]), "axis"),
        numpy_helper.from_array(np.array([10], np.float32), "ten"),
    ]
    contract = Contract((a, b), (y,), (StateSpec("h0", "hn", "float32", ("batch", 1)),))
    pool = stateport.load(build(contract, nodes, initializers=constants)).pool(1)
    stream, one, three = pool.open(), np.ones((1, 1), np.float32), np.ones((1, 3), np.float32)
    assert pool.step([stream], {"a": three, "b": one}) == 13
    assert pool.step([stream], {"b": three, "a": one}) == 13 + 31


def refuse(pool: Pool, streams: Any, xs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pool.step(streams, xs)


def test_a_message_about_a_chunk_names_its_stream_and_its_own_shape(model: Model) -> None:
    pool = model.pool(2)
    a, b = pool.open(2).tolist()
    wrong = np.zeros((3, 4), np.float32)
    refuse(
        pool,
        [a, b],
        [normal(1)[0], wrong],
        rf"Stream {b}: 'x' is float32\[3, 4\]; the model takes float32\[time, 5\]",
    )


def test_a_step_can_return_the_errors_of_the_streams_that_do_not_fit(model: Model) -> None:
    pool, alone = model.pool(8), model.pool(2)
    a, b, c, closed = pool.open(4).tolist()
    pool.close(closed)
    first, second = normal(1, 2)[0], normal(1, 3, seed=1)[0]
    before = pool[c].state

    ys = pool.step(
        [a, c, closed, b, a], [first, first[:, :4], first, second, first], errors="return"
    )
    p, q = alone.open(2).tolist()
    expected = alone.step([p, q], [first, second])
    close(ys[0], expected[0])
    close(ys[3], expected[1])
    assert [type(y) for y in ys[1:3]] == [InputError, InputError]
    assert f"Stream {c}: 'x' is float32[2, 4]" in str(ys[1])
    assert f"no open stream {closed} " in str(ys[2])
    assert f"stream {a} is named twice" in str(ys[4])
    assert pool[c].state == before
    assert pool[a].state == alone[p].state
    assert pool[b].state == alone[q].state


def test_a_step_in_which_nothing_fits_changes_nothing(model: Model) -> None:
    pool = model.pool(1)
    a = pool.open()
    before = pool[a].state
    (error,) = pool.step([a], [3], errors="return")  # type: ignore[list-item]
    assert isinstance(error, InputError)
    assert pool[a].state == before


@pytest.mark.parametrize(
    ("xs", "errors", "message"),
    [
        (normal(1), "return", "a list with one chunk for each stream"),
        ([normal(1)[0]], "ignore", "errors is 'ignore'; 'raise' or 'return' was expected"),
        ([], "return", "1 streams are named, but xs has 0 chunks"),
    ],
    ids=["array", "word", "count"],
)
def test_wrong_uses_of_errors_are_refused(model: Model, xs: Any, errors: Any, message: str) -> None:
    pool = model.pool(1)
    a = pool.open()
    with pytest.raises(InputError, match=message):
        pool.step([a], xs, errors=errors)


def test_a_stream_of_a_pool_is_restored_and_reset_like_a_stream(model: Model) -> None:
    pool, stream = model.pool(2), model.stream()
    a, b = pool.open(2).tolist()
    stream(normal(1))
    pool[a].restore(stream.state)
    close(pool.step([a], normal(1)), stream(normal(1)))
    pool[a].reset()
    assert pool[a].state == pool[b].state
    assert repr(pool[a]) == f"<stateport.PoolStream {a}, open>"
    closed = pool[a]
    pool.close(a)
    assert repr(closed) == f"<stateport.PoolStream {a}, closed>"
    for call in (closed.reset, lambda: closed.restore(stream.state)):
        with pytest.raises(InputError, match=f"no open stream {a} "):
            call()


@pytest.mark.parametrize("engine", ["ort-cpu", "openvino", "tract", "onnx-reference"])
def test_a_fork_goes_on_from_the_present_state(reference: Path, engine: str) -> None:
    pool = stateport.load(reference, engine=engine).pool(4)
    first = pool.open()
    pool.step([first], normal(1, 3))
    second = pool.fork(first)
    assert pool[second].state == pool[first].state
    close(*pool.step([first, second], np.repeat(normal(1, 2, 1), 2, axis=0)))

    pool.step([second], normal(1, 1, 2))
    assert pool[second].state != pool[first].state
    assert len(pool.fork(second, 2)) == 2
    with pytest.raises(InputError, match="this pool holds 4"):
        pool.fork(first)
    with pytest.raises(InputError, match="count is 0"):
        pool.fork(first, 0)
    pool.close(first)
    with pytest.raises(InputError, match=f"no open stream {first}"):
        pool.fork(first)


def test_wrong_streams_and_chunks_are_refused(model: Model) -> None:
    pool = model.pool(4)
    nothing = np.zeros(0, np.int64)
    refuse(pool, nothing, normal(1), "at least one")
    a, b = pool.open(), pool.open()
    refuse(pool, nothing, normal(1), "at least one")
    refuse(pool, [], normal(1), "at least one")
    refuse(pool, [0.5], normal(1), "integers that open")
    refuse(pool, ["a"], normal(1), "integers that open")
    refuse(pool, [a, 17], normal(2), "no open stream 17 in this pool")
    refuse(pool, [-1], normal(1), "no open stream -1")
    refuse(pool, [2], normal(1), "no open stream 2 ")
    refuse(pool, [a, a], normal(2), f"stream {a} is named twice")
    refuse(pool, [b, a, b], normal(3), f"stream {b} is named twice")
    refuse(pool, [a, b], normal(3), "3 rows along the batch axis, but 2 streams")
    refuse(pool, [a, b], normal(2).astype(np.float64), "float64.*the model takes float32")
    refuse(pool, [a, b], [normal(1)[0]], "2 streams are named, but xs has 1 chunks")
    refuse(pool, [a, b], [normal(1)[0], 3], "'x' is a int; a NumPy array")
    refuse(pool, [a, b], [normal(1)[0], normal(1)], rf"Stream {b}: 'x' is float32\[1, 1, 5\]")
    refuse(pool, [a, b], "text", "'x' is a str")
    with pytest.raises(InputError, match="named twice"):
        pool.close([a, a])
    holed = model.pool(2)
    first, second = holed.open(2).tolist()
    holed.close(first)
    refuse(holed, [2], normal(1), "no open stream 2 ")
    refuse(holed, [first], normal(1), f"no open stream {first} ")
    refuse(holed, nothing, normal(1), "at least one")
    assert second in holed
    assert 2 not in holed
    assert sorted(pool.streams.tolist()) == sorted([a, b])
    with pytest.raises(InputError, match="no open stream 3"):
        pool[3]
    with pytest.raises(StateError, match="'h0' is float32"):
        pool[a].state = State({n: np.zeros((1, 2, 10), np.float32) for n in ("h0", "c0")})
    for stream in (2**62, -(2**62), 4, 5):
        refuse(pool, [stream], normal(1), f"no open stream {stream} ")
    for count in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="number of streams"):
            pool.open(count)  # type: ignore[arg-type]
    for capacity in (0, 2.0, None):
        with pytest.raises(InputError, match="largest number of streams"):
            model.pool(capacity)  # type: ignore[arg-type]


def test_a_network_that_cannot_be_a_row_of_a_batch_is_refused(
    exported: Callable[..., Path], build: Build
) -> None:
    with pytest.raises(StreamingError, match="backward half"):
        stateport.load(exported(bidirectional=True)).pool(4)
    x, y = (ArraySpec(name, "float32", (2,)) for name in "xy")
    nodes = [
        helper.make_node("Add", ["x", "h0"], ["hn"]),
        helper.make_node("Identity", ["hn"], ["y"]),
    ]
    path = build(Contract((x,), (y,), (StateSpec("h0", "hn", "float32", (2,)),)), nodes)
    with pytest.raises(StreamingError, match=r"no axis 'batch' of its own.*Stream for each"):
        stateport.load(path).pool(4)


def test_a_capacity_costs_nothing_until_it_is_used(model: Model) -> None:
    pool = model.pool(10**15)
    first, rest = pool.open(), pool.open(40)
    assert [first, *rest] == list(range(41))
    close(pool.step(pool.streams, normal(41)), model(normal(41))[0])
    refuse(pool, [41], normal(1), "no open stream 41 ")


def test_opening_streams_one_by_one_copies_the_others_rarely(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of streams that arrive one after the other would copy each other's states."""
    copied = []
    resized = PoolBuffers.resized

    def counted(buffers: PoolBuffers, rows: int) -> PoolBuffers:
        copied.append(buffers.rows)
        return resized(buffers, rows)

    monkeypatch.setattr(PoolBuffers, "resized", counted)
    pool = model.pool(1000)
    for _ in range(1000):
        pool.open()
    assert sum(copied) < 2 * 1000


def test_pools_of_one_model_do_not_see_each_other(model: Model) -> None:
    one, other = model.pool(2), model.pool(2)
    a, b = one.open(2), other.open(2)
    first = one.step(a, normal(2))
    np.testing.assert_array_equal(other.step(b, normal(2)), first)
    assert repr(one) == "<stateport.Pool of 2 streams, at most 2>"
